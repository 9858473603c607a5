//! Takes a step, performs what the machines say, and checks what must hold.

use super::super::XenbusState::{Closed, Closing, Connected, Initialised, Initialising};
use super::super::{back, front};
use super::pair::{BackTask, FrontTask, Pair};
use super::steps::Step::{self, *};
use crate::testing::Finding;

/// Broken on purpose: the exploration must see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeSabotage {
    None,
    /// A closing front end trusts what it read of the back end before its own writes.
    StaleLooks,
    /// A restarted front end starts afresh, without closing what its predecessor left.
    FrontForgets,
    /// A front end frees its ring as soon as it starts to close.
    FreesEarly,
    /// A restarted back end leaves its state node alone until the front end moves.
    BackWaits,
    /// Either end writes its state without a look at whose node it is.
    WritesOver,
    /// A front end does not hear, while it makes a ring, that its device was made anew.
    KeepsRing,
}

pub(super) struct Explorer {
    pub(super) sabotage: HandshakeSabotage,
    /// A back end that starts takes no ring over: it goes to InitWait, whatever its node says.
    pub(super) back_offers_always: bool,
    pub(super) finding: Option<Finding>,
}

impl Explorer {
    pub(super) fn fails(&mut self, what: &str) {
        self.finding.get_or_insert_with(|| what.to_owned());
    }

    pub(super) fn check(&mut self, good: bool, what: &str) {
        if !good {
            self.fails(what);
        }
    }

    /// The process is gone, and with it whatever it held.
    pub(super) fn front_ends(pair: &mut Pair) {
        pair.front = None;
        pair.front_task = None;
        (pair.front_new, pair.front_renews) = (false, false);
        (pair.moved, pair.ring_old) = (false, false);
        pair.draining = false;
        pair.ring_granted = false;
        pair.ring_current = false;
        pair.front_sees_peer = false;
        pair.front_sees_own = false;
        pair.front_hears_death = false;
    }

    pub(super) fn back_ends(pair: &mut Pair) {
        pair.back = None;
        pair.back_task = None;
        (pair.back_new, pair.back_renews) = (false, false);
        pair.ring_mapped = false;
        pair.back_sees_peer = false;
        pair.back_sees_own = false;
        pair.back_hears_death = false;
    }

    /// The pair after a step; `None` if the step cannot happen now.
    pub(super) fn step(&mut self, pair: &Pair, step: Step) -> Option<Pair> {
        let mut next = pair.clone();
        let w = &mut next;
        let taken = |flag: &mut bool| std::mem::take(flag).then_some(());
        match step {
            FrontStarts => {
                if w.front.is_some() || w.is_goal() {
                    return None;
                }
                w.front = Some(front::Handshake::new(None));
                let mut own = w.front_state;
                if self.sabotage == HandshakeSabotage::FrontForgets && own.is_some() {
                    own = Some(Initialising);
                    w.front_wrote(own);
                }
                self.tell_front(w, front::Input::Start(own));
            }
            BackStarts => {
                if w.back.is_some() || w.is_goal() {
                    return None;
                }
                if self.sabotage == HandshakeSabotage::BackWaits && w.back_state == Some(Connected)
                {
                    return None;
                }
                w.back = Some(back::Handshake::new());
                let (mut own, online) = (w.back_state, w.online);
                if self.back_offers_always && online && own.is_some() {
                    own = Some(Initialising);
                }
                self.tell_back(w, back::Input::Start { own, online });
            }
            FrontSeesPeer => {
                taken(&mut w.front_sees_peer)?;
                // The old directory is gone.
                let state = w.back_state.filter(|_| !w.moved);
                let online = w.online && !w.moved;
                self.tell_front(w, front::Input::Peer { state, online });
            }
            FrontSeesOwn => {
                taken(&mut w.front_sees_own)?;
                match (std::mem::take(&mut w.moved), w.front_state) {
                    (true, Some(Initialising)) => self.tell_front(w, front::Input::Renewed),
                    (_, own) => self.tell_front(w, front::Input::Own(own)),
                }
            }
            FrontHearsDeath => {
                taken(&mut w.front_hears_death)?;
                self.tell_front(w, front::Input::PeerDied);
            }
            BackSeesPeer => {
                taken(&mut w.back_sees_peer)?;
                let peer = w.front_state;
                self.tell_back(w, back::Input::Peer(peer));
            }
            BackSeesOwn => {
                taken(&mut w.back_sees_own)?;
                let (own, online) = (w.back_state, w.online);
                self.tell_back(w, back::Input::Online(online));
                self.tell_back(w, back::Input::Own(own));
            }
            BackHearsDeath => {
                taken(&mut w.back_hears_death)?;
                self.tell_back(w, back::Input::PeerDied);
            }
            FrontTaskDone => match w.front_task.take()? {
                FrontTask::Prepare => {
                    self.check(!w.ring_granted, "a second ring is granted");
                    w.ring_granted = true;
                    // Whatever the back end has, or has read, is not this one.
                    w.ring_current = false;
                    self.tell_front(w, front::Input::RingReady);
                }
                FrontTask::Connect => self.tell_front(w, front::Input::Connected),
                FrontTask::Free => {
                    self.check(
                        w.abandoned || !(w.ring_mapped && w.ring_current),
                        "the front end frees a ring that the back end maps",
                    );
                    w.ring_granted = false;
                    w.ring_current = false;
                    w.ring_old = false;
                    w.draining = false;
                    self.tell_front(w, front::Input::Freed);
                }
            },
            BackTaskDone => match w.back_task.take()? {
                // The grants are gone: the map fails.
                BackTask::Connect if !w.ring_granted => {
                    self.tell_back(w, back::Input::ConnectFailed(String::new()));
                }
                BackTask::Connect => {
                    w.ring_mapped = true;
                    self.tell_back(w, back::Input::Connected);
                }
                BackTask::Free => {
                    w.ring_mapped = false;
                    self.tell_back(w, back::Input::Freed);
                }
            },
            Drained => {
                taken(&mut w.draining)?;
                self.tell_front(w, front::Input::Quiet);
            }
            FrontTaskFails => match w.front_task {
                Some(FrontTask::Prepare) => {
                    w.front_task = None;
                    w.ring_old = false;
                    self.tell_front(w, front::Input::RingFailed(String::new()));
                }
                Some(FrontTask::Connect) => {
                    w.front_task = None;
                    self.tell_front(w, front::Input::ConnectFailed(String::new()));
                }
                _ => return None,
            },
            BackTaskFails => {
                if w.back_task != Some(BackTask::Connect) {
                    return None;
                }
                w.back_task = None;
                self.tell_back(w, back::Input::ConnectFailed(String::new()));
            }
            FrontDies => {
                w.front.as_ref()?;
                w.back_hears_death |= w.ring_mapped;
                Self::front_ends(w);
            }
            BackDies => {
                w.back.as_ref()?;
                w.front_hears_death |= w.ring_mapped;
                Self::back_ends(w);
            }
            FrontFatal => {
                w.front.as_ref().filter(|f| f.is_connected())?;
                self.tell_front(w, front::Input::Fatal(String::new()));
            }
            BackFatal => {
                w.back.as_ref().filter(|b| b.is_connected())?;
                self.tell_back(w, back::Input::Fatal(String::new()));
            }
            FrontAsked => {
                w.front.as_ref()?;
                self.tell_front(w, front::Input::CloseRequested);
            }
            BackAsked => {
                w.back.as_ref()?;
                self.tell_back(w, back::Input::CloseRequested);
            }
            FrontAbandons => {
                w.front.as_ref()?;
                w.abandoned = true;
                self.tell_front(w, front::Input::Abandon);
            }
            BackAbandons => {
                w.back.as_ref()?;
                w.abandoned = true;
                self.tell_back(w, back::Input::Abandon);
            }
            ToolstackAsks => {
                if !w.online || w.back_state.is_none() {
                    return None;
                }
                w.online = false;
                let state = if w.back_state == Some(Closed) {
                    Closed
                } else {
                    Closing
                };
                // Whoever asks again for the end of a new device hides that it is new.
                w.back_new = false;
                w.back_wrote(Some(state));
            }
            ToolstackForces => {
                w.front_state?;
                w.online = false;
                // Without its nodes an end cannot know what the other still holds.
                w.abandoned = true;
                w.front_wrote(None);
                w.back_wrote(None);
            }
            ToolstackCreates => {
                if w.front_state.is_some() {
                    return None;
                }
                w.online = true;
                w.front_made();
                w.back_made();
            }
            ToolstackReplaces => {
                // Removed and made again before anybody looked.
                w.front_state?;
                w.online = true;
                w.abandoned = true;
                w.front_made();
                w.back_made();
            }
            ToolstackMoves => {
                // The same, with a back end elsewhere; the old one's domain is no more.
                w.front_state?;
                w.online = true;
                w.abandoned = true;
                w.front_hears_death |= w.ring_mapped;
                Self::back_ends(w);
                w.front_made();
                w.back_made();
                w.moved = w.front.is_some();
            }
            BackRemade => {
                w.back_state.filter(|_| w.online)?;
                w.back_made();
            }
            BackDomainVanishes => {
                w.back_state.filter(|_| w.online)?;
                w.front_hears_death |= w.ring_mapped;
                Self::back_ends(w);
                w.back_made();
            }
        }
        self.check(
            !next.in_service() || !next.idle() || next.ring_current,
            "both are Connected, but not to one ring",
        );
        self.check(
            !(next.in_service() && next.front_state == Some(Initialised)),
            "in service without saying so",
        );
        Some(next)
    }
}
