//! Both ends of a device as they stand: machines, nodes, events on their way, and the ring.

use super::super::XenbusState::{self, Closed, Initialising};
use super::super::{back, front};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FrontTask {
    Prepare,
    Connect,
    Free,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum BackTask {
    Connect,
    Free,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) front: Option<front::Handshake>,
    pub(super) back: Option<back::Handshake>,
    /// The nodes.
    pub(super) front_state: Option<XenbusState>,
    pub(super) back_state: Option<XenbusState>,
    pub(super) online: bool,
    /// The directory was made anew, and the end that had a state in the old one does not know yet.
    pub(super) front_new: bool,
    pub(super) back_new: bool,
    /// The front end's directory names another back end than the front end knows.
    pub(super) moved: bool,
    /// The ring, or the one that is being made, is of a device that the front end knows to be no more.
    pub(super) ring_old: bool,
    /// It knows, and has not written its first state yet.
    pub(super) front_renews: bool,
    pub(super) back_renews: bool,
    /// Watch events on their way: each reads the node when it arrives.
    pub(super) front_sees_peer: bool,
    pub(super) front_sees_own: bool,
    pub(super) back_sees_peer: bool,
    pub(super) back_sees_own: bool,
    /// Liveness events on their way.
    pub(super) front_hears_death: bool,
    pub(super) back_hears_death: bool,
    pub(super) front_task: Option<FrontTask>,
    pub(super) back_task: Option<BackTask>,
    /// Requests on the ring, to be answered before Quiet.
    pub(super) draining: bool,
    pub(super) ring_granted: bool,
    pub(super) ring_mapped: bool,
    /// What the back end maps, or has read to map, is the front end's present ring.
    pub(super) ring_current: bool,
    /// Somebody's deadline passed, or the nodes were taken away: the front end may free a ring
    /// that is still mapped (and learns it from the grant table), but nothing may be freed twice.
    pub(super) abandoned: bool,
}

impl Pair {
    /// As the toolstack creates the device, before either end runs.
    pub(super) fn created() -> Pair {
        Pair {
            front: None,
            back: None,
            front_state: Some(Initialising),
            back_state: Some(Initialising),
            online: true,
            front_new: false,
            back_new: false,
            moved: false,
            ring_old: false,
            front_renews: false,
            back_renews: false,
            front_sees_peer: false,
            front_sees_own: false,
            back_sees_peer: false,
            back_sees_own: false,
            front_hears_death: false,
            back_hears_death: false,
            front_task: None,
            back_task: None,
            draining: false,
            ring_granted: false,
            ring_mapped: false,
            ring_current: false,
            abandoned: false,
        }
    }

    pub(super) fn front_wrote(&mut self, state: Option<XenbusState>) {
        self.front_state = state;
        self.front_sees_own = self.front.is_some();
        self.back_sees_peer = self.back.is_some();
    }

    pub(super) fn back_wrote(&mut self, state: Option<XenbusState>) {
        self.back_state = state;
        self.back_sees_own = self.back.is_some();
        self.front_sees_peer = self.front.is_some();
    }

    /// The toolstack makes the front end's directory, whatever was there.
    pub(super) fn front_made(&mut self) {
        let knows = |front: &front::Handshake| front.own() == Initialising;
        self.front_new =
            self.front.as_ref().is_some_and(|front| !knows(front)) && !self.front_renews;
        self.front_wrote(Some(Initialising));
    }

    /// As [`Pair::front_made`].
    pub(super) fn back_made(&mut self) {
        let knows = |back: &back::Handshake| back.own() == Initialising;
        self.back_new = self.back.as_ref().is_some_and(|back| !knows(back)) && !self.back_renews;
        self.back_wrote(Some(Initialising));
    }

    pub(super) fn in_service(&self) -> bool {
        self.front
            .as_ref()
            .is_some_and(front::Handshake::is_connected)
            && self
                .back
                .as_ref()
                .is_some_and(back::Handshake::is_connected)
    }

    pub(super) fn idle(&self) -> bool {
        !(self.front_sees_peer || self.front_sees_own || self.back_sees_peer || self.back_sees_own)
    }

    /// Where every pair must be able to get to: in service, or, when the device is being taken
    /// away, both over with nothing held.
    pub(super) fn is_goal(&self) -> bool {
        if self.online && self.front_state.is_some() {
            return self.in_service() && self.idle();
        }
        let over = |state: Option<XenbusState>| matches!(state, None | Some(Closed));
        self.front.is_none()
            && self.back.is_none()
            && over(self.front_state)
            && over(self.back_state)
            && !self.ring_granted
            && !self.ring_mapped
    }
}
