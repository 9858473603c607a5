//! xenstore's side of the device: performs what the handshake's machine asks for, and turns what
//! concerns the ring into orders for the loop.

use super::config::{BackendError, Mode};
use super::nodes::{BACK_LIVENESS, FrontNodes, LIVENESS_NODE, NodeError};
use crate::disk::Disk;
use libgnt::{DomId, Platform};
use pv_xenstore::toolstack::{self, DeviceKey, DevicePaths, KernelCheck, Side};
use pv_xenstore::xenbus::back::{Action, Handshake, Input};
use pv_xenstore::xenbus::node::{self, Switched};
use pv_xenstore::xenbus::{SwitchState, XenbusState};
use pv_xenstore::{Client, Error};
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bits of the node `info` (`xen/include/public/io/blkif.h`).
const VDISK_CDROM: u32 = 1;
const VDISK_REMOVABLE: u32 = 2;
const VDISK_READONLY: u32 = 4;

/// What the loop has to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Features are announced; no front yet.
    Waiting,
    /// Map the ring, bind the channel; then [`Bus::connected`] or [`Bus::connect_failed`].
    Connect(FrontNodes),
    /// Both sides know: take requests.
    Serve,
    /// Let everything of the front's go; then [`Bus::freed`].
    Free {
        /// The front is still there: what is in flight may be answered first.
        answer_first: bool,
    },
    /// News: the front, or its domain, went away without closing.
    FrontGone(String),
    /// News: the front broke the protocol.
    Fatal(String),
    /// News: the device is closed.
    Closed,
}

/// The connection to xenstore, the two directories, and the handshake.
#[derive(Debug)]
pub(super) struct Bus {
    client: Client,
    front: DomId,
    own: DomId,
    paths: DevicePaths,
    kernel: KernelCheck,
    machine: Handshake,
    features: Vec<(&'static str, String)>,
    sizes: Vec<(&'static str, String)>,
    /// The disk was opened for reading only.
    disk_read_only: bool,
    /// The front may only read: for that reason, or by the toolstack's word.
    read_only: bool,
    orders: VecDeque<Order>,
    /// When the front's time to close is over.
    abandon_at: Option<Instant>,
    /// A broken rule was told; nobody is to be answered.
    broken: bool,
    over: bool,
}

impl Bus {
    /// Connects, and finds the device's directories. Nothing is written before [`Bus::start`].
    ///
    /// # Errors
    /// [`BackendError::NoDevice`] if the toolstack has not created the device;
    /// [`BackendError::KernelDriver`] if the kernel has taken it.
    pub fn open(
        platform: &dyn Platform,
        device: &DeviceKey,
        sysfs: Option<&Path>,
    ) -> Result<Self, BackendError> {
        let front = device.front_domid;
        let client = Client::connect(platform)?;
        let own = DomId(client.read_parsed("domid")?);
        let mut paths = device.paths(own);
        let no_device = |path: &str| {
            BackendError::NoDevice(format!(
                "{device} is not in xenstore: {path} is missing; create it with \
                 `pv-backend attach --front {} --device {} --class {}`",
                front.0, device.devid, device.class
            ))
        };
        let frontend = format!("{}/frontend", paths.back);
        match client.read_string(&frontend) {
            Ok(path) => paths.front = path,
            Err(error) if error.is_gone() => return Err(no_device(&frontend)),
            Err(error) => return Err(error.into()),
        }
        let side = Side::Back { front_domid: front };
        let kernel = KernelCheck::new(platform, sysfs, side, &device.class, device.devid);
        kernel.look()?;
        Ok(Bus {
            features: Vec::new(),
            sizes: Vec::new(),
            disk_read_only: false,
            read_only: false,
            client,
            front,
            own,
            paths,
            kernel,
            machine: Handshake::new(),
            orders: VecDeque::new(),
            abandon_at: None,
            broken: false,
            over: false,
        })
    }

    /// Offers the disk, and watches both directories.
    pub fn start(&mut self, disk: &Disk, mode: Mode) -> Result<(), BackendError> {
        let persistent = matches!(mode, Mode::Auto | Mode::Persistent);
        let flag = |on: bool| u8::from(on).to_string();
        self.features = vec![
            ("feature-flush-cache", flag(true)),
            ("feature-persistent", flag(persistent)),
            ("max-ring-page-order", flag(false)),
            (LIVENESS_NODE, BACK_LIVENESS.to_string()),
        ];
        self.sizes = vec![
            ("sectors", disk.sectors().to_string()),
            ("sector-size", "512".into()),
            (
                "physical-sector-size",
                disk.physical_sector_size().to_string(),
            ),
        ];
        self.disk_read_only = disk.is_read_only();
        let DevicePaths { front, back } = &self.paths;
        self.client.watch(&format!("{front}/state"), "front")?;
        self.client.watch(&format!("{back}/state"), "own")?;
        self.client.watch(&format!("{back}/online"), "online")?;
        match self.client.watch("@releaseDomain", "front") {
            // Only privileged domains hear of it; the others see the front's directory go.
            Err(Error::Refused { .. }) => {}
            other => other?,
        }
        let own = node::read_state(&self.client, back)?;
        let online = node::read_online(&self.client, back)?;
        self.feed(Input::Start { own, online })
    }

    /// For the event loop to register.
    pub fn source(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Whose device.
    pub fn front(&self) -> DomId {
        self.front
    }

    /// The domain that this process runs in.
    pub fn own(&self) -> DomId {
        self.own
    }

    /// The toolstack lets the front only read: by its node `mode`, which is never written here
    /// (XSA-142), or because it is a CD-ROM, as for QEMU's back end.
    pub fn toolstack_forbids_writes(&self) -> Result<bool, BackendError> {
        let mode = toolstack::read_mode(&self.client, &self.paths.back)?;
        let cdrom = toolstack::read_medium(&self.client, &self.paths.back)?.cdrom;
        Ok(cdrom || mode == Some(toolstack::Mode::ReadOnly))
    }

    /// The node `info`.
    fn info(&self) -> Result<u32, BackendError> {
        let medium = toolstack::read_medium(&self.client, &self.paths.back)?;
        let bit = |is, bit| if is { bit } else { 0 };
        Ok(bit(medium.cdrom, VDISK_CDROM)
            | bit(medium.removable, VDISK_REMOVABLE)
            | bit(self.read_only, VDISK_READONLY))
    }

    /// The front that connects may only read.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The device is gone, or we were stopped and have closed it.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes in xenstore's news; returns one thing to do.
    pub fn next_order(&mut self) -> Result<Option<Order>, BackendError> {
        loop {
            if let Some(order) = self.orders.pop_front() {
                return Ok(Some(order));
            }
            if self.over {
                return Ok(None);
            }
            if self.abandon_at.is_some_and(|at| Instant::now() >= at) {
                self.abandon_at = None;
                tracing::warn!(front = %self.front, "the front end does not close; left alone");
                self.feed(Input::Abandon)?;
                continue;
            }
            match self.client.next_watch_event() {
                Ok(Some(event)) => self.look(&event.token)?,
                Ok(None) => return Ok(None),
                Err(Error::EventsLost { .. }) => {
                    for token in ["own", "online", "front"] {
                        self.look(token)?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads again what a watch was about: the event says where, never what.
    fn look(&mut self, token: &str) -> Result<(), BackendError> {
        let back = &self.paths.back;
        let input = match token {
            "front" => self.read_peer()?,
            "own" => Input::Own(node::read_state(&self.client, back)?),
            "online" => Input::Online(node::read_online(&self.client, back)?),
            _ => return Ok(()),
        };
        self.feed(input)
    }

    fn read_peer(&mut self) -> Result<Input, BackendError> {
        let state = node::read_state(&self.client, &self.paths.front)?;
        if state.is_none() && self.machine.is_holding() && !self.broken {
            self.news_of_death("its directory is gone from xenstore".into());
        }
        Ok(Input::Peer(state))
    }

    fn news_of_death(&mut self, how: String) {
        self.broken = true;
        self.orders.push_back(Order::FrontGone(how));
    }

    /// To [`Order::Connect`]: it worked.
    pub fn connected(&mut self) -> Result<(), BackendError> {
        self.feed(Input::Connected)
    }

    /// To [`Order::Connect`]: it did not, and nothing is left of the attempt.
    pub fn connect_failed(&mut self, why: String) -> Result<(), BackendError> {
        self.feed(Input::ConnectFailed(why))
    }

    /// To [`Order::Free`]: nothing of the front's is mapped any more.
    pub fn freed(&mut self) -> Result<(), BackendError> {
        self.feed(Input::Freed)
    }

    /// The front broke the ring's rules.
    pub fn fatal(&mut self, why: String) -> Result<(), BackendError> {
        self.feed(Input::Fatal(why))
    }

    /// The front's process is gone.
    pub fn front_died(&mut self, how: String) -> Result<(), BackendError> {
        self.news_of_death(how);
        self.feed(Input::PeerDied)
    }

    /// Close the device and end. After the deadline, without the front's consent.
    pub fn stop(&mut self, deadline: Duration) -> Result<(), BackendError> {
        self.abandon_at = Some(Instant::now() + deadline);
        self.feed(Input::CloseRequested)
    }

    /// When [`Bus::next_order`] has to be called at the latest.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        self.abandon_at.map(|at| at.saturating_duration_since(now))
    }

    fn feed(&mut self, input: Input) -> Result<(), BackendError> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let abandoned = input == Input::Abandon;
            for action in self.machine.handle(input) {
                inputs.extend(self.perform(action, abandoned)?);
            }
        }
        Ok(())
    }

    fn perform(&mut self, action: Action, abandoned: bool) -> Result<Option<Input>, BackendError> {
        match action {
            Action::PublishFeatures => {
                self.broken = false;
                self.publish()?;
            }
            Action::ReadPeerAndConnect => match self.read_front()? {
                Ok(nodes) => {
                    self.kernel.look()?;
                    // Asked anew for each front: the device may have been made anew before it.
                    self.read_only = self.disk_read_only || self.toolstack_forbids_writes()?;
                    self.orders.push_back(Order::Connect(nodes));
                }
                Err(bad) => return Ok(Some(Input::ConnectFailed(bad.to_string()))),
            },
            Action::SwitchState(switch) => return self.switch(switch),
            Action::ReadPeer => return self.read_peer().map(Some),
            Action::FreeResources => {
                let answer_first = abandoned && !self.broken;
                self.orders.push_back(Order::Free { answer_first });
            }
            Action::ReportError(text) => {
                self.broken = true;
                if let Err(error) = toolstack::report_error(&self.client, &self.paths.back, &text) {
                    tracing::warn!(%error, "the reason cannot be left in xenstore");
                }
                self.orders.push_back(Order::Fatal(text));
            }
            Action::RemoveDevice => self.over = true,
            Action::Refuse(why) => tracing::debug!(front = %self.front, why, "ignored"),
        }
        Ok(None)
    }

    /// Writes the features, unless the toolstack has just taken the directory away.
    fn publish(&self) -> Result<(), BackendError> {
        let back = &self.paths.back;
        self.client.transaction(|tx| {
            if !tx.exists(&format!("{back}/state"))? {
                return Ok(());
            }
            for (name, value) in &self.features {
                tx.write(&format!("{back}/{name}"), value)?;
            }
            Ok(())
        })?;
        // What an earlier front's fault left there would mislead.
        if let Err(error) = toolstack::clear_error(&self.client, back) {
            tracing::debug!(%error, "the last error stays in xenstore");
        }
        Ok(())
    }

    fn switch(&mut self, switch: SwitchState) -> Result<Option<Input>, BackendError> {
        let SwitchState { to, while_peer } = switch;
        let mut nodes = Vec::new();
        if to == XenbusState::Connected {
            nodes.extend_from_slice(&self.sizes);
            nodes.push(("info", self.info()?.to_string()));
        }
        let DevicePaths { front, back } = &self.paths;
        let peer = while_peer.map(|state| (front.as_str(), state));
        match node::switch_state(&self.client, back, to, peer, &nodes)? {
            Switched::Done => {}
            Switched::OwnGone => return Ok(Some(Input::Own(None))),
            Switched::PeerMoved(state) => return Ok(Some(Input::PeerMoved(state))),
        }
        tracing::debug!(front = %self.front, state = %to, "switched");
        self.orders.extend(match to {
            XenbusState::InitWait => Some(Order::Waiting),
            XenbusState::Connected => Some(Order::Serve),
            XenbusState::Closed => Some(Order::Closed),
            _ => None,
        });
        Ok(while_peer.map(|_| Input::Switched))
    }

    fn read_front(&self) -> Result<Result<FrontNodes, NodeError>, BackendError> {
        enum Stop {
            Bad(NodeError),
            Store(Error),
        }
        impl From<NodeError> for Stop {
            fn from(bad: NodeError) -> Self {
                Stop::Bad(bad)
            }
        }
        let read = |name: &str| match self.client.read(&format!("{}/{name}", self.paths.front)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(Stop::Store(error)),
        };
        match FrontNodes::read(read) {
            Ok(nodes) => Ok(Ok(nodes)),
            Err(Stop::Bad(bad)) => Ok(Err(bad)),
            Err(Stop::Store(error)) => Err(error.into()),
        }
    }
}
