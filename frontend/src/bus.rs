//! The front end's side of xenstore: finds the device, reads the nodes, and performs what
//! [`front::Handshake`] says; what that machine wants of the ring goes to the engine.

use crate::agent::DiskInfo;
use crate::config::FrontConfig;
use crate::error::FrontError;
use crate::live::{FRONT_ALIVE_BYTE, Live};
use crate::nodes::{BackNodes, LIVENESS_NODE, NodeError, PROTOCOL};
use libgnt::DomId;
use mio::event::Source;
use pv_xenstore::toolstack::{self, DeviceId, KernelCheck, Side};
use pv_xenstore::xenbus::front::{Action, Handshake, Input};
use pv_xenstore::xenbus::node::{Switched, read_online, read_state, switch_state};
use pv_xenstore::xenbus::{SwitchState, XenbusState};
use pv_xenstore::{Client, Error as StoreError, value};
use std::collections::VecDeque;
use std::time::Instant;

/// Watch events taken before the nodes are read again.
const EVENTS_A_ROUND: usize = 64;
/// Rounds before the caller's other work has its turn.
const ROUNDS: usize = 8;
/// Rings in a row that never came into service, before the device is given up.
const ATTEMPTS_MAX: u32 = 8;

/// What the engine has to do or know.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// A back end waits for a ring: make a fresh one, then [`Bus::ring_ready`].
    Share { back: DomId },
    /// It uses that ring now.
    Connected {
        disk: DiskInfo,
        handle: u16,
        liveness: bool,
    },
    /// Put nothing more on the ring. With `drain`, say [`Bus::quiet`] when all is answered.
    Stop { why: String, drain: bool },
    /// Give up the ring, then [`Bus::freed`].
    Free,
    /// The device is gone for good; nothing follows.
    Removed { why: String },
}

/// One device in xenstore.
#[derive(Debug)]
pub(crate) struct Bus {
    client: Client,
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
    /// Why the device failed, as reported.
    error: Option<String>,
    /// Something may have changed: read again.
    stale: bool,
    news: VecDeque<BusEvent>,
}

impl Bus {
    /// Finds the device that the toolstack made, and watches its back end.
    ///
    /// # Errors
    /// [`FrontError::NoDevice`]; [`FrontError::KernelDriver`]; xenstore is not there.
    pub(crate) fn open(config: &FrontConfig) -> Result<Self, FrontError> {
        let (platform, device) = (&*config.platform, config.device);
        let client = Client::connect(platform)?;
        let front = format!("device/{}/{device}", config.class);
        let no_device = |cause: String| FrontError::NoDevice {
            device: name(device),
            cause,
            cure: "let the toolstack create it: `xl block-attach`, or `pv-backend attach`".into(),
        };
        let read = |node: &str| {
            let path = format!("{front}/{node}");
            match client.try_read(&path)? {
                Some(value) => Ok(value),
                None => Err(no_device(format!("this domain's xenstore has no {path}"))),
            }
        };
        let back = read("backend")?;
        let back = String::from_utf8_lossy(value::trimmed(&back)).into_owned();
        let id = read("backend-id")?;
        let back_domid = value::number(&id).map(DomId).ok_or_else(|| {
            no_device(format!(
                "{front}/backend-id is \"{}\", which is no domain",
                value::shown(&id)
            ))
        })?;
        let sysfs = config.sysfs.as_deref();
        let kernel = KernelCheck::new(platform, sysfs, Side::Front, &config.class, device);
        kernel.look()?;
        let mut bus = Bus {
            client,
            device,
            front,
            back,
            back_domid,
            kernel,
            // The slot's field has 16 bits, as Linux's `blkif_vdev_t`.
            handle: device.0 as u16,
            handshake: Handshake::new(Some(ATTEMPTS_MAX)),
            peer: None,
            online: false,
            peer_dead: false,
            closing: false,
            ring_nodes: Vec::new(),
            back_nodes: None,
            error: None,
            stale: true,
            news: VecDeque::new(),
        };
        for path in [
            format!("{}/state", bus.front),
            format!("{}/state", bus.back),
            format!("{}/online", bus.back),
        ] {
            bus.client.watch(&path, "device")?;
        }
        if let Err(error) = bus.client.watch("@releaseDomain", "domains") {
            // Not for every domain; the directory's removal tells as well.
            tracing::debug!(%error, "no news of dying domains");
        }
        if let Err(error) = toolstack::clear_error(&bus.client, &bus.front) {
            tracing::debug!(%error, "old error node");
        }
        let own = read_state(&bus.client, &bus.front)?;
        bus.feed(Input::Start(own))?;
        Ok(bus)
    }

    /// What to wait for.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        &mut self.client
    }

    /// When [`Bus::service`] has to be called without an event.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        // Requests read events along with their answers, and no new edge comes for those.
        let more = self.stale || self.client.has_watch_events();
        (more && !self.handshake.is_removed()).then(Instant::now)
    }

    /// What came of the last calls.
    pub(crate) fn next_event(&mut self) -> Option<BusEvent> {
        self.news.pop_front()
    }

    /// Takes watch events, and feeds the machine. Bounded, whatever the peer writes.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn service(&mut self) -> Result<(), FrontError> {
        for _ in 0..ROUNDS {
            for _ in 0..EVENTS_A_ROUND {
                match self.client.next_watch_event() {
                    Ok(Some(_)) | Err(StoreError::EventsLost { .. }) => self.stale = true,
                    Ok(None) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if !std::mem::take(&mut self.stale) || self.handshake.is_removed() {
                return Ok(());
            }
            let own = read_state(&self.client, &self.front)?;
            self.feed(Input::Own(own))?;
            let peer = self.read_peer()?;
            self.feed(peer)?;
            if !self.news.is_empty() {
                // The engine's answers change what the next look means.
                self.stale = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_peer(&mut self) -> Result<Input, FrontError> {
        self.peer = read_state(&self.client, &self.back)?;
        self.online = read_online(&self.client, &self.back)?;
        Ok(Input::Peer {
            state: self.peer,
            online: self.online,
        })
    }

    fn feed(&mut self, input: Input) -> Result<(), FrontError> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            // The machine's end is final, and it says so once.
            if self.handshake.is_removed() {
                return Ok(());
            }
            for action in self.handshake.handle(input) {
                inputs.extend(self.perform(action)?);
            }
        }
        Ok(())
    }

    /// Performs one action; the answer, if it is known at once.
    fn perform(&mut self, action: Action) -> Result<Option<Input>, FrontError> {
        tracing::debug!(device = %name(self.device), ?action, "handshake");
        match action {
            // No feature of the back end's is asked for yet: some publish them only with the
            // switch to Connected, and what is there may be an earlier one's.
            Action::PrepareRing => {
                self.kernel.look()?;
                let back = self.back_domid;
                self.news.push_back(BusEvent::Share { back });
            }
            Action::ReadPeerAndConnect => {
                return match BackNodes::read(|node| self.back_node(node)) {
                    Ok(nodes) => {
                        self.back_nodes = Some(nodes);
                        Ok(Some(Input::Connected))
                    }
                    Err(FrontError::Nodes(why)) => Ok(Some(Input::ConnectFailed(why))),
                    Err(error) => Err(error),
                };
            }
            Action::SwitchState(switch) => return self.switch(switch),
            Action::ReadPeer => return Ok(Some(self.read_peer()?)),
            Action::StopRequests => {
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
                if let Err(error) = toolstack::report_error(&self.client, &self.front, &why) {
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

    fn switch(&mut self, switch: SwitchState) -> Result<Option<Input>, FrontError> {
        let nodes = match switch.to {
            XenbusState::Initialised => std::mem::take(&mut self.ring_nodes),
            _ => Vec::new(),
        };
        let back = self.back.as_str();
        let while_peer = switch.while_peer.map(|state| (back, state));
        let done = switch_state(&self.client, &self.front, switch.to, while_peer, &nodes)?;
        // Read anew what the switch may have made another.
        self.stale = true;
        Ok(match done {
            Switched::OwnGone => Some(Input::Own(None)),
            Switched::Done if switch.while_peer.is_none() => None,
            Switched::Done => {
                if let (XenbusState::Connected, Some(BackNodes { disk, liveness })) =
                    (switch.to, self.back_nodes.take())
                {
                    let handle = self.handle;
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
                self.online = read_online(&self.client, &self.back)?;
                Some(Input::PeerMoved {
                    state,
                    online: self.online,
                })
            }
        })
    }

    fn back_node(&self, node: &str) -> Result<Option<Vec<u8>>, FrontError> {
        Ok(self.client.try_read(&format!("{}/{node}", self.back))?)
    }

    /// To [`BusEvent::Share`]: announces the ring, all at once with the state.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn ring_ready(&mut self, live: &Live) -> Result<(), FrontError> {
        self.peer_dead = false;
        self.ring_nodes = vec![
            ("ring-ref", live.ring_grant().0.to_string()),
            ("event-channel", live.channel.port().0.to_string()),
            ("protocol", PROTOCOL.into()),
            ("feature-persistent", u8::from(live.persistent).to_string()),
            (LIVENESS_NODE, FRONT_ALIVE_BYTE.to_string()),
        ];
        self.remove_leftovers()?;
        self.feed(Input::RingReady)
    }

    /// Takes away what a front end before this one announced in another form: a back end that
    /// reads it would look for rings that are gone.
    fn remove_leftovers(&self) -> Result<(), FrontError> {
        let names = match self.client.directory(&self.front) {
            // The handshake finds out by itself.
            Err(error) if error.is_gone() => return Ok(()),
            names => names?,
        };
        for name in names.iter().filter(|name| is_other_form(name)) {
            match self.client.rm(&format!("{}/{name}", self.front)) {
                Err(error) if !error.is_gone() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// To [`BusEvent::Share`]: there is none.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn ring_failed(&mut self, why: String) -> Result<(), FrontError> {
        self.feed(Input::RingFailed(why))
    }

    /// Every request is answered, after [`BusEvent::Stop`].
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn quiet(&mut self) -> Result<(), FrontError> {
        self.feed(Input::Quiet)
    }

    /// To [`BusEvent::Free`]: done.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn freed(&mut self) -> Result<(), FrontError> {
        self.feed(Input::Freed)
    }

    /// The back end's process is dead, whatever its node says.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn peer_died(&mut self) -> Result<(), FrontError> {
        self.peer_dead = true;
        self.feed(Input::PeerDied)?;
        if self.closing {
            // Nobody is there to close in order with.
            self.feed(Input::Abandon)?;
        }
        Ok(())
    }

    /// Leaves the reason where tools look for it, and begins to close.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn fail(&mut self, why: String) -> Result<(), FrontError> {
        self.closing = true;
        self.feed(Input::Fatal(why))
    }

    /// Begins to close; [`Bus::is_removed`] says when that is over.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn close(&mut self) -> Result<(), FrontError> {
        self.closing = true;
        self.feed(Input::CloseRequested)?;
        if self.peer_dead {
            self.feed(Input::Abandon)?;
        }
        Ok(())
    }

    /// No more waiting for the back end.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn abandon(&mut self) -> Result<(), FrontError> {
        self.feed(Input::Abandon)
    }

    /// The handshake is over.
    pub(crate) fn is_removed(&self) -> bool {
        self.handshake.is_removed()
    }

    /// Who is in which state, for messages.
    pub(crate) fn situation(&self) -> String {
        let back = match self.peer {
            Some(state) => format!("is {state}"),
            None => format!("has no {}/state", self.back),
        };
        let dead = if self.peer_dead {
            " and its process is dead"
        } else {
            ""
        };
        let own = self.handshake.own();
        format!(
            "the back end in {} {back}{dead}, this front end is {own}",
            self.back_domid
        )
    }
}

/// Does a node of a front end's announce rings, or requests, that this one does not have: of
/// several pages, in several queues, in other units than 512 bytes
/// (`xen/include/public/io/blkif.h`)?
fn is_other_form(node: &str) -> bool {
    let numbered = |prefix: &str| {
        let number = node.strip_prefix(prefix);
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    matches!(
        node,
        "ring-page-order"
            | "num-ring-pages"
            | "multi-queue-num-queues"
            | "feature-large-sector-size"
    ) || numbered("ring-ref")
        || numbered("queue-")
}

/// How people call it.
pub(crate) fn name(device: DeviceId) -> String {
    device.name().unwrap_or_else(|| format!("device {device}"))
}

impl From<NodeError> for FrontError {
    fn from(error: NodeError) -> Self {
        FrontError::Nodes(error.to_string())
    }
}
