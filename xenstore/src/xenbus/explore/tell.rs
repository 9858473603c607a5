//! Tells either machine something, performs what it says, and checks what must hold.

use super::super::XenbusState::{self, Closed, Closing, Initialised, Initialising};
use super::super::{SwitchState, back, front};
use super::explorer::{Explorer, HandshakeSabotage};
use super::pair::{BackTask, FrontTask, Pair};
use crate::testing::step;

impl Explorer {
    pub(super) fn tell_front(&mut self, pair: &mut Pair, input: front::Input) {
        let Some(mut machine) = pair.front.take() else {
            return;
        };
        if matches!(
            input,
            front::Input::Own(Some(Initialising)) | front::Input::Renewed
        ) {
            let renews = input == front::Input::Renewed || machine.own() != Initialising;
            pair.ring_old |=
                renews && (pair.ring_granted || pair.front_task == Some(FrontTask::Prepare));
            (pair.front_new, pair.front_renews) = (false, true);
            if self.sabotage == HandshakeSabotage::KeepsRing
                && pair.front_task == Some(FrontTask::Prepare)
            {
                pair.front = Some(machine);
                return;
            }
        }
        let actions = step(&mut machine, input);
        pair.front = Some(machine);
        for action in actions {
            match action {
                front::Action::PrepareRing => {
                    self.check(pair.front_task.is_none(), "two tasks at once in front");
                    pair.front_task = Some(FrontTask::Prepare);
                }
                front::Action::ReadPeerAndConnect => pair.front_task = Some(FrontTask::Connect),
                front::Action::FreeResources => {
                    self.check(
                        pair.ring_granted,
                        "the front end frees what it does not hold",
                    );
                    pair.front_task = Some(FrontTask::Free);
                }
                front::Action::StopRequests => pair.draining = true,
                front::Action::SwitchState(SwitchState {
                    to,
                    from,
                    while_peer,
                }) => {
                    if pair.front_state.is_none() {
                        self.tell_front(pair, front::Input::Own(None));
                        continue;
                    }
                    let moved = std::mem::take(&mut pair.moved);
                    if moved || self.is_of_another(pair.front_state, from) {
                        self.tell_front(pair, front::Input::Renewed);
                        continue;
                    }
                    self.check(
                        to != Initialised || !pair.ring_old,
                        "the front end announces an old device's ring",
                    );
                    self.check(
                        !pair.front_new,
                        "the front end writes its old state over a new device's",
                    );
                    let moved = while_peer.is_some() && pair.back_state != while_peer;
                    if moved {
                        let (state, online) = (pair.back_state, pair.online);
                        self.tell_front(pair, front::Input::PeerMoved { state, online });
                        continue;
                    }
                    pair.front_renews = false;
                    pair.front_wrote(Some(to));
                    if to == Closing && self.sabotage == HandshakeSabotage::FreesEarly {
                        pair.ring_granted = false;
                        self.check(!pair.ring_mapped || !pair.ring_current, "freed early");
                    }
                    if while_peer.is_some() {
                        self.tell_front(pair, front::Input::Switched);
                    }
                }
                front::Action::RemoveDevice => {
                    self.check(
                        !pair.ring_granted,
                        "the front end leaves with a ring granted",
                    );
                    Self::front_ends(pair);
                }
                // The answer may take its time: others go on meanwhile.
                front::Action::ReadPeer => {
                    let known = pair
                        .front
                        .as_ref()
                        .filter(|f| matches!(f.own(), Closing | Closed));
                    match known.and_then(front::Handshake::peer) {
                        Some(stale) if self.sabotage == HandshakeSabotage::StaleLooks => {
                            let (state, online) = (Some(stale), pair.online);
                            self.tell_front(pair, front::Input::Peer { state, online });
                        }
                        _ => pair.front_sees_peer = true,
                    }
                }
                front::Action::ReportError(_) | front::Action::Refuse(_) => {}
            }
        }
    }

    pub(super) fn tell_back(&mut self, pair: &mut Pair, input: back::Input) {
        let Some(mut machine) = pair.back.take() else {
            return;
        };
        if matches!(
            input,
            back::Input::Own(Some(Initialising)) | back::Input::Renewed
        ) {
            (pair.back_new, pair.back_renews) = (false, true);
        }
        let actions = step(&mut machine, input);
        pair.back = Some(machine);
        for action in actions {
            match action {
                back::Action::ReadPeerAndConnect { .. } => {
                    self.check(pair.back_task.is_none(), "two tasks at once in back");
                    self.check(!pair.ring_mapped, "the back end maps a second ring");
                    pair.back_task = Some(BackTask::Connect);
                    pair.ring_current = pair.ring_granted;
                }
                back::Action::FreeResources => {
                    self.check(pair.ring_mapped, "the back end frees what it does not hold");
                    pair.back_task = Some(BackTask::Free);
                }
                back::Action::SwitchState(SwitchState {
                    to,
                    from,
                    while_peer,
                }) => {
                    if pair.back_state.is_none() {
                        self.tell_back(pair, back::Input::Own(None));
                        continue;
                    }
                    if self.is_of_another(pair.back_state, from) {
                        self.tell_back(pair, back::Input::Renewed);
                        continue;
                    }
                    self.check(
                        !pair.back_new,
                        "the back end writes its old state over a new device's",
                    );
                    let moved = while_peer.is_some() && pair.front_state != while_peer;
                    if moved {
                        let state = pair.front_state;
                        self.tell_back(pair, back::Input::PeerMoved(state));
                        continue;
                    }
                    pair.back_renews = false;
                    pair.back_wrote(Some(to));
                    if while_peer.is_some() {
                        self.tell_back(pair, back::Input::Switched);
                    }
                }
                back::Action::RemoveDevice => {
                    self.check(!pair.ring_mapped, "the back end leaves with a ring mapped");
                    Self::back_ends(pair);
                }
                back::Action::ReadPeer => pair.back_sees_peer = true,
                back::Action::PeerGone => self.check(
                    pair.ring_mapped || pair.back_task == Some(BackTask::Connect),
                    "the back end misses a front end of which it holds nothing",
                ),
                back::Action::PublishFeatures
                | back::Action::ReportError(_)
                | back::Action::Refuse(_) => {}
            }
        }
    }

    fn is_of_another(&self, state: Option<XenbusState>, from: XenbusState) -> bool {
        let is_reset = state == Some(Initialising) && from != Initialising;
        is_reset && self.sabotage != HandshakeSabotage::WritesOver
    }
}
