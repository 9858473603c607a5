//! The back end beside front ends of other makes, which know nothing of a restarted back end: a
//! ring that they believe in has to be taken over as it stands.

use super::super::XenbusState::{
    self, Closed, Closing, Connected, InitWait, Initialised, Initialising,
};
use super::super::{SwitchState, back};
use crate::testing::step;
use crate::testing::{Finding, Rules, search};

/// How a front end gets to Connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Make {
    /// Waits for InitWait, goes to Initialised, and follows the back end to Connected (Linux).
    Linux,
    /// Waits for InitWait, and goes to Connected (OVMF, U-Boot).
    Straight,
    /// Goes to Connected whatever the back end does.
    Blind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    Connect { take_over: bool },
    Free,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Meeting {
    front: XenbusState,
    back: Option<back::Handshake>,
    back_state: XenbusState,
    /// The front end was told of the back end's last write.
    front_is_told: bool,
    back_sees_peer: bool,
    back_sees_own: bool,
    task: Option<Task>,
    mapped: bool,
    /// Some back end was in service: requests may be on their way.
    was_in_service: bool,
    /// Somebody asked for the end, or a take-over failed: the disk may be lost.
    may_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    BackStarts,
    FrontLooks,
    BackSeesPeer,
    BackSeesOwn,
    TaskDone,
    // Trouble.
    BackDies,
    TakeOverFails,
    BackAsked,
}

use Step::*;

struct Strangers<'a> {
    make: Make,
    /// Broken on purpose: a restarted back end takes nothing over.
    back_offers_always: bool,
    trouble: &'a [Step],
}

impl Meeting {
    fn back_wrote(&mut self, state: XenbusState) {
        self.back_state = state;
        self.front_is_told = false;
        self.back_sees_own = self.back.is_some();
    }

    fn front_wrote(&mut self, state: XenbusState) {
        self.front = state;
        self.back_sees_peer = self.back.is_some();
    }

    fn is_served(&self) -> bool {
        self.back
            .as_ref()
            .is_some_and(back::Handshake::is_connected)
            && self.mapped
    }

    fn tell(&mut self, input: back::Input) -> Result<(), Finding> {
        let Some(mut machine) = self.back.take() else {
            return Ok(());
        };
        let actions = step(&mut machine, input);
        self.back = Some(machine);
        for action in actions {
            match action {
                back::Action::ReadPeerAndConnect { take_over } => {
                    if self.mapped || self.task.is_some() {
                        return Err("a second ring is mapped".into());
                    }
                    if !take_over && self.was_in_service {
                        return Err("requests on their way are forgotten".into());
                    }
                    self.task = Some(Task::Connect { take_over });
                }
                back::Action::FreeResources => self.task = Some(Task::Free),
                back::Action::SwitchState(SwitchState { to, while_peer, .. }) => {
                    if while_peer.is_some_and(|state| state != self.front) {
                        self.tell(back::Input::PeerMoved(Some(self.front)))?;
                        continue;
                    }
                    if to != Connected && self.was_in_service && !self.may_end {
                        return Err(format!("a front end in service is told {to}"));
                    }
                    self.was_in_service |= to == Connected;
                    self.back_wrote(to);
                    if while_peer.is_some() {
                        self.tell(back::Input::Switched)?;
                    }
                }
                back::Action::ReadPeer => self.back_sees_peer = true,
                back::Action::RemoveDevice => {
                    if self.mapped {
                        return Err("the back end leaves with a ring mapped".into());
                    }
                    self.back = None;
                }
                back::Action::PublishFeatures
                | back::Action::PeerGone
                | back::Action::ReportError(_)
                | back::Action::Refuse(_) => {}
            }
        }
        Ok(())
    }

    /// What the front end does when it sees where the back end is.
    fn front_looks(&mut self, make: Make) {
        self.front_is_told = true;
        let next = match (make, self.front, self.back_state) {
            (_, Initialising | Initialised | Connected, Closing) => Closing,
            (_, Initialised | Connected, Closed) | (_, Closing, _) => Closed,
            (Make::Linux, Initialising, InitWait) => Initialised,
            (Make::Linux, Initialised, Connected) => Connected,
            (Make::Straight, Initialising, InitWait) => Connected,
            (Make::Blind, Initialising, _) => Connected,
            _ => return,
        };
        // A back end that closes is seen by whatever the front end has become, too.
        self.front_is_told = next == Closed || !matches!(self.back_state, Closing | Closed);
        self.front_wrote(next);
    }
}

impl Rules for Strangers<'_> {
    type State = Meeting;
    type Step = Step;

    const PROGRESS: &'static [Step] =
        &[BackStarts, FrontLooks, BackSeesPeer, BackSeesOwn, TaskDone];

    fn step(&self, meeting: &Meeting, step: Step) -> Result<Option<Meeting>, Finding> {
        let mut next = meeting.clone();
        let w = &mut next;
        let happens = match step {
            BackStarts => w.back.is_none() && !self.is_goal(w),
            FrontLooks => !w.front_is_told,
            BackSeesPeer => std::mem::take(&mut w.back_sees_peer),
            BackSeesOwn => std::mem::take(&mut w.back_sees_own),
            TaskDone => w.task.is_some(),
            BackDies | BackAsked => w.back.is_some(),
            TakeOverFails => w.task == Some(Task::Connect { take_over: true }),
        };
        if !happens {
            return Ok(None);
        }
        match step {
            BackStarts => {
                w.back = Some(back::Handshake::new());
                let own = match self.back_offers_always {
                    true => Initialising,
                    false => w.back_state,
                };
                let (own, online) = (Some(own), true);
                w.tell(back::Input::Start { own, online })?;
            }
            FrontLooks => w.front_looks(self.make),
            BackSeesPeer => w.tell(back::Input::Peer(Some(w.front)))?,
            BackSeesOwn => w.tell(back::Input::Own(Some(w.back_state)))?,
            TaskDone => match w.task.take() {
                Some(Task::Connect { .. }) => {
                    w.mapped = true;
                    w.tell(back::Input::Connected)?;
                }
                _ => {
                    w.mapped = false;
                    w.tell(back::Input::Freed)?;
                }
            },
            BackDies => {
                w.back = None;
                w.task = None;
                w.mapped = false;
                w.back_sees_peer = false;
                w.back_sees_own = false;
            }
            TakeOverFails => {
                w.task = None;
                w.may_end = true;
                w.tell(back::Input::ConnectFailed(String::new()))?;
            }
            BackAsked => {
                w.may_end = true;
                w.tell(back::Input::CloseRequested)?;
            }
        }
        Ok(Some(next))
    }

    /// Served; or, if somebody wanted an end, the front end knows that its disk is gone.
    fn is_goal(&self, meeting: &Meeting) -> bool {
        (meeting.front == Connected && meeting.is_served())
            || (meeting.may_end && meeting.front == Closed)
    }

    fn trouble(&self) -> &[Step] {
        self.trouble
    }
}

fn explore(make: Make, back_offers_always: bool, trouble: &[Step]) -> Result<usize, Finding> {
    let rules = Strangers {
        make,
        back_offers_always,
        trouble,
    };
    let start = Meeting {
        front: Initialising,
        back: None,
        back_state: Initialising,
        front_is_told: false,
        back_sees_peer: false,
        back_sees_own: false,
        task: None,
        mapped: false,
        was_in_service: false,
        may_end: false,
    };
    search(&rules, start, 4)
}

#[test]
fn front_ends_of_other_makes_are_served_whatever_happens_to_the_back_end() {
    for make in [Make::Linux, Make::Straight, Make::Blind] {
        for trouble in [&[BackDies][..], &[BackDies, TakeOverFails, BackAsked]] {
            let states = explore(make, false, trouble)
                .unwrap_or_else(|finding| panic!("{make:?}: {finding}"));
            assert!(states > 20, "{make:?}: only {states} states");
        }
    }
}

#[test]
fn a_back_end_that_takes_nothing_over_is_found() {
    for make in [Make::Linux, Make::Straight, Make::Blind] {
        let finding = explore(make, true, &[BackDies]);
        assert!(finding.is_err(), "{make:?}: {finding:?}");
    }
}
