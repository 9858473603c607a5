//! Reads the nodes, and performs what [`front::Handshake`](Handshake) says; what that
//! machine wants of the ring becomes news.

use super::find::{Found, find};
use super::words::{BusEvent, Report, Situation};
use crate::config::{FrontConfig, name};
use crate::error::{FrontError, system};
use libgnt::DomId;
use libgnt::machine::{Machine, monotonic};
use libgnt::proto::blkif::nodes::{self, BackNodes, FrontNodes, NodeError, size_of_disk};
use pv_xenstore::keeper::{Keep, Keeper};
use pv_xenstore::steady::Steady;
use pv_xenstore::toolstack::{self, DeviceId, KernelCheck};
use pv_xenstore::xenbus::front::{Action, Handshake, Input};
use pv_xenstore::xenbus::node::{self, Switched, read_online, read_state};
use pv_xenstore::xenbus::{SwitchState, XenbusState};
use pv_xenstore::{Client, Result};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Rings in a row that never came into service, before the device is given up.
const ATTEMPTS_MAX: u32 = 8;

/// One device in xenstore.
#[derive(Debug)]
pub(super) struct Side {
    device: DeviceId,
    /// Relative to our home: `device/CLASS/N`.
    front: String,
    /// Absolute.
    back: String,
    back_domid: DomId,
    kernel: KernelCheck,
    handle: u16,
    handshake: Handshake,
    /// The back end's state and `online`, as last read.
    peer: Option<XenbusState>,
    online: bool,
    peer_dead: bool,
    closing: bool,
    /// The ring's nodes, for the switch to Initialised.
    ring_nodes: Vec<(&'static str, String)>,
    /// The back end's nodes, until the switch to Connected.
    back_nodes: Option<BackNodes>,
    /// The disk's size while connected.
    sectors: Option<u64>,
    /// Why the device failed, as reported.
    error: Option<String>,
    news: VecDeque<BusEvent>,
    situation: Arc<Mutex<Situation>>,
    /// Before the handshake's end.
    over: bool,
}

impl Side {
    /// Finds the device that the toolstack made, and starts the thread.
    pub(super) fn start(
        config: &FrontConfig,
        situation: Arc<Mutex<Situation>>,
    ) -> Result<Keeper<Side>, FrontError> {
        let client = Client::connect(&*config.platform)?;
        let Found {
            front,
            back,
            back_domid,
            kernel,
        } = find(&client, config)?;
        let side = Side {
            device: config.device,
            front,
            back,
            back_domid,
            kernel,
            // The slot's field has 16 bits, as Linux's `blkif_vdev_t`.
            handle: config.device.0 as u16,
            handshake: Handshake::new(Some(ATTEMPTS_MAX)),
            peer: None,
            online: false,
            peer_dead: false,
            closing: false,
            ring_nodes: Vec::new(),
            back_nodes: None,
            sectors: None,
            error: None,
            news: VecDeque::new(),
            situation,
            over: false,
        };
        side.tell_situation();
        let platform = Arc::clone(&config.platform);
        let open = Box::new(move || Client::connect(&*platform));
        Keeper::start("xenstore", side, Steady::new(client, open))
            .map_err(system("thread for xenstore"))
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
        situation.back.clone_from(&self.back);
        situation.back_domid = self.back_domid;
        situation.peer = self.peer;
        situation.peer_dead = self.peer_dead;
        situation.own = self.handshake.own();
    }

    fn read_peer(&mut self, store: &mut Steady) -> Result<Input> {
        let back = self.back.as_str();
        (self.peer, self.online) =
            store.run(|client| Ok((read_state(client, back)?, read_online(client, back)?)))?;
        Ok(Input::Peer {
            state: self.peer,
            online: self.online,
        })
    }

    /// A back end that writes its state anew without a change may have changed the disk's size
    /// (`blkfront_connect` in `drivers/block/xen-blkfront.c`, Linux 6.12, reads it then).
    fn look_at_size(&mut self, store: &mut Steady) -> Result<()> {
        let Some(known) = self.sectors else {
            return Ok(());
        };
        if self.peer != Some(XenbusState::Connected) || !self.handshake.is_connected() {
            return Ok(());
        }
        match size_of_disk(store.run(|client| self.back_node(client, nodes::SECTORS))?) {
            Ok(sectors) if sectors != known => {
                self.sectors = Some(sectors);
                self.news.push_back(BusEvent::Resized { sectors });
            }
            Ok(_) => {}
            // What it said before was good, and requests are checked against that.
            Err(error) => tracing::debug!(device = %name(self.device), %error, "size unchanged"),
        }
        Ok(())
    }

    fn feed(&mut self, store: &mut Steady, input: Input) -> Result<()> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            // The machine's end is final, and it says so once.
            if self.is_over() {
                return Ok(());
            }
            let mut actions = Vec::new();
            self.handshake.step(monotonic(), input, &mut actions);
            for action in actions {
                inputs.extend(self.perform(store, action)?);
            }
        }
        Ok(())
    }

    /// Performs one action; the answer, if it is known at once.
    fn perform(&mut self, store: &mut Steady, action: Action) -> Result<Option<Input>> {
        tracing::debug!(device = %name(self.device), ?action, "handshake");
        match action {
            // No feature of the back end's is asked for yet: some publish them only with the
            // switch to Connected, and what is there may be an earlier one's.
            Action::PrepareRing => {
                match self.kernel.look() {
                    Ok(()) => {
                        let back = self.back_domid;
                        self.news.push_back(BusEvent::Share { back });
                    }
                    // It writes into the same directory: nothing more of ours.
                    Err(driver) => {
                        self.news.push_back(BusEvent::Taken(driver));
                        self.over = true;
                    }
                }
            }
            Action::ReadPeerAndConnect => {
                let read = store.run(|client| {
                    match BackNodes::read(|node| Ok(self.back_node(client, node)?)) {
                        Ok(nodes) => Ok(Ok(nodes)),
                        Err(FrontError::Xenstore(error)) => Err(error),
                        Err(other) => Ok(Err(other.to_string())),
                    }
                })?;
                return Ok(Some(match read {
                    Ok(nodes) => {
                        self.back_nodes = Some(nodes);
                        Input::Connected
                    }
                    Err(why) => Input::ConnectFailed(why),
                }));
            }
            Action::SwitchState(switch) => return self.switch(store, switch),
            Action::ReadPeer => return Ok(Some(self.read_peer(store)?)),
            Action::StopRequests => {
                self.sectors = None;
                let why = match self.peer {
                    _ if self.peer_dead => "its process died".into(),
                    Some(state) => format!("it is {state}"),
                    None => "its xenstore directory is gone".into(),
                };
                let drain = (self.closing || !self.online) && !self.peer_dead;
                self.news.push_back(BusEvent::Stop { why, drain });
            }
            Action::FreeResources => self.news.push_back(BusEvent::Free),
            Action::ReportError(why) => {
                let front = self.front.as_str();
                let reported = store.run(|client| toolstack::report_error(client, front, &why));
                if let Err(error) = reported {
                    tracing::warn!(%error, why, "cannot leave the reason in xenstore");
                }
                self.error.get_or_insert(why);
            }
            Action::RemoveDevice => {
                let why = match self.error.clone() {
                    Some(why) => why,
                    None if self.closing => "the device was closed".into(),
                    None => "the toolstack removed the device".into(),
                };
                self.news.push_back(BusEvent::Removed { why });
            }
            Action::Refuse(why) => tracing::debug!(device = %name(self.device), why, "ignored"),
        }
        Ok(None)
    }

    fn switch(&mut self, store: &mut Steady, switch: SwitchState) -> Result<Option<Input>> {
        if switch.to == XenbusState::Closed {
            // Before the state: a front end that finds it may start, and write its own.
            store.run(|client| self.remove_ring_nodes(client))?;
        }
        let nodes = match switch.to {
            XenbusState::Initialised => std::mem::take(&mut self.ring_nodes),
            _ => Vec::new(),
        };
        let back = self.back.as_str();
        let while_peer = switch.while_peer.map(|state| (back, state));
        let front = self.front.as_str();
        let done = node::switch_state_steadily(store, front, switch.to, while_peer, &nodes)?;
        Ok(match done {
            Switched::OwnGone => Some(Input::Own(None)),
            Switched::Done if switch.while_peer.is_none() => None,
            Switched::Done => {
                if let (XenbusState::Connected, Some(BackNodes { disk, liveness, .. })) =
                    (switch.to, self.back_nodes.take())
                {
                    let handle = self.handle;
                    self.sectors = Some(disk.sectors);
                    self.news.push_back(BusEvent::Connected {
                        disk,
                        handle,
                        liveness,
                    });
                }
                Some(Input::Switched)
            }
            Switched::PeerMoved(state) => {
                self.peer = state;
                self.online = store.run(|client| read_online(client, &self.back))?;
                Some(Input::PeerMoved {
                    state,
                    online: self.online,
                })
            }
        })
    }

    fn back_node(&self, client: &Client, node: &str) -> Result<Option<Vec<u8>>> {
        client.try_read(&format!("{}/{node}", self.back))
    }

    /// Takes away what a ring was announced with: the directory may belong to another front end
    /// next, a kernel's for example, and a back end would take ours for its word.
    fn remove_ring_nodes(&self, client: &Client) -> Result<()> {
        for node in FrontNodes::NAMES {
            self.remove_node(client, node)?;
        }
        Ok(())
    }

    fn remove_node(&self, client: &Client, node: &str) -> Result<()> {
        match client.rm(&format!("{}/{node}", self.front)) {
            Err(error) if !error.is_gone() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes away what a front end before this one announced in another form: a back end that
    /// reads it would look for rings that are gone.
    fn remove_leftovers(&self, client: &Client) -> Result<()> {
        let names = match client.directory(&self.front) {
            // The handshake finds out by itself.
            Err(error) if error.is_gone() => return Ok(()),
            names => names?,
        };
        for name in names.iter().filter(|name| FrontNodes::is_other_form(name)) {
            self.remove_node(client, name)?;
        }
        Ok(())
    }
}

impl Keep for Side {
    type Command = Report;
    type News = BusEvent;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        for path in [
            format!("{}/state", self.front),
            format!("{}/state", self.back),
            format!("{}/online", self.back),
        ] {
            store.watch(&path, "device")?;
        }
        // Not for every domain; the directory's removal tells as well.
        store.watch_if_allowed("@releaseDomain", "domains")?;
        let front = self.front.clone();
        if let Err(error) = store.run(|client| toolstack::clear_error(client, &front)) {
            tracing::debug!(%error, "old error node");
        }
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
                Input::Fatal(why)
            }
            Report::Close => {
                self.closing = true;
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
        let front = self.front.clone();
        let own = store.run(|client| read_state(client, &front))?;
        self.feed(store, Input::Own(own))?;
        let peer = self.read_peer(store)?;
        self.feed(store, peer)?;
        self.look_at_size(store)?;
        self.tell_situation();
        Ok(())
    }

    fn news(&mut self) -> Option<BusEvent> {
        self.news.pop_front()
    }

    fn is_over(&self) -> bool {
        self.over || self.handshake.is_removed()
    }
}

impl From<NodeError> for FrontError {
    fn from(error: NodeError) -> Self {
        FrontError::Nodes(error.to_string())
    }
}
