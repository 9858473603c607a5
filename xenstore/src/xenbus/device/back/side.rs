//! Reads and writes the nodes, and performs what the back end's [`Handshake`] says; what that machine
//! wants of the ring becomes news.

use super::super::super::back::{Action, Handshake, Input};
use super::super::super::errors;
use super::super::super::feature::{Node, Published, settled};
use super::super::super::node::{self, Ends, Switched};
use super::super::super::state::{SwitchState, XenbusState};
use super::words::{BackNews, BackProtocol, BackSetting, Report};
use crate::client::Client;
use crate::error::Result;
use crate::keeper::Keep;
use crate::steady::Steady;
use libgnt::machine::{Machine, monotonic};
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

/// The watches' tokens.
const FRONT: &str = "front";
const OWN: &str = "own";
const ONLINE: &str = "online";

/// The two directories, and the handshake.
#[derive(Debug)]
pub struct Side<P: BackProtocol> {
    protocol: P,
    setting: BackSetting,
    machine: Handshake,
    news: VecDeque<BackNews<P>>,
    /// When the front end's time to close is over.
    abandon_at: Option<Instant>,
    /// A broken rule was told; nobody is to be answered.
    broken: bool,
    over: bool,
}

impl<P: BackProtocol> Side<P> {
    pub fn new(protocol: P, setting: BackSetting) -> Self {
        Side {
            protocol,
            setting,
            machine: Handshake::new(),
            news: VecDeque::new(),
            abandon_at: None,
            broken: false,
            over: false,
        }
    }

    fn read_peer(&mut self, store: &mut Steady) -> Result<Input> {
        let state = store.run(|client| node::read_state(client, &self.setting.front))?;
        Ok(Input::Peer(state))
    }

    fn news_of_death(&mut self, how: String) {
        self.broken = true;
        self.news.push_back(BackNews::FrontGone(how));
    }

    fn feed(&mut self, store: &mut Steady, input: Input) -> Result<()> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let abandoned = input == Input::Abandon;
            let mut actions = Vec::new();
            self.machine.step(monotonic(), input, &mut actions);
            for action in actions {
                inputs.extend(self.perform(store, action, abandoned)?);
            }
        }
        Ok(())
    }

    fn perform(
        &mut self,
        store: &mut Steady,
        action: Action,
        abandoned: bool,
    ) -> Result<Option<Input>> {
        match action {
            Action::PublishFeatures => {
                self.broken = false;
                let features = self.protocol.features();
                store.run(|client| self.publish(client, &features))?;
            }
            Action::ReadPeerAndConnect { take_over } => return self.connect(store, take_over),
            Action::SwitchState(switch) => return self.switch(store, switch),
            Action::ReadPeer => return self.read_peer(store).map(Some),
            Action::PeerGone => {
                if !self.broken {
                    self.news_of_death("its directory is gone from xenstore".into());
                }
            }
            Action::FreeResources => {
                let answer_first = abandoned && !self.broken;
                self.news.push_back(BackNews::Free { answer_first });
            }
            Action::ReportError(text) => {
                self.broken = true;
                self.leave_reason(store, &text);
                self.news.push_back(BackNews::Fatal(text));
            }
            Action::RemoveDevice => self.over = true,
            Action::Refuse(why) => tracing::debug!(front = self.setting.front, why, "ignored"),
        }
        Ok(None)
    }

    fn connect(&mut self, store: &mut Steady, take_over: bool) -> Result<Option<Input>> {
        let BackSetting { front, back } = &self.setting;
        let protocol = &mut self.protocol;
        let read = store.run(|client| {
            let (front, own) = (Published::new(client, front), Published::new(client, back));
            settled(protocol.read_offer(&front, &own, take_over))
        })?;
        let offer = match read {
            Ok(offer) => offer,
            Err(bad) => return Ok(Some(Input::ConnectFailed(bad))),
        };
        match self.protocol.obstacle() {
            None => self.news.push_back(BackNews::Connect(offer)),
            // It writes into the same directory: nothing more of ours.
            Some(obstacle) => {
                self.news.push_back(BackNews::Taken(obstacle));
                self.over = true;
            }
        }
        Ok(None)
    }

    /// Writes the features, unless the toolstack has just taken the directory away.
    fn publish(&self, client: &Client, features: &[Node]) -> Result<()> {
        let back = &self.setting.back;
        client.transaction(|tx| {
            if !tx.exists(&format!("{back}/state"))? {
                return Ok(());
            }
            for (name, value) in features {
                tx.write(&format!("{back}/{name}"), value)?;
            }
            Ok(())
        })?;
        // What an earlier front's fault left there would mislead.
        if let Err(error) = errors::clear_error(client, back) {
            tracing::debug!(%error, "the last error stays in xenstore");
        }
        Ok(())
    }

    fn switch(&mut self, store: &mut Steady, switch: SwitchState) -> Result<Option<Input>> {
        let SwitchState { to, while_peer, .. } = switch;
        let BackSetting { front, back } = &self.setting;
        let mut nodes = Vec::new();
        if to == XenbusState::Connected {
            let protocol = &mut self.protocol;
            let read =
                |client: &Client| settled(protocol.connected_nodes(&Published::new(client, back)));
            match store.run(read)? {
                Ok(read) => nodes = read,
                Err(bad) => return Ok(Some(Input::Fatal(bad))),
            }
        }
        let ends = Ends {
            own: back,
            peer: front,
            link: None,
        };
        match node::switch_state_steadily(store, ends, switch, &nodes)? {
            Switched::Done => {}
            Switched::OwnGone => return Ok(Some(Input::Own(None))),
            Switched::Renewed => return Ok(Some(Input::Renewed)),
            Switched::PeerMoved(state) => return Ok(Some(Input::PeerMoved(state))),
        }
        tracing::debug!(front, state = %to, "switched");
        self.news.extend(match to {
            XenbusState::InitWait => Some(BackNews::Waiting),
            XenbusState::Connected => Some(BackNews::Serve),
            XenbusState::Closed => {
                self.remove_own(store);
                Some(BackNews::Closed)
            }
            _ => None,
        });
        Ok(while_peer.map(|_| Input::Switched))
    }

    fn leave_reason(&self, store: &mut Steady, why: &str) {
        let back = &self.setting.back;
        if let Err(error) = store.run(|client| errors::report_error(client, back, why)) {
            tracing::warn!(%error, "the reason cannot be left in xenstore");
        }
    }

    fn remove_own(&self, store: &Steady) {
        for name in self.protocol.closed_nodes() {
            let node = format!("{}/{name}", self.setting.back);
            if let Some(Err(error)) = store.client().map(|client| client.rm(&node)) {
                tracing::debug!(%error, "{node} stays in xenstore");
            }
        }
    }
}

impl<P: BackProtocol> Keep for Side<P> {
    type Command = Report;
    type News = BackNews<P>;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        let BackSetting { front, back } = self.setting.clone();
        store.watch(&format!("{front}/state"), FRONT)?;
        store.watch(&format!("{back}/state"), OWN)?;
        store.watch(&format!("{back}/online"), ONLINE)?;
        // Only privileged domains hear of it; the others see the front's directory go.
        store.watch_if_allowed("@releaseDomain", FRONT)?;
        let own = store.run(|client| node::read_state(client, &back))?;
        let online = store.run(|client| node::read_online(client, &back))?;
        self.feed(store, Input::Start { own, online })
    }

    fn obey(&mut self, store: &mut Steady, report: Report) -> Result<()> {
        let input = match report {
            Report::Explain(Some(why)) => {
                self.leave_reason(store, &why);
                return Ok(());
            }
            Report::Explain(None) => {
                return store.run(|client| errors::clear_error(client, &self.setting.back));
            }
            Report::Connected => Input::Connected,
            Report::ConnectFailed(why) => Input::ConnectFailed(why),
            Report::Freed => Input::Freed,
            Report::Fatal(why) => Input::Fatal(why),
            Report::FrontDied(how) => {
                self.news_of_death(how);
                Input::PeerDied
            }
            Report::Stop(patience) => {
                self.abandon_at = Instant::now().checked_add(patience);
                Input::CloseRequested
            }
        };
        self.feed(store, input)
    }

    /// The event says where, never what: all is read again.
    fn look(&mut self, store: &mut Steady, fired: &BTreeSet<String>) -> Result<()> {
        let back = self.setting.back.clone();
        for token in [ONLINE, OWN, FRONT] {
            if !fired.contains(token) || self.over {
                continue;
            }
            let input = match token {
                FRONT => self.read_peer(store)?,
                OWN => Input::Own(store.run(|client| node::read_state(client, &back))?),
                _ => Input::Online(store.run(|client| node::read_online(client, &back))?),
            };
            self.feed(store, input)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.abandon_at
    }

    fn late(&mut self, store: &mut Steady) -> Result<()> {
        self.abandon_at = None;
        tracing::warn!(
            front = self.setting.front,
            "the front end does not close; left alone"
        );
        self.feed(store, Input::Abandon)
    }

    fn news(&mut self) -> Option<BackNews<P>> {
        self.news.pop_front()
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
