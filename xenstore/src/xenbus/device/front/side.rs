//! Reads the nodes, and performs what the front end's [`Handshake`] says; what that machine wants of
//! the ring becomes news.

use super::super::super::errors;
use super::super::super::feature::{Node, Published, settled};
use super::super::super::front::{Handshake, Input};
use super::super::super::node::{read_online, read_state};
use super::super::super::state::XenbusState;
use super::super::situation::Situation;
use super::link::Link;
use super::words::{FrontNews, FrontProtocol, FrontSetting, Report};
use crate::client::Client;
use crate::error::Result;
use crate::keeper::Keep;
use crate::steady::Steady;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The token of the watches on either end's nodes.
const DEVICE: &str = "device";

/// One device in xenstore.
#[derive(Debug)]
pub struct Side<P: FrontProtocol> {
    pub(super) protocol: P,
    pub(super) setting: FrontSetting,
    pub(super) link: Link,
    pub(super) handshake: Handshake,
    /// The back end's state and `online`, as last read.
    pub(super) peer: Option<XenbusState>,
    pub(super) online: bool,
    pub(super) peer_dead: bool,
    pub(super) closing: bool,
    /// The device was made anew, and the ring of the old one is still to be given up.
    pub(super) renewed: bool,
    /// The ring's nodes, for the switch to Initialised.
    pub(super) ring_nodes: Vec<Node>,
    /// What the back end said, until the switch to Connected.
    pub(super) back: Option<P::Back>,
    /// When the patience is over.
    pub(super) deadline: Option<Instant>,
    /// Why the device failed, as reported.
    pub(super) error: Option<String>,
    pub(super) news: VecDeque<FrontNews<P>>,
    pub(super) situation: Arc<Mutex<Situation>>,
    /// Before the handshake's end.
    pub(super) over: bool,
}

impl<P: FrontProtocol> Side<P> {
    pub fn new(
        protocol: P,
        setting: FrontSetting,
        link: Link,
        situation: Arc<Mutex<Situation>>,
    ) -> Self {
        let side = Side {
            handshake: Handshake::new(setting.attempts_max),
            protocol,
            setting,
            link,
            peer: None,
            online: false,
            peer_dead: false,
            closing: false,
            renewed: false,
            ring_nodes: Vec::new(),
            back: None,
            deadline: None,
            error: None,
            news: VecDeque::new(),
            situation,
            over: false,
        };
        side.tell_situation();
        side
    }

    fn asks(&self) {
        let situation = self.situation.lock();
        situation.unwrap_or_else(PoisonError::into_inner).asking = true;
    }

    fn tell_situation(&self) {
        let mut situation = self
            .situation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        situation.asking = false;
        situation.back.clone_from(&self.link.back);
        situation.back_domid = self.link.back_domid;
        situation.peer = self.peer;
        situation.peer_dead = self.peer_dead;
        situation.own = self.handshake.own();
    }

    pub(super) fn be_patient(&mut self) {
        self.deadline = self
            .setting
            .patience
            .and_then(|patience| Instant::now().checked_add(patience));
    }

    pub(super) fn read_peer(&mut self, store: &mut Steady) -> Result<Input> {
        let back = self.link.back.as_str();
        (self.peer, self.online) =
            store.run(|client| Ok((read_state(client, back)?, read_online(client, back)?)))?;
        Ok(Input::Peer {
            state: self.peer,
            online: self.online,
        })
    }

    fn watched(link: &Link) -> [String; 2] {
        [
            format!("{}/state", link.back),
            format!("{}/online", link.back),
        ]
    }

    /// The own state, and whether the directory is still the same device's.
    fn read_own(&mut self, store: &mut Steady) -> Result<Input> {
        let front = self.setting.front.clone();
        let own = store.run(|client| read_state(client, &front))?;
        if own != Some(XenbusState::Initialising) {
            return Ok(Input::Own(own));
        }
        let link = match self.read_link(store)? {
            Ok(link) => link,
            Err(failed) => return Ok(failed),
        };
        if link == self.link && self.handshake.own() == XenbusState::Initialising {
            return Ok(Input::Own(own));
        }
        self.follow(store, link)?;
        Ok(Input::Renewed)
    }

    pub(super) fn read_link(&self, store: &mut Steady) -> Result<Result<Link, Input>> {
        let front = self.setting.front.as_str();
        let read = store.run(|client| settled(Link::read(client, front)))?;
        Ok(read.map_err(Input::Fatal))
    }

    /// The toolstack has made the device anew, perhaps with a back end elsewhere.
    pub(super) fn follow(&mut self, store: &mut Steady, link: Link) -> Result<()> {
        let front = &self.setting.front;
        tracing::warn!(front, back = link.back, "the device was made anew");
        self.renewed = true;
        self.peer_dead = false;
        if link != self.link {
            for path in Self::watched(&self.link) {
                store.unwatch(&path, DEVICE)?;
            }
            for path in Self::watched(&link) {
                store.watch(&path, DEVICE)?;
            }
            self.link = link;
        }
        self.be_patient();
        Ok(())
    }

    /// A back end that writes its state anew without a change may have changed something else (as
    /// `blkfront_connect` in `drivers/block/xen-blkfront.c`, Linux 6.12, expects of a disk's size).
    fn look_for_change(&mut self, store: &mut Steady) -> Result<()> {
        if self.peer != Some(XenbusState::Connected) || !self.handshake.is_connected() {
            return Ok(());
        }
        let back = self.link.back.as_str();
        let protocol = &mut self.protocol;
        let read = |client: &Client| settled(protocol.read_change(&Published::new(client, back)));
        match store.run(read)? {
            Ok(change) => self.news.extend(change.map(FrontNews::Changed)),
            // What it said before was good.
            Err(why) => tracing::debug!(back, why, "no change"),
        }
        Ok(())
    }
}

impl<P: FrontProtocol> Keep for Side<P> {
    type Command = Report;
    type News = FrontNews<P>;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        let front = self.setting.front.clone();
        store.watch(&format!("{front}/state"), DEVICE)?;
        for path in Self::watched(&self.link) {
            store.watch(&path, DEVICE)?;
        }
        // Not for every domain; the directory's removal tells as well.
        store.watch_if_allowed("@releaseDomain", "domains")?;
        if let Err(error) = store.run(|client| errors::clear_error(client, &front)) {
            tracing::debug!(%error, "old error node");
        }
        self.be_patient();
        let own = store.run(|client| read_state(client, &front))?;
        let result = self.feed(store, Input::Start(own));
        self.tell_situation();
        result
    }

    fn obey(&mut self, store: &mut Steady, report: Report) -> Result<()> {
        self.asks();
        let mut abandoned = false;
        let input = match report {
            Report::RingReady(nodes) => {
                self.peer_dead = false;
                self.ring_nodes = nodes;
                store.run(|client| self.remove_leftovers(client))?;
                Input::RingReady
            }
            Report::RingFailed(why) => Input::RingFailed(why),
            Report::Quiet => Input::Quiet,
            Report::Freed => Input::Freed,
            Report::PeerDied => {
                self.peer_dead = true;
                // Nobody is there to close in order with.
                abandoned = self.closing;
                Input::PeerDied
            }
            Report::Fail(why) => {
                self.closing = true;
                self.be_patient();
                Input::Fatal(why)
            }
            Report::Close => {
                self.closing = true;
                self.be_patient();
                abandoned = self.peer_dead;
                Input::CloseRequested
            }
            Report::Abandon => Input::Abandon,
        };
        self.feed(store, input)?;
        if abandoned {
            self.feed(store, Input::Abandon)?;
        }
        self.tell_situation();
        Ok(())
    }

    /// The events say where, never what: all is read again.
    fn look(&mut self, store: &mut Steady, _: &BTreeSet<String>) -> Result<()> {
        self.asks();
        let own = self.read_own(store)?;
        self.feed(store, own)?;
        let peer = self.read_peer(store)?;
        self.feed(store, peer)?;
        self.look_for_change(store)?;
        self.tell_situation();
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Once to give the back end up, and once more to wait no longer for its consent.
    fn late(&mut self, store: &mut Steady) -> Result<()> {
        self.asks();
        let input = if self.closing {
            self.deadline = None;
            Input::Abandon
        } else {
            self.closing = true;
            self.be_patient();
            let patience = self.setting.patience.unwrap_or_default();
            self.tell_situation();
            let situation = self.situation.lock();
            let situation = situation
                .unwrap_or_else(PoisonError::into_inner)
                .to_string();
            Input::Fatal(format!("not in service after {patience:?}: {situation}"))
        };
        self.feed(store, input)?;
        self.tell_situation();
        Ok(())
    }

    fn news(&mut self) -> Option<FrontNews<P>> {
        self.news.pop_front()
    }

    fn is_over(&self) -> bool {
        self.over || self.handshake.is_removed()
    }
}
