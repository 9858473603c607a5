//! The back end's handshake.

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
    /// The front end's pages are mapped.
    held: bool,
    task: Option<Task>,
    /// The answer to a `ReadPeer` is awaited.
    looking: bool,
    started: bool,
    /// The own node says Connected, but it was an earlier back end that wrote it.
    inherited: bool,
    removed: bool,
    stop: bool,
    /// Free without waiting for the front end to close.
    force: bool,
    /// The own directory is gone.
    own_gone: bool,
    /// The own directory has been made anew.
    recreated: bool,
}

impl Default for Handshake {
    fn default() -> Handshake {
        Handshake::new()
    }
}

impl Handshake {
    /// Waits for [`Input::Start`].
    pub fn new() -> Handshake {
        Handshake {
            own: Unknown,
            peer: None,
            online: false,
            held: false,
            task: None,
            looking: false,
            started: false,
            inherited: false,
            removed: false,
            stop: false,
            force: false,
            own_gone: false,
            recreated: false,
        }
    }

    /// The own state, as it stands in the store.
    pub fn own(&self) -> XenbusState {
        self.own
    }

    /// Is the device in service?
    pub fn is_connected(&self) -> bool {
        self.own == Connected && !self.inherited
    }

    /// Is anything of the front end's mapped, or about to be?
    fn is_holding(&self) -> bool {
        self.held || self.task == Some(Task::Connect)
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
            Input::Start { .. } if self.started => return Err("the back end has started already"),
            Input::Start { own, online } => {
                self.started = true;
                self.online = online;
                match own {
                    None => self.own_gone = true,
                    // Another back end's ring may be in service, or half closed: look first.
                    Some(own @ (Connected | Closing | Closed)) if online => {
                        self.own = own;
                        self.inherited = own == Connected;
                        self.look(actions);
                    }
                    Some(own) if online => {
                        self.own = own;
                        self.offer(actions);
                    }
                    // The toolstack is taking the device away and nobody was there to close it.
                    Some(own) => {
                        self.own = own;
                        self.force = true;
                    }
                }
            }
            Input::Peer(peer) => {
                if peer.is_none() && self.is_holding() {
                    actions.push(Action::PeerGone);
                }
                self.see(peer);
            }
            Input::PeerDied => self.force |= self.held || self.task == Some(Task::Connect),
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
            Input::Own(Some(Closing)) if self.own == Closed => {
                // The toolstack asks a closed device to close: it is.
                self.switch(Closed, actions);
            }
            Input::Own(Some(Closing)) => {
                self.own = Closing;
                self.inherited = false;
            }
            Input::Own(Some(_)) => return Err("somebody else has written the back end's state"),
            Input::Online(online) => self.online = online,
            Input::Connected if self.task == Some(Task::Connect) => {
                self.held = true;
                self.task = None;
            }
            Input::ConnectFailed(text) if self.task == Some(Task::Connect) => {
                self.task = None;
                self.fail(text, actions);
            }
            Input::Connected | Input::ConnectFailed(_) => return Err("nothing is being connected"),
            Input::Switched | Input::PeerMoved(_) => match (self.task, input) {
                (Some(Task::Switch(to)), Input::Switched) => {
                    self.task = None;
                    self.own = to;
                    self.inherited = false;
                }
                (Some(Task::Switch(_)), Input::PeerMoved(peer)) => {
                    self.task = None;
                    self.see(peer);
                }
                _ => return Err("no state is being switched"),
            },
            Input::Freed if self.task == Some(Task::Free) => {
                self.task = None;
                self.held = false;
            }
            Input::Freed => return Err("nothing is being freed"),
            Input::CloseRequested => self.stop = true,
            Input::Fatal(text) => {
                if matches!(self.task, Some(Task::Switch(_))) {
                    // What belongs to the switch was not to be had.
                    self.task = None;
                }
                self.fail(text, actions);
            }
            Input::Abandon => {
                self.stop = true;
                self.force = true;
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
                self.free(actions);
            } else if self.own_gone {
                self.remove(actions);
            } else {
                self.recreated = false;
                self.own = Initialising;
                self.offer(actions);
            }
            return true;
        }
        if self.looking {
            return false;
        }
        let front_is_out = matches!(self.peer, None | Some(Initialising | InitWait | Closed));
        let front_offers = matches!(self.peer, Some(Initialised | Connected));
        match self.own {
            InitWait | Connected if self.held && !self.is_connected() => {
                if front_offers && self.may_serve() {
                    self.commit(actions);
                } else {
                    // A ring was mapped, but the front end had moved on.
                    self.free(actions);
                }
            }
            Connected if self.inherited => match self.peer {
                _ if !self.may_serve() => self.switch(Closing, actions),
                Some(Initialised | Connected) => self.connect(actions),
                Some(Closing) => self.switch(Closing, actions),
                // That front end is no more, and a new one knows no ring.
                _ if front_is_out => self.offer(actions),
                _ => return false,
            },
            InitWait if !self.may_serve() => self.switch(Closing, actions),
            InitWait => match self.peer {
                // Some go straight to Connected, and xen-blkback connects to those, too.
                Some(Initialised | Connected) => self.connect(actions),
                Some(Closing) => self.switch(Closing, actions),
                Some(Closed) | None => self.switch(Closed, actions),
                _ => return false,
            },
            Connected if !self.may_serve() || front_is_out || self.peer == Some(Closing) => {
                self.switch(Closing, actions);
            }
            Connected => return false,
            Closing if !front_is_out && !self.force => return false,
            Closing if self.held => self.free(actions),
            Closing => self.switch(Closed, actions),
            Closed if self.stop || !self.online => self.remove(actions),
            Closed if self.peer == Some(Initialising) => self.offer(actions),
            Closed => return false,
            // Only at the start of a back end whose device is being taken away.
            Unknown | Initialising | Initialised | Reconfiguring | Reconfigured => {
                self.switch(Closed, actions);
            }
        }
        true
    }

    /// Why the front end's state is wrong where we are, if it is.
    fn objection(&self) -> Option<&'static str> {
        match (self.own, self.peer?) {
            (_, Unknown) => Some("the front end's state is no state"),
            (_, Reconfiguring | Reconfigured) => Some("block devices are not reconfigured"),
            (_, InitWait) => Some("a front end does not wait for a front end"),
            (Closed, Initialised | Connected) => {
                Some("the front end offers a ring to a closed back end; it has to close first")
            }
            _ => None,
        }
    }

    fn see(&mut self, peer: Option<XenbusState>) {
        self.peer = peer;
        self.looking = false;
    }

    fn may_serve(&self) -> bool {
        self.online && !self.stop && !self.force && !self.own_gone && !self.recreated
    }

    /// To InitWait, ready for a new front end.
    fn offer(&mut self, actions: &mut Vec<Action>) {
        self.force = false;
        actions.push(Action::PublishFeatures);
        self.switch(InitWait, actions);
    }

    fn fail(&mut self, text: String, actions: &mut Vec<Action>) {
        actions.push(Action::ReportError(text));
        self.force = true;
    }

    fn connect(&mut self, actions: &mut Vec<Action>) {
        self.task = Some(Task::Connect);
        let take_over = self.inherited;
        actions.push(Action::ReadPeerAndConnect { take_over });
    }

    fn commit(&mut self, actions: &mut Vec<Action>) {
        self.task = Some(Task::Switch(Connected));
        actions.push(Action::SwitchState(SwitchState {
            to: Connected,
            from: self.own,
            while_peer: self.peer,
        }));
    }

    fn switch(&mut self, to: XenbusState, actions: &mut Vec<Action>) {
        let from = std::mem::replace(&mut self.own, to);
        self.inherited = false;
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
        let news_of_peer = matches!(input, Input::Peer(_));
        let taken = if self.removed {
            Err("the device has been removed")
        } else if !self.started && !matches!(input, Input::Start { .. }) {
            Err("the back end has not started")
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
