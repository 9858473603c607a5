//! The life of a mapping after somebody wants it gone, as a state machine without I/O.
//!
//! `Mapped → Unmapping → Released`. The machine says which step is next; whoever drives it (the
//! mapper, a simulation, a model checker) performs the step and reports how it went. It encodes
//! the order that gntdev needs: arm the release notice while the range can still be named, then
//! munmap, then UNMAP_GRANT_REF; and it never waits for anybody.

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

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnmapStep {
    /// Nothing: in use.
    None,
    /// `SET_UNMAP_NOTIFY` with the release event.
    ArmNotice,
    /// `munmap` of the whole range.
    Munmap,
    /// `UNMAP_GRANT_REF`.
    GiveBack,
    /// Nothing but wait for the release event.
    AwaitRelease,
}

/// One mapping's unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnmapMachine {
    next: UnmapStep,
    released: bool,
    noticed: bool,
}

impl Default for UnmapMachine {
    fn default() -> Self {
        UnmapMachine {
            next: UnmapStep::None,
            released: false,
            noticed: false,
        }
    }
}

impl UnmapMachine {
    /// A mapping in use.
    pub fn new() -> Self {
        Self::default()
    }

    /// The owner wants it gone. With `notice`, the release will be told by event. Idempotent: a
    /// handle is unmapped once, however often this is called.
    pub fn begin(&mut self, notice: bool) {
        if self.next == UnmapStep::None && !self.released {
            self.next = if notice {
                UnmapStep::ArmNotice
            } else {
                UnmapStep::Munmap
            };
        }
    }

    /// The step that must be performed now.
    pub fn next(&self) -> UnmapStep {
        self.next
    }

    /// The step was performed. A failed notice costs the news, never the unmap (a driver may rather
    /// stop there, while nothing is done); a failed munmap or give-back is reported to the caller by
    /// its driver, and the rest is done all the same. What was not given back goes when the file is
    /// closed or the process dies, so nobody will tell.
    pub fn done(&mut self, step: UnmapStep, ok: bool) {
        debug_assert_eq!(step, self.next, "steps are performed in order");
        self.noticed &= ok || step != UnmapStep::GiveBack;
        self.next = match step {
            UnmapStep::None => UnmapStep::None,
            UnmapStep::ArmNotice => {
                self.noticed = ok;
                UnmapStep::Munmap
            }
            UnmapStep::Munmap => UnmapStep::GiveBack,
            UnmapStep::GiveBack | UnmapStep::AwaitRelease => UnmapStep::AwaitRelease,
        };
    }

    /// The release event came. Counts only once the range was given back: an event before that is
    /// a stray one (a bind raises its port once), and releases nothing.
    pub fn event(&mut self) {
        if self.next == UnmapStep::AwaitRelease && self.noticed {
            self.released = true;
        }
    }

    /// Will the release be told?
    pub fn is_noticed(&self) -> bool {
        self.noticed
    }

    /// Where it stands.
    pub fn state(&self) -> UnmapState {
        match (self.released, self.next) {
            (true, _) => UnmapState::Released,
            (false, UnmapStep::None | UnmapStep::ArmNotice | UnmapStep::Munmap) => {
                UnmapState::Mapped
            }
            (false, UnmapStep::GiveBack | UnmapStep::AwaitRelease) => UnmapState::Unmapping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(machine: &mut UnmapMachine) -> Vec<UnmapStep> {
        let mut steps = Vec::new();
        while !matches!(machine.next(), UnmapStep::None | UnmapStep::AwaitRelease) {
            let step = machine.next();
            steps.push(step);
            machine.done(step, true);
        }
        steps
    }

    #[test]
    fn the_order_is_notice_munmap_give_back() {
        let mut machine = UnmapMachine::new();
        assert!(
            drive(&mut machine).is_empty(),
            "nothing happens before begin"
        );
        machine.begin(true);
        machine.begin(true);
        assert_eq!(
            drive(&mut machine),
            [UnmapStep::ArmNotice, UnmapStep::Munmap, UnmapStep::GiveBack]
        );
        assert_eq!(machine.state(), UnmapState::Unmapping);
        machine.event();
        assert_eq!(machine.state(), UnmapState::Released);
        machine.begin(true);
        assert_eq!(
            machine.state(),
            UnmapState::Released,
            "a handle is unmapped once"
        );
    }

    #[test]
    fn an_event_before_the_range_is_given_back_releases_nothing() {
        let mut machine = UnmapMachine::new();
        machine.event();
        machine.begin(true);
        for _ in 0..3 {
            machine.event();
            assert_ne!(machine.state(), UnmapState::Released);
            let step = machine.next();
            machine.done(step, true);
        }
        machine.event();
        assert_eq!(machine.state(), UnmapState::Released);
    }

    #[test]
    fn without_a_notice_nobody_claims_to_know() {
        let mut machine = UnmapMachine::new();
        machine.begin(true);
        machine.done(UnmapStep::ArmNotice, false);
        assert_eq!(
            drive(&mut machine),
            [UnmapStep::Munmap, UnmapStep::GiveBack]
        );
        machine.event();
        assert_eq!(machine.state(), UnmapState::Unmapping);
    }

    #[test]
    fn what_could_not_be_given_back_is_not_told_of() {
        let mut machine = UnmapMachine::new();
        machine.begin(true);
        machine.done(UnmapStep::ArmNotice, true);
        machine.done(UnmapStep::Munmap, true);
        assert!(machine.is_noticed());
        machine.done(UnmapStep::GiveBack, false);
        assert!(!machine.is_noticed());
    }
}
