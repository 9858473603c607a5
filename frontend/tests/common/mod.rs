//! A simulated Xen in this process, with xenstore and one device, and a back end that does what
//! the test says.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod overflow;
mod valve;

use libgnt::event::{Channel, Events};
use libgnt::grant::{Ledger, Map, Mapper};
use libgnt::machine::{Machine, monotonic};
use libgnt::platform::Platform;
use libgnt::proto::blkif::nodes::BACK_ALIVE_BYTE;
use libgnt::proto::blkif::{Operation, Request, Response, Segment, Status, X86_64};
use libgnt::ring::BackRing;
use libgnt::sim::client::{SimPlatform, join};
use libgnt::sim::host::{HostThread, Services};
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef};
use pv_frontend::{DeviceError, DeviceId, FrontConfig, FrontError, IoError, ProtocolError};
use pv_xenstore::toolstack::{BlockDevice, read_error};
use pv_xenstore::xenbus::back::{Action, Handshake, Input};
use pv_xenstore::xenbus::node::{Ends, Switched, read_online, read_state, switch_state};
use pv_xenstore::xenbus::{SwitchState, XenbusState};
use pv_xenstore::{Client, ServerHandle};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use valve::Valve;

pub const FRONT: DomId = DomId(1);
pub const DEVICE: DeviceId = DeviceId(51712);
/// Far more than anything here takes; a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const DISK_BYTES: usize = 8 << 20;

struct Glue(ServerHandle, Valve);

impl Services for Glue {
    fn xenstore_connection(&mut self, domid: DomId, stream: UnixStream) {
        let stream = match domid {
            FRONT => self.1.between(stream),
            _ => stream,
        };
        self.0.attach(domid, stream).expect("xenstore runs");
    }
    fn domain_created(&mut self, domid: DomId, name: &str) {
        self.0.introduce(domid, name).expect("xenstore runs");
    }
    fn domain_released(&mut self, domid: DomId) {
        self.0.release(domid).expect("xenstore runs");
    }
}

/// The disk outlives its back ends.
pub type Image = Arc<Mutex<Vec<u8>>>;

pub struct Stage {
    // Dropped in this order: connections before the host that they need.
    pub store: Client,
    pub dom0: Arc<SimPlatform>,
    _host: HostThread,
    pub dir: tempfile::TempDir,
    pub image: Image,
    /// Between the front end's domain and xenstored.
    pub valve: Valve,
}

impl Stage {
    pub fn new() -> Stage {
        let dir = tempfile::tempdir().expect("directory");
        let server = ServerHandle::start(Default::default()).expect("xenstore");
        let valve = Valve::default();
        let glue = Box::new(Glue(server, valve.clone()));
        let host = HostThread::start(dir.path(), Default::default(), glue);
        let host = host.expect("host");
        let dom0 = SimPlatform::connect(dir.path(), Some(DomId::DOM0), "toolstack", false);
        let dom0 = Arc::new(dom0.expect("dom0"));
        dom0.create_domain(FRONT, "front").expect("domain");
        let store = Client::connect(&*dom0).expect("xenstore");
        let image = Arc::new(Mutex::new(vec![0; DISK_BYTES]));
        let stage = Stage {
            store,
            dom0,
            _host: host,
            dir,
            image,
            valve,
        };
        stage.device().create(&stage.store).expect("device");
        stage
    }

    pub fn device(&self) -> BlockDevice {
        BlockDevice::new(FRONT, DomId::DOM0, DEVICE, "memory")
    }

    pub fn platform(&self, domid: DomId, process: &str) -> Arc<dyn Platform> {
        join(self.dir.path(), Some(domid), process).expect("join")
    }

    pub fn config(&self) -> FrontConfig {
        let mut config = FrontConfig::new(self.platform(FRONT, "front"), DEVICE);
        config.verify_release = true;
        config.deadline = PATIENCE;
        config.reconnect = PATIENCE;
        config.close = PATIENCE;
        config
    }

    /// Runs a back end in a thread; when the closure ends, it is dead and leaves its nodes.
    pub fn back<T: Send + 'static>(
        &self,
        script: impl FnOnce(&mut Back) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let mut back = Back::new(
            self.platform(DomId::DOM0, "back"),
            Arc::clone(&self.image),
            self,
        );
        std::thread::spawn(move || script(&mut back))
    }

    /// Waits for a node, by watching it.
    pub fn wait_state(&self, directory: &str, state: XenbusState) {
        let client = Client::connect(&*self.dom0).expect("xenstore");
        client
            .watch(&format!("{directory}/state"), "t")
            .expect("watch");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = read_state(&client, directory).expect("read");
            if is == Some(state) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{directory} is {is:?}, never {state}");
            client.wait_watch_event(left).expect("watch event");
        }
    }

    /// Pages that gntalloc has given out, all domains together.
    /// The front end's error, which it leaves in xenstore when it comes to it.
    pub fn wait_front_error(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        let client = Client::connect(&*self.dom0).expect("xenstore");
        client
            .watch("/local/domain/1/error", "error")
            .expect("watch");
        loop {
            if let Some(text) = read_error(&client, &self.front_dir()).expect("read") {
                return text;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the front end leaves no error");
            client.wait_watch_event(left).expect("event");
        }
    }

    pub fn granted_pages(&self) -> u32 {
        self.dom0.inspect().expect("inspect").gntalloc_pages
    }

    pub fn front_dir(&self) -> String {
        self.device().paths().front
    }

    pub fn back_dir(&self) -> String {
        self.device().paths().back
    }
}

fn offer(persistent: bool) -> (&'static str, String) {
    ("feature-persistent", u8::from(persistent).to_string())
}

struct Link {
    ring: BackRing<X86_64>,
    page: Map,
    channel: Channel,
}

/// A back end by hand, honest unless told otherwise.
pub struct Back {
    handshake: Handshake,
    link: Option<Link>,
    events: Events,
    mapper: Mapper,
    client: Client,
    paths: (String, String),
    image: Image,
    /// `feature-persistent`, as written with the other features, and with the disk's size.
    pub persistent: [Option<bool>; 2],
    /// Announce a liveness byte, and keep it.
    pub liveness: bool,
    /// Write zeroes over the header's reserved bytes, when the ring is mapped.
    pub clears_header: bool,
    /// Say how large the disk is.
    pub sectors: String,
    /// Maps that a script keeps.
    pub kept: Vec<Map>,
}

impl Back {
    fn new(platform: Arc<dyn Platform>, image: Image, stage: &Stage) -> Back {
        let client = Client::connect(&*platform).expect("xenstore");
        let paths = (stage.front_dir(), stage.back_dir());
        for path in [format!("{}/state", paths.0), format!("{}/state", paths.1)] {
            client.watch(&path, "t").expect("watch");
        }
        client
            .watch(&format!("{}/online", paths.1), "t")
            .expect("watch");
        Back {
            handshake: Handshake::new(),
            link: None,
            events: Events::open(&*platform).expect("evtchn"),
            mapper: Mapper::open(platform, Ledger::new()).expect("gntdev"),
            client,
            paths,
            sectors: (DISK_BYTES / 512).to_string(),
            image,
            persistent: [Some(false), None],
            liveness: true,
            clears_header: false,
            kept: Vec::new(),
        }
    }

    /// Goes through the handshake until the front end is connected.
    pub fn connect(&mut self) {
        self.connect_to(XenbusState::Connected);
        let (front, _) = &self.paths;
        let front = front.clone();
        let deadline = Instant::now() + PATIENCE;
        while read_state(&self.client, &front).expect("read") != Some(XenbusState::Connected) {
            assert!(
                Instant::now() < deadline,
                "the front end is never connected"
            );
            self.client.wait_watch_event(PATIENCE).expect("watch event");
        }
    }

    /// Goes through the handshake until the own state is this one. A ring in service is not taken
    /// over, but closed, as by a back end that does not know which requests are on their way.
    pub fn connect_to(&mut self, state: XenbusState) {
        let back = self.paths.1.clone();
        let mut own = read_state(&self.client, &back).expect("read");
        if own == Some(XenbusState::Connected) {
            own = Some(XenbusState::Closing);
            let ends = Ends {
                own: &back,
                peer: &self.paths.0,
                link: None,
            };
            let closing = SwitchState {
                to: XenbusState::Closing,
                from: XenbusState::Connected,
                while_peer: None,
            };
            switch_state(&self.client, ends, closing, &[]).expect("switch");
        }
        self.feed(Input::Start { own, online: true });
        self.follow("there", |back| back.handshake.own() == state);
    }

    /// Goes on with the ring of a back end that died, at the first request without an answer: its
    /// answers must have been in order.
    pub fn take_over(&mut self) {
        let own = read_state(&self.client, &self.paths.1).expect("read");
        assert_eq!(own, Some(XenbusState::Connected), "nothing to take over");
        self.feed(Input::Start { own, online: true });
        self.follow("in service", |back| back.handshake.is_connected());
        self.link().channel.notify().expect("notify");
    }

    /// Follows the front end until something is so.
    pub fn follow(&mut self, what: &str, done: impl Fn(&Back) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never {what}");
            self.client
                .wait_watch_event(left.min(Duration::from_millis(50)))
                .expect("event");
            while self.client.next_watch_event().expect("event").is_some() {}
            self.look();
        }
    }

    fn look(&mut self) {
        let own = read_state(&self.client, &self.paths.1).expect("read");
        let peer = read_state(&self.client, &self.paths.0).expect("read");
        let online = read_online(&self.client, &self.paths.1).expect("read");
        self.feed(Input::Online(online));
        self.feed(Input::Own(own));
        self.feed(Input::Peer(peer));
    }

    /// Closes as an honest back end, until the front end has let it.
    pub fn follow_to_the_end(&mut self) {
        self.follow("removed", |back| {
            back.handshake.is_removed() || back.is_closed()
        });
    }

    /// Says another size, as Linux' back end does on the live device.
    pub fn resize(&mut self, sectors: &str) {
        let directory = &self.paths.1;
        let state = XenbusState::Connected.as_str();
        let resize = self.client.transaction(|tx| {
            tx.write(&format!("{directory}/sectors"), sectors)?;
            tx.write(&format!("{directory}/state"), state)
        });
        resize.expect("write");
    }

    pub fn is_closed(&self) -> bool {
        self.handshake.own() == XenbusState::Closed
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            if self.handshake.is_removed() {
                return;
            }
            let mut actions = Vec::new();
            self.handshake.step(monotonic(), input, &mut actions);
            for action in actions {
                inputs.extend(self.perform(action));
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Input> {
        let (front, back) = self.paths.clone();
        match action {
            Action::PublishFeatures => {
                let persistent = self.persistent[0].map(offer);
                let liveness = self.liveness.then(|| ("pvpair-liveness", "63".into()));
                let flush = ("feature-flush-cache", "1".into());
                for (node, value) in [flush].into_iter().chain(persistent).chain(liveness) {
                    self.client
                        .write(&format!("{back}/{node}"), value)
                        .expect("write");
                }
                None
            }
            Action::ReadPeer => Some(Input::Peer(read_state(&self.client, &front).expect("read"))),
            Action::SwitchState(switch) => {
                let nodes = match switch.to {
                    XenbusState::Connected => [
                        ("sectors", self.sectors.clone()),
                        ("sector-size", "512".into()),
                        ("info", "0".into()),
                    ]
                    .into_iter()
                    .chain(self.persistent[1].map(offer))
                    .collect(),
                    _ => Vec::new(),
                };
                let ends = Ends {
                    own: &back,
                    peer: &front,
                    link: None,
                };
                let done = switch_state(&self.client, ends, switch, &nodes);
                match done.expect("switch") {
                    _ if switch.while_peer.is_none() => None,
                    Switched::Done => Some(Input::Switched),
                    Switched::PeerMoved(state) => Some(Input::PeerMoved(state)),
                    Switched::OwnGone => Some(Input::Own(None)),
                    Switched::Renewed => Some(Input::Renewed),
                }
            }
            Action::ReadPeerAndConnect { .. } => {
                let number = |node: &str| -> u32 {
                    self.client
                        .read_parsed(&format!("{front}/{node}"))
                        .expect("front's node")
                };
                let ring = ForeignGrant {
                    domid: FRONT,
                    gref: GrantRef(number("ring-ref")),
                };
                let page = self.mapper.map(&[ring], Access::ReadWrite).expect("ring");
                let port = EvtchnPort(number("event-channel"));
                let channel = self.events.bind_interdomain(FRONT, port).expect("channel");
                if self.liveness {
                    page.set_unmap_notify(Some(BACK_ALIVE_BYTE), Some(channel.port()))
                        .expect("notify");
                    page.pages().store_u8(BACK_ALIVE_BYTE, 1, Ordering::Release);
                }
                if self.clears_header {
                    for byte in libgnt::ring::layout::RSP_EVENT + 4..64 {
                        page.pages().store_u8(byte, 0, Ordering::Release);
                    }
                }
                let ring = BackRing::attach(Arc::clone(page.pages()), X86_64);
                self.link = Some(Link {
                    ring,
                    page,
                    channel,
                });
                Some(Input::Connected)
            }
            Action::FreeResources => {
                self.link = None;
                self.kept.clear();
                Some(Input::Freed)
            }
            Action::PeerGone
            | Action::ReportError(_)
            | Action::RemoveDevice
            | Action::Refuse(_) => None,
        }
    }

    fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("connected")
    }

    /// The next request, waiting for the front end's event.
    pub fn next(&mut self) -> Request {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(request) = self.link().ring.pop().expect("an honest front end") {
                return request;
            }
            if self.link().ring.final_check().expect("an honest front end") {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ports = self.events.wait(left).expect("an event");
            self.events.unmask(&ports).expect("unmask");
        }
    }

    pub fn map(&self, request: &Request) -> Option<Map> {
        let access = match request.operation {
            Operation::Read => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        let grant = |s: &Segment| ForeignGrant {
            domid: FRONT,
            gref: s.grant(),
        };
        let grants: Vec<_> = request.segments.iter().map(grant).collect();
        (!grants.is_empty()).then(|| self.mapper.map(&grants, access).expect("map"))
    }

    /// Does what the request says, and gives the map back.
    pub fn perform_request(&self, request: &Request) -> Option<Map> {
        let map = self.map(request);
        let mut image = self.image.lock().unwrap();
        let mut at = request.sector as usize * 512;
        for (page, segment) in request.segments.iter().enumerate() {
            let pages = map.as_ref().expect("mapped").pages();
            let place = page * 4096 + segment.offset();
            let data = &mut image[at..at + segment.len()];
            match request.operation {
                Operation::Read => pages.write(place, data),
                _ => pages.read(place, data),
            }
            at += segment.len();
        }
        map
    }

    pub fn answer(&mut self, request: &Request, status: Status) {
        let operation = request.operation.number();
        self.respond(&Response {
            id: request.id,
            operation,
            status,
        });
    }

    pub fn respond(&mut self, response: &Response) {
        let link = self.link();
        link.ring.push(response);
        if link.ring.publish() {
            link.channel.notify().expect("notify");
        }
    }

    /// Serves so many requests in order, each unmapped before it is answered.
    pub fn serve(&mut self, count: usize) {
        for _ in 0..count {
            let request = self.next();
            if let Some(map) = self.perform_request(&request) {
                map.unmap()
                    .expect("unmap")
                    .wait(PATIENCE)
                    .expect("released");
            }
            self.answer(&request, Status::Okay);
        }
    }

    /// Serves until the front end closes.
    pub fn serve_until_closed(&mut self) {
        loop {
            while let Some(link) = &mut self.link
                && let Some(request) = link.ring.pop().expect("an honest front end")
            {
                if let Some(map) = self.perform_request(&request) {
                    map.unmap()
                        .expect("unmap")
                        .wait(PATIENCE)
                        .expect("released");
                }
                self.answer(&request, Status::Okay);
            }
            while self.client.next_watch_event().expect("event").is_some() {}
            self.look();
            if self.is_closed() || self.handshake.is_removed() {
                return;
            }
            if let Some(link) = &mut self.link
                && link.ring.final_check().expect("an honest front end")
            {
                continue;
            }
            match self.events.wait(Duration::from_millis(20)) {
                Ok(ports) => self.events.unmask(&ports).expect("unmask"),
                Err(libgnt::Error::Timeout { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Raw access to the ring page.
    pub fn ring_page(&mut self) -> Arc<libgnt::SharedPages> {
        Arc::clone(self.link().page.pages())
    }

    pub fn notify(&mut self) {
        self.link().channel.notify().expect("notify");
    }
}

/// What the back end did wrong.
pub fn protocol_error(error: FrontError) -> ProtocolError {
    match error {
        FrontError::Io(IoError::Device(DeviceError::Protocol(error))) => error,
        other => panic!("{other:?}"),
    }
}
