//! Finds the device, reads and writes the nodes, and performs what [`Handshake`] says; what that machine
//! wants of the ring becomes an order.

use super::offer;
use super::orders::{Order, Report};
use crate::config::Mode;
use crate::disk::Disk;
use crate::error::BackError;
use crate::link::Offer;
use libgnt::machine::{Machine, monotonic};
use libgnt::proto::blkif::nodes::{self, BackNodes, FrontNodes, NodeError};
use libgnt::{DomId, Platform};
use pv_xenstore::keeper::{Keep, Keeper};
use pv_xenstore::steady::Steady;
use pv_xenstore::toolstack::{self, DeviceKey, DevicePaths, KernelCheck, Side};
use pv_xenstore::xenbus::back::{Action, Handshake, Input};
use pv_xenstore::xenbus::node::{self, Switched};
use pv_xenstore::xenbus::{SwitchState, XenbusState};
use pv_xenstore::{Client, Error, Result, value};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The watches' tokens.
const FRONT: &str = "front";
const OWN: &str = "own";
const ONLINE: &str = "online";

/// The two directories, and the handshake.
#[derive(Debug)]
pub(crate) struct Bus {
    front: DomId,
    own: DomId,
    paths: DevicePaths,
    kernel: KernelCheck,
    machine: Handshake,
    /// What is offered; as long as nobody has opened a disk, nothing.
    offered: BackNodes,
    /// The front may only read: because the disk was opened so, or by the toolstack's word.
    read_only: bool,
    orders: VecDeque<Order>,
    /// When the front's time to close is over.
    abandon_at: Option<Instant>,
    /// A broken rule was told; nobody is to be answered.
    broken: bool,
    over: bool,
}

/// A device, as it was found.
pub(crate) struct Found {
    pub bus: Bus,
    pub client: Client,
    /// Nobody has served it yet: whatever an earlier back end left is not of this device.
    pub is_new: bool,
}

impl Bus {
    /// Connects, and finds the device's directories. Nothing is written before [`Bus::start`].
    ///
    /// # Errors
    /// [`BackError::NoDevice`] if the toolstack has not created the device;
    /// [`BackError::KernelDriver`] if the kernel has taken it.
    pub fn open(
        platform: &dyn Platform,
        device: &DeviceKey,
        sysfs: Option<&Path>,
    ) -> Result<Found, BackError> {
        let front = device.front_domid;
        let client = Client::connect(platform)?;
        let own = DomId(client.read_parsed("domid")?);
        let mut paths = device.paths(own);
        let frontend = format!("{}/frontend", paths.back);
        match client.read_string(&frontend) {
            Ok(path) => paths.front = path,
            Err(error) if error.is_gone() => {
                return Err(BackError::NoDevice {
                    device: device.clone(),
                    path: frontend,
                });
            }
            Err(error) => return Err(error.into()),
        }
        let side = Side::Back { front_domid: front };
        let kernel = KernelCheck::new(platform, sysfs, side, &device.class, device.devid);
        kernel.look()?;
        let state = node::read_state(&client, &paths.back)?;
        let bus = Bus {
            offered: offer::NOTHING,
            read_only: false,
            front,
            own,
            paths,
            kernel,
            machine: Handshake::new(),
            orders: VecDeque::new(),
            abandon_at: None,
            broken: false,
            over: false,
        };
        Ok(Found {
            bus,
            client,
            is_new: state == Some(XenbusState::Initialising),
        })
    }

    /// Offers the disk, and starts the thread.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start(
        mut self,
        client: Client,
        platform: Arc<dyn Platform>,
        (disk, mode): (&Disk, Mode),
    ) -> std::io::Result<Keeper<Bus>> {
        self.offered = offer::of(disk, mode);
        let open = Box::new(move || Client::connect(&*platform));
        Keeper::start("xenstore", self, Steady::new(client, open))
    }

    /// The domain that this process runs in.
    pub fn own(&self) -> DomId {
        self.own
    }

    /// The toolstack lets the front only read: by its node `mode`, which is never written here
    /// (XSA-142), or because it is a CD-ROM, as for QEMU's back end.
    ///
    /// # Errors
    /// The connection's.
    pub fn toolstack_forbids_writes(&self, client: &Client) -> Result<bool> {
        let mode = toolstack::read_mode(client, &self.paths.back)?;
        let cdrom = toolstack::read_medium(client, &self.paths.back)?.cdrom;
        Ok(cdrom || mode == Some(toolstack::Mode::ReadOnly))
    }

    /// What is said of the disk, to the front that is connected to now.
    fn disk_nodes(&self, client: &Client) -> Result<Vec<(&'static str, String)>> {
        let medium = toolstack::read_medium(client, &self.paths.back)?;
        let mut nodes = self.offered;
        nodes.cdrom = medium.cdrom;
        nodes.removable = medium.removable;
        nodes.disk.read_only = self.read_only;
        Ok(nodes.write_disk())
    }

    fn read_peer(&mut self, store: &mut Steady) -> Result<Input> {
        let state = store.run(|client| node::read_state(client, &self.paths.front))?;
        Ok(Input::Peer(state))
    }

    fn news_of_death(&mut self, how: String) {
        self.broken = true;
        self.orders.push_back(Order::FrontGone(how));
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
                store.run(|client| self.publish(client))?;
            }
            Action::ReadPeerAndConnect { take_over } => {
                return match store.run(|client| self.read_offer(client, take_over))? {
                    Ok(offer) => {
                        if let Err(driver) = self.kernel.look() {
                            // It writes into the same directory: nothing more of ours.
                            self.orders.push_back(Order::Taken(driver));
                            self.over = true;
                            return Ok(None);
                        }
                        self.read_only = offer.read_only;
                        self.orders.push_back(Order::Connect(offer));
                        Ok(None)
                    }
                    Err(bad) => Ok(Some(Input::ConnectFailed(bad.to_string()))),
                };
            }
            Action::SwitchState(switch) => return self.switch(store, switch),
            Action::ReadPeer => return self.read_peer(store).map(Some),
            Action::PeerGone => {
                if !self.broken {
                    self.news_of_death("its directory is gone from xenstore".into());
                }
            }
            Action::FreeResources => {
                let answer_first = abandoned && !self.broken;
                self.orders.push_back(Order::Free { answer_first });
            }
            Action::ReportError(text) => {
                self.broken = true;
                self.leave_reason(store, &text);
                self.orders.push_back(Order::Fatal(text));
            }
            Action::RemoveDevice => self.over = true,
            Action::Refuse(why) => tracing::debug!(front = %self.front, why, "ignored"),
        }
        Ok(None)
    }

    /// Writes the features, unless the toolstack has just taken the directory away.
    fn publish(&self, client: &Client) -> Result<()> {
        let back = &self.paths.back;
        client.transaction(|tx| {
            if !tx.exists(&format!("{back}/state"))? {
                return Ok(());
            }
            for (name, value) in self.offered.write_features() {
                tx.write(&format!("{back}/{name}"), value)?;
            }
            Ok(())
        })?;
        // What an earlier front's fault left there would mislead.
        if let Err(error) = toolstack::clear_error(client, back) {
            tracing::debug!(%error, "the last error stays in xenstore");
        }
        Ok(())
    }

    fn switch(&mut self, store: &mut Steady, switch: SwitchState) -> Result<Option<Input>> {
        let SwitchState { to, while_peer } = switch;
        let nodes = match to {
            XenbusState::Connected => store.run(|client| self.disk_nodes(client))?,
            _ => Vec::new(),
        };
        let DevicePaths { front, back } = &self.paths;
        let peer = while_peer.map(|state| (front.as_str(), state));
        let switched = node::switch_state_steadily(store, back, to, peer, &nodes)?;
        match switched {
            Switched::Done => {}
            Switched::OwnGone => return Ok(Some(Input::Own(None))),
            Switched::PeerMoved(state) => return Ok(Some(Input::PeerMoved(state))),
        }
        tracing::debug!(front = %self.front, state = %to, "switched");
        self.orders.extend(match to {
            XenbusState::InitWait => Some(Order::Waiting),
            XenbusState::Connected => Some(Order::Serve),
            XenbusState::Closed => {
                self.remove_own(store);
                Some(Order::Closed)
            }
            _ => None,
        });
        Ok(while_peer.map(|_| Input::Switched))
    }

    fn leave_reason(&self, store: &mut Steady, why: &str) {
        let back = &self.paths.back;
        if let Err(error) = store.run(|client| toolstack::report_error(client, back, why)) {
            tracing::warn!(%error, "the reason cannot be left in xenstore");
        }
    }

    /// What would speak for a back end of another make that serves the device after us.
    fn remove_own(&self, store: &Steady) {
        let node = format!("{}/{}", self.paths.back, nodes::LIVENESS);
        if let Some(Err(error)) = store.client().map(|client| client.rm(&node)) {
            tracing::debug!(%error, "{node} stays in xenstore");
        }
    }

    fn read_offer(&self, client: &Client, take_over: bool) -> Result<Result<Offer, NodeError>> {
        enum Stop {
            Bad(NodeError),
            Store(Error),
        }
        impl From<NodeError> for Stop {
            fn from(bad: NodeError) -> Self {
                Stop::Bad(bad)
            }
        }
        let DevicePaths { front, back } = &self.paths;
        let read = |name: &str| {
            let value = client.read_unless_gone(&format!("{front}/{name}"));
            value.map_err(Stop::Store)
        };
        let nodes = match FrontNodes::read(read) {
            Ok(nodes) => nodes,
            Err(Stop::Bad(bad)) => return Ok(Err(bad)),
            Err(Stop::Store(error)) => return Err(error),
        };
        let mut persistent = self.offered.disk.persistent && nodes.persistent;
        if take_over {
            // A front that was told otherwise takes its grants back after each request.
            let offered = client.try_read(&format!("{back}/{}", nodes::FEATURE_PERSISTENT))?;
            persistent &= offered.is_some_and(|value| value::boolean(&value) == Some(true));
        }
        Ok(Ok(Offer {
            nodes,
            take_over,
            persistent,
            // Asked anew for each front: the device may have been made anew before it.
            read_only: self.offered.disk.read_only || self.toolstack_forbids_writes(client)?,
        }))
    }
}

impl Keep for Bus {
    type Command = Report;
    type News = Order;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        let DevicePaths { front, back } = self.paths.clone();
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
                return store.run(|client| toolstack::clear_error(client, &self.paths.back));
            }
            Report::Connected => Input::Connected,
            Report::ConnectFailed(why) => Input::ConnectFailed(why),
            Report::Freed => Input::Freed,
            Report::Fatal(why) => Input::Fatal(why),
            Report::FrontDied(how) => {
                self.news_of_death(how);
                Input::PeerDied
            }
            Report::Stop(deadline) => {
                self.abandon_at = Instant::now().checked_add(deadline);
                Input::CloseRequested
            }
        };
        self.feed(store, input)
    }

    /// The event says where, never what: all is read again.
    fn look(&mut self, store: &mut Steady, fired: &BTreeSet<String>) -> Result<()> {
        let back = self.paths.back.clone();
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
        tracing::warn!(front = %self.front, "the front end does not close; left alone");
        self.feed(store, Input::Abandon)
    }

    fn news(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
