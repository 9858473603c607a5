//! The life of a mapping after somebody wants it gone, as a state machine without I/O.
//!
//! `Mapped → Unmapping → Released`. The machine says what to do, one thing at a time; whoever drives
//! it (the mapper, a simulation, a model checker) performs it and reports how it went. It encodes
//! the order that gntdev needs: arm the release notice while the range can still be named, then
//! munmap, then UNMAP_GRANT_REF; and it never waits for anybody.

use crate::machine::{Machine, Now};

/// Where a mapping stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnmapState {
    /// In use here.
    Mapped,
    /// Gone from this address space; the hypervisor still counts it, because somebody holds its pages.
    Unmapping,
    /// The hypervisor has unmapped it: the granter may reuse the pages.
    Released,
}

/// What happens to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The owner wants it gone. A handle is unmapped once, however often this comes.
    Begin {
        /// The release is to be told by event.
        notice: bool,
    },
    /// An action was performed.
    ///
    /// A failed notice costs the news, never the unmap (a driver may rather stop there, while nothing
    /// is done). Who drives the machine reports a failed munmap or give-back to his caller, and the
    /// rest is done all the same. What was not given back goes when the file is closed or the process
    /// dies, so nobody will tell.
    Done {
        /// Which.
        action: Action,
        /// Did it succeed?
        ok: bool,
    },
    /// The release event came. Counts only once the range was given back: an event before that is
    /// a stray one (a bind raises its port once), and releases nothing.
    Event,
}

/// What to do. The first three are answered with [`Input::Done`]; there is never more than one of
/// them to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `SET_UNMAP_NOTIFY` with the release event.
    ArmNotice,
    /// `munmap` of the whole range.
    Munmap,
    /// `UNMAP_GRANT_REF`.
    GiveBack,
    /// The notice that was armed will not come: wait for it no longer.
    ForgetNotice,
    /// It is over: tell who waits.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    InUse,
    /// This is being done.
    Does(Action),
    AwaitsRelease,
}

/// One mapping's unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnmapMachine {
    at: At,
    released: bool,
    noticed: bool,
}

impl Default for UnmapMachine {
    fn default() -> Self {
        UnmapMachine {
            at: At::InUse,
            released: false,
            noticed: false,
        }
    }
}

impl Machine for UnmapMachine {
    type Input = Input;
    type Action = Action;

    /// It knows no time.
    fn step(&mut self, _: Now, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Begin { notice } if self.at == At::InUse => {
                let first = if notice {
                    Action::ArmNotice
                } else {
                    Action::Munmap
                };
                self.act(first, actions);
            }
            Input::Begin { .. } => {}
            Input::Done { action, ok } => self.done(action, ok, actions),
            Input::Event => {
                if self.at == At::AwaitsRelease && self.noticed && !self.released {
                    self.released = true;
                    actions.push(Action::Released);
                }
            }
        }
    }
}

impl UnmapMachine {
    /// A mapping in use.
    pub fn new() -> Self {
        Self::default()
    }

    fn act(&mut self, action: Action, actions: &mut Vec<Action>) {
        self.at = At::Does(action);
        actions.push(action);
    }

    fn done(&mut self, action: Action, ok: bool, actions: &mut Vec<Action>) {
        debug_assert_eq!(self.at, At::Does(action), "performed in order");
        match action {
            Action::ArmNotice => {
                self.noticed = ok;
                self.act(Action::Munmap, actions);
            }
            Action::Munmap => self.act(Action::GiveBack, actions),
            Action::GiveBack => {
                self.at = At::AwaitsRelease;
                if self.noticed && !ok {
                    self.noticed = false;
                    actions.push(Action::ForgetNotice);
                }
            }
            Action::ForgetNotice | Action::Released => {}
        }
    }

    /// Will the release be told?
    pub fn is_noticed(&self) -> bool {
        self.noticed
    }

    /// Where it stands.
    pub fn state(&self) -> UnmapState {
        match (self.released, self.at) {
            (true, _) => UnmapState::Released,
            (false, At::Does(Action::GiveBack) | At::AwaitsRelease) => UnmapState::Unmapping,
            (false, _) => UnmapState::Mapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Input = Input::Begin { notice: true };

    fn step(machine: &mut UnmapMachine, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        machine.step(Now::ZERO, input, &mut actions);
        actions
    }

    fn done(machine: &mut UnmapMachine, action: Action, ok: bool) -> Vec<Action> {
        step(machine, Input::Done { action, ok })
    }

    /// Performs what there is to do, and what follows from it.
    fn drive(machine: &mut UnmapMachine, mut actions: Vec<Action>) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(action) = actions.pop() {
            all.push(action);
            actions.extend(done(machine, action, true));
        }
        all
    }

    #[test]
    fn the_order_is_notice_munmap_give_back() {
        let mut machine = UnmapMachine::new();
        assert_eq!(
            machine.state(),
            UnmapState::Mapped,
            "nothing happens before begin"
        );
        let first = step(&mut machine, BEGIN);
        assert_eq!(step(&mut machine, BEGIN), []);
        assert_eq!(
            drive(&mut machine, first),
            [Action::ArmNotice, Action::Munmap, Action::GiveBack]
        );
        assert_eq!(machine.state(), UnmapState::Unmapping);
        assert_eq!(step(&mut machine, Input::Event), [Action::Released]);
        assert_eq!(machine.state(), UnmapState::Released);
        assert_eq!(step(&mut machine, BEGIN), [], "a handle is unmapped once");
        assert_eq!(machine.state(), UnmapState::Released);
        assert_eq!(step(&mut machine, Input::Event), [], "it is told once");
    }

    #[test]
    fn an_event_before_the_range_is_given_back_releases_nothing() {
        let mut machine = UnmapMachine::new();
        assert_eq!(step(&mut machine, Input::Event), []);
        let mut actions = step(&mut machine, BEGIN);
        for _ in 0..3 {
            assert_eq!(step(&mut machine, Input::Event), []);
            assert_ne!(machine.state(), UnmapState::Released);
            let action = actions.pop().expect("one thing to do");
            actions.extend(done(&mut machine, action, true));
        }
        assert_eq!(step(&mut machine, Input::Event), [Action::Released]);
        assert_eq!(machine.state(), UnmapState::Released);
    }

    #[test]
    fn without_a_notice_nobody_claims_to_know() {
        let mut machine = UnmapMachine::new();
        step(&mut machine, BEGIN);
        let next = done(&mut machine, Action::ArmNotice, false);
        assert_eq!(
            drive(&mut machine, next),
            [Action::Munmap, Action::GiveBack]
        );
        assert_eq!(step(&mut machine, Input::Event), []);
        assert_eq!(machine.state(), UnmapState::Unmapping);
    }

    #[test]
    fn what_could_not_be_given_back_is_not_told_of() {
        let mut machine = UnmapMachine::new();
        step(&mut machine, BEGIN);
        done(&mut machine, Action::ArmNotice, true);
        done(&mut machine, Action::Munmap, true);
        assert!(machine.is_noticed());
        assert_eq!(
            done(&mut machine, Action::GiveBack, false),
            [Action::ForgetNotice]
        );
        assert!(!machine.is_noticed());
    }
}
