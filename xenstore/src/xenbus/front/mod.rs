//! The front end's handshake.

mod words;

pub use words::{Action, Input};

use super::state::{SwitchState, XenbusState};
use XenbusState::{
    Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring,
    Unknown,
};
use libgnt::machine::{Machine, Now};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    Prepare,
    Connect,
    Switch(XenbusState),
    Free,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handshake {
    own: XenbusState,
    peer: Option<XenbusState>,
    online: bool,
    /// A ring is granted.
    held: bool,
    task: Option<Task>,
    /// The answer to a `ReadPeer` is awaited.
    looking: bool,
    started: bool,
    removed: bool,
    stop: bool,
    /// The back end's process is said to have died while this ring was in service.
    peer_dead: bool,
    /// Wait for the answers to what is on the ring, before closing.
    drain: bool,
    own_gone: bool,
    recreated: bool,
    abandoned: bool,
    attempts_max: Option<u32>,
    attempts: u32,
}

impl Handshake {
    /// Waits for [`Input::Start`]. After `attempts_max` rings in a row that never came into
    /// service the device is given up; `None`: never.
    pub fn new(attempts_max: Option<u32>) -> Handshake {
        Handshake {
            own: Unknown,
            peer: None,
            online: false,
            held: false,
            task: None,
            looking: false,
            started: false,
            removed: false,
            stop: false,
            peer_dead: false,
            drain: false,
            own_gone: false,
            recreated: false,
            abandoned: false,
            attempts_max,
            attempts: 0,
        }
    }

    /// The own state, as it stands in the store.
    pub fn own(&self) -> XenbusState {
        self.own
    }

    /// May requests go on the ring?
    pub fn is_connected(&self) -> bool {
        self.own == Connected
    }

    /// The peer's state as last told.
    pub fn peer(&self) -> Option<XenbusState> {
        self.peer
    }

    /// Is the handshake over?
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Notes what the input says.
    fn take(&mut self, input: Input, actions: &mut Vec<Action>) -> Result<(), &'static str> {
        match input {
            Input::Start(_) if self.started => return Err("the front end has started already"),
            Input::Start(own) => {
                self.started = true;
                match own {
                    None => self.own_gone = true,
                    Some(own @ (Initialising | Closed)) => {
                        self.own = own;
                        self.look(actions);
                    }
                    // An earlier front end's ring may still be in the back end's hands: close first.
                    Some(own) => {
                        self.own = own;
                        self.switch(Closing, actions);
                    }
                }
            }
            Input::Peer { state, online } => self.see(state, online),
            Input::PeerDied => {
                // Before the ring is in service a new back end may have mapped it already, and
                // the news may be of the one before.
                self.peer_dead = self.own == Connected;
                self.drain = false;
            }
            Input::Own(None) => {
                self.own_gone = true;
                if matches!(self.task, Some(Task::Switch(_))) {
                    // There was nothing to write to.
                    self.task = None;
                }
            }
            Input::Own(Some(own)) if own == self.own => {}
            Input::Own(Some(Initialising)) | Input::Renewed => {
                self.recreated = true;
                if matches!(self.task, Some(Task::Switch(_))) {
                    // It was not written: the node belongs to the new device.
                    self.task = None;
                }
            }
            Input::Own(Some(Closing)) => self.stop = true,
            Input::Own(Some(_)) => return Err("somebody else has written the front end's state"),
            Input::RingReady if self.task == Some(Task::Prepare) => {
                self.held = true;
                self.task = None;
                // It was made for a device that is no more, perhaps for another domain.
                if !self.own_gone && !self.recreated {
                    self.commit(Initialised, InitWait, actions);
                }
            }
            Input::RingFailed(text) if self.task == Some(Task::Prepare) => {
                self.task = None;
                self.fail(text, actions);
            }
            Input::RingReady | Input::RingFailed(_) => return Err("no ring is being prepared"),
            Input::Connected if self.task == Some(Task::Connect) => {
                self.task = None;
                if !self.own_gone && !self.recreated {
                    self.commit(Connected, Connected, actions);
                }
            }
            Input::ConnectFailed(text) if self.task == Some(Task::Connect) => {
                self.task = None;
                self.fail(text, actions);
            }
            Input::Connected | Input::ConnectFailed(_) => return Err("nothing is being connected"),
            Input::Switched | Input::PeerMoved { .. } => match (self.task, input) {
                (Some(Task::Switch(to)), Input::Switched) => {
                    self.task = None;
                    self.own = to;
                    if to == Connected {
                        self.attempts = 0;
                    }
                }
                (Some(Task::Switch(_)), Input::PeerMoved { state, online }) => {
                    self.task = None;
                    self.see(state, online);
                }
                _ => return Err("no state is being switched"),
            },
            Input::Quiet => self.drain = false,
            Input::Freed if self.task == Some(Task::Free) => {
                self.task = None;
                self.held = false;
            }
            Input::Freed => return Err("nothing is being freed"),
            Input::CloseRequested => self.stop = true,
            Input::Fatal(text) => self.fail(text, actions),
            Input::Abandon => {
                self.stop = true;
                self.abandoned = true;
                self.drain = false;
            }
        }
        Ok(())
    }

    /// Does what the facts demand; false when there is nothing (more) to do now.
    fn settle(&mut self, actions: &mut Vec<Action>) -> bool {
        if self.removed || self.task.is_some() {
            return false;
        }
        if self.own_gone || self.recreated {
            if self.held {
                if self.own == Connected {
                    actions.push(Action::StopRequests);
                }
                self.free(actions);
            } else if self.own_gone {
                self.remove(actions);
            } else {
                self.recreated = false;
                self.own = Initialising;
                self.look(actions);
            }
            return true;
        }
        if self.looking {
            return false;
        }
        match self.own {
            // The ring was made, but the back end had moved on.
            Initialising if self.held => self.free(actions),
            Initialising if self.stop => self.switch(Closed, actions),
            Initialising => match self.peer {
                Some(InitWait) => self.prepare(actions),
                // It serves, or has yet to let go of, an earlier ring.
                Some(Connected) => self.switch(Closing, actions),
                Some(Closing) => self.switch(Closed, actions),
                Some(Closed) if !self.online => self.switch(Closed, actions),
                _ => return false,
            },
            Initialised if self.stop => self.close(actions),
            Initialised => match self.peer {
                Some(Connected) => {
                    self.task = Some(Task::Connect);
                    actions.push(Action::ReadPeerAndConnect);
                }
                Some(Closing | Closed) | None => self.close(actions),
                _ => return false,
            },
            Connected => match self.peer {
                Some(Connected | Unknown | Reconfiguring | Reconfigured)
                    if !self.stop && !self.peer_dead =>
                {
                    return false;
                }
                _ => self.close(actions),
            },
            Closing => match self.peer {
                _ if self.abandoned => self.switch(Closed, actions),
                Some(Closed) | None => self.switch(Closed, actions),
                Some(Closing) if !self.drain => self.switch(Closed, actions),
                _ => return false,
            },
            Closed if self.held => match self.peer {
                // Read after our own Closed was written: whoever mapped the ring has let go of it,
                // and whoever starts now will find no ring.
                Some(Closed) | None => self.free(actions),
                _ if self.abandoned => self.free(actions),
                _ => return false,
            },
            Closed if self.stop => self.remove(actions),
            Closed => match self.peer {
                Some(Closed) if self.online => self.switch(Initialising, actions),
                Some(Closed) => self.remove(actions),
                _ => return false,
            },
            // No front end writes these, and `Start` leaves them at once.
            Unknown | InitWait | Reconfiguring | Reconfigured => self.switch(Closing, actions),
        }
        true
    }

    /// Why the back end's state is wrong where we are, if it is.
    fn objection(&self) -> Option<&'static str> {
        match (self.own, self.peer?) {
            (_, Unknown) => Some("the back end's state is no state"),
            (_, Reconfiguring | Reconfigured) => Some("block devices are not reconfigured"),
            (Closed, Connected) => Some("the back end still serves a closed front end"),
            _ => None,
        }
    }

    fn see(&mut self, state: Option<XenbusState>, online: bool) {
        (self.peer, self.online) = (state, online);
        self.looking = false;
        if !matches!(state, Some(Connected | Closing)) {
            // Nobody is there to answer what is on the ring.
            self.drain = false;
        }
    }

    fn prepare(&mut self, actions: &mut Vec<Action>) {
        if let Some(max) = self.attempts_max {
            if self.attempts >= max {
                let text = format!("given up: {max} rings in a row never came into service");
                return self.fail(text, actions);
            }
            self.attempts += 1;
        }
        self.task = Some(Task::Prepare);
        actions.push(Action::PrepareRing);
    }

    fn commit(&mut self, to: XenbusState, while_peer: XenbusState, actions: &mut Vec<Action>) {
        self.task = Some(Task::Switch(to));
        actions.push(Action::SwitchState(SwitchState {
            to,
            from: self.own,
            while_peer: Some(while_peer),
        }));
    }

    /// To Closing. If the ring is in service and will not be replaced, its answers are waited for.
    fn close(&mut self, actions: &mut Vec<Action>) {
        if self.own == Connected {
            actions.push(Action::StopRequests);
            let answering = matches!(self.peer, Some(Connected | Closing)) && !self.peer_dead;
            self.drain = answering && (self.stop || !self.online) && !self.abandoned;
            self.peer_dead = false;
        }
        self.switch(Closing, actions);
    }

    fn fail(&mut self, text: String, actions: &mut Vec<Action>) {
        actions.push(Action::ReportError(text));
        if self.own == Connected {
            // No answer of a peer that breaks the protocol is waited for.
            self.own = Closing;
            actions.push(Action::StopRequests);
            self.switch(Closing, actions);
        }
        self.stop = true;
        self.drain = false;
    }

    fn switch(&mut self, to: XenbusState, actions: &mut Vec<Action>) {
        let from = std::mem::replace(&mut self.own, to);
        actions.push(Action::SwitchState(SwitchState {
            to,
            from,
            while_peer: None,
        }));
        self.look(actions);
    }

    /// What was read of the peer before our own last write does not count.
    fn look(&mut self, actions: &mut Vec<Action>) {
        self.looking = true;
        actions.push(Action::ReadPeer);
    }

    fn free(&mut self, actions: &mut Vec<Action>) {
        self.task = Some(Task::Free);
        actions.push(Action::FreeResources);
    }

    fn remove(&mut self, actions: &mut Vec<Action>) {
        self.removed = true;
        actions.push(Action::RemoveDevice);
    }
}

impl Machine for Handshake {
    type Input = Input;
    type Action = Action;

    /// Nothing here depends on the time: who drives it says when it is over, with
    /// [`Input::Abandon`].
    fn step(&mut self, _now: Now, input: Input, actions: &mut Vec<Action>) {
        let before = actions.len();
        let news_of_peer = matches!(input, Input::Peer { .. });
        let taken = if self.removed {
            Err("the device has been removed")
        } else if !self.started && !matches!(input, Input::Start(_)) {
            Err("the front end has not started")
        } else {
            self.take(input, actions)
        };
        if let Err(reason) = taken {
            // `take` refuses before it adds any action.
            actions.push(Action::Refuse(reason));
            return;
        }
        while self.settle(actions) {}
        if news_of_peer
            && actions.len() == before
            && let Some(reason) = self.objection()
        {
            actions.push(Action::Refuse(reason));
        }
    }
}
