//! A simulated Xen in this process, a back end in a thread, and a front end that does what the
//! test says, rules or no rules.

#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "../../../libgnt/tests/sim_common/bent.rs"]
pub mod bent;
pub mod gate;
pub mod program;

use gate::Gate;
use libgnt::event::{Channel, Events};
use libgnt::grant::{Granter, Ledger, Share};
use libgnt::platform::Platform;
use libgnt::proto::blkif::{Operation, Request, Response, Segment, Segments, X86_64};
use libgnt::ring::FrontRing;
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::sim::host::{HostThread, Services};
use libgnt::{Access, DomId, GrantRef, SharedPages};
use pv_backend::disk::Backing;
use pv_backend::{BackConfig, BackError, BackEvent, BackEventKind, Backend, Observer, Stop};
use pv_xenstore::toolstack::{BlockDevice, DeviceId};
use pv_xenstore::{Client, ServerHandle, XenbusState};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const FRONT: DomId = DomId(1);
pub const DEVICE: DeviceId = DeviceId(51712);
/// Far more than anything here takes; a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_secs(30);

struct Glue(ServerHandle, Gate);

impl Services for Glue {
    fn xenstore_connection(&mut self, domid: DomId, stream: std::os::unix::net::UnixStream) {
        if let Some(stream) = self.1.admit(stream) {
            self.0.attach(domid, stream).expect("xenstore runs");
        }
    }
    fn domain_created(&mut self, domid: DomId, name: &str) {
        self.0.introduce(domid, name).expect("xenstore runs");
    }
    fn domain_released(&mut self, domid: DomId) {
        self.0.release(domid).expect("xenstore runs");
    }
}

/// A Xen with dom0, a front end's domain, and a device between them.
pub struct Stage {
    // Fields are dropped in this order: the toolstack's connection before the host it needs.
    pub dom0: SimPlatform,
    pub store: Client,
    /// What connections to xenstore pass, once it is armed.
    pub gate: Gate,
    host: HostThread,
    server: Stopped,
    dir: tempfile::TempDir,
}

/// Ends xenstore for certain.
struct Stopped(ServerHandle);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Stage {
    pub fn new() -> Stage {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Stage {
        let dir = tempfile::tempdir().expect("dir");
        let server = ServerHandle::start(Default::default()).expect("xenstore");
        let gate = Gate::default();
        let glue = Box::new(Glue(server.clone(), gate.clone()));
        let server = Stopped(server);
        let host = HostThread::start(dir.path(), config, glue);
        let host = host.expect("host");
        let dom0 = SimPlatform::connect(dir.path(), Some(DomId::DOM0), "toolstack", false);
        let dom0 = dom0.expect("dom0");
        dom0.create_domain(FRONT, "front").expect("domain");
        let store = Client::connect(&dom0).expect("xenstore");
        let stage = Stage {
            dom0,
            store,
            gate,
            host,
            server,
            dir,
        };
        stage.attach();
        stage
    }

    pub fn attach(&self) {
        BlockDevice::new(FRONT, DomId::DOM0, DEVICE, "")
            .create(&self.store)
            .expect("attach");
    }

    pub fn platform(&self, domid: DomId, process: &str) -> Arc<dyn Platform> {
        libgnt::sim::client::join(self.dir.path(), Some(domid), process).expect("join")
    }

    pub fn back_dir(&self) -> String {
        format!("/local/domain/0/backend/vbd/{}/{DEVICE}", FRONT.0)
    }

    pub fn front_dir(&self) -> String {
        format!("/local/domain/{}/device/vbd/{DEVICE}", FRONT.0)
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Waits for a node to satisfy a condition, by watching it.
    pub fn wait_node(&self, path: &str, what: &str, good: impl Fn(Option<&str>) -> bool) {
        let client = Client::connect(&self.dom0).expect("xenstore");
        client.watch(path, "t").expect("watch");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = client.try_read(path).expect("read");
            let value = value.map(|v| String::from_utf8_lossy(&v).into_owned());
            if good(value.as_deref()) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{path} is {value:?}, never {what}");
            client.wait_watch_event(left).expect("watch event");
        }
    }

    pub fn wait_back(&self, state: XenbusState) {
        let path = format!("{}/state", self.back_dir());
        let is = |value: Option<&str>| {
            value.map_or(XenbusState::Unknown, |v| XenbusState::parse(v.as_bytes())) == state
        };
        self.wait_node(&path, &state.to_string(), is);
    }

    pub fn write(&self, path: &str, value: &str) {
        self.store.write(path, value).expect("write");
    }
}

struct Recorder(Sender<BackEvent>);

impl Observer<BackEventKind> for Recorder {
    fn event(&mut self, event: BackEvent) {
        // The test may have looked away.
        let _ = self.0.send(event);
    }
}

/// A back end in a thread.
#[derive(Debug)]
pub struct Running {
    pub stop: Stop,
    pub ledger: Ledger,
    events: Receiver<BackEvent>,
    thread: Option<JoinHandle<Result<(), BackError>>>,
}

impl Running {
    pub fn start(stage: &Stage, tweak: impl FnOnce(&mut BackConfig)) -> Running {
        Self::try_start(stage, tweak).expect("backend")
    }

    pub fn try_start(
        stage: &Stage,
        tweak: impl FnOnce(&mut BackConfig),
    ) -> Result<Running, BackError> {
        Self::try_start_on(stage.platform(DomId::DOM0, "backend"), tweak)
    }

    /// On a platform that somebody else uses too.
    pub fn start_on(platform: Arc<dyn Platform>, tweak: impl FnOnce(&mut BackConfig)) -> Running {
        Self::try_start_on(platform, tweak).expect("backend")
    }

    pub fn try_start_on(
        platform: Arc<dyn Platform>,
        tweak: impl FnOnce(&mut BackConfig),
    ) -> Result<Running, BackError> {
        let mut config =
            BackConfig::new(platform, FRONT, DEVICE, Backing::Memory { bytes: 1 << 20 });
        // Tests drop fronts without a word: nobody should wait for them.
        config.close = Duration::from_millis(200);
        let (send, events) = channel();
        config.observer = Some(Box::new(Recorder(send)));
        tweak(&mut config);
        let (ready, made) = channel();
        let stop = config.stop.clone();
        let thread = std::thread::spawn(move || {
            let backend = match Backend::open(config) {
                Ok(backend) => backend,
                Err(error) => {
                    drop(ready);
                    return Err(error);
                }
            };
            ready
                .send(backend.ledger().clone())
                .expect("the test waits");
            backend.run()
        });
        match made.recv() {
            Ok(ledger) => Ok(Running {
                stop,
                ledger,
                events,
                thread: Some(thread),
            }),
            Err(_) => Err(thread
                .join()
                .expect("no panic")
                .expect_err("it has no back end")),
        }
    }

    /// The next event that the filter takes; others are dropped.
    pub fn wait<T>(&self, what: &str, mut take: impl FnMut(&BackEventKind) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|e| panic!("{what}: {e}"));
            if let Some(taken) = take(&event.kind) {
                return taken;
            }
        }
    }

    pub fn wait_connected(&self) {
        self.wait("connected", |e| {
            matches!(e, BackEventKind::Connected { .. }).then_some(())
        });
    }

    pub fn wait_fatal(&self) -> String {
        self.wait("fatal", |e| match e {
            BackEventKind::Fatal { reason } => Some(reason.clone()),
            _ => None,
        })
    }

    pub fn wait_closed(&self) -> usize {
        self.wait("closed", |e| match e {
            BackEventKind::Closed { zombies } => Some(*zombies),
            _ => None,
        })
    }

    /// How it ends by itself.
    pub fn ended(mut self) -> Result<(), BackError> {
        let deadline = Instant::now() + PATIENCE;
        // Its observer goes with it.
        let error = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(error) = self.events.recv_timeout(left) {
                break error;
            }
        };
        assert_eq!(error, RecvTimeoutError::Disconnected, "it does not end");
        self.thread.take().expect("runs").join().expect("no panic")
    }

    pub fn stop(mut self) -> Result<(), BackError> {
        self.stop.ask();
        self.thread.take().expect("runs").join().expect("no panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("no panic").expect("no error");
            }
        }
    }
}

/// A front end that does what it is told.
pub struct Front {
    pub platform: Arc<dyn Platform>,
    pub store: Client,
    pub events: Events,
    pub channel: Channel,
    pub ring: FrontRing<X86_64>,
    pub ring_page: Share,
    pub granter: Granter,
    pub data: Share,
    dir: String,
}

/// Pages that a front grants for data.
pub const DATA_PAGES: usize = 40;

impl Front {
    pub fn new(stage: &Stage) -> Front {
        Self::on(stage.platform(FRONT, "front"), stage.front_dir())
    }

    fn on(platform: Arc<dyn Platform>, dir: String) -> Front {
        Self::of(platform, dir, DomId::DOM0)
    }

    /// A front end of a back end in a domain of its own.
    pub fn of(platform: Arc<dyn Platform>, dir: String, back: DomId) -> Front {
        let store = Client::connect(&*platform).expect("xenstore");
        let events = Events::open(&*platform).expect("events");
        let channel = events.bind_unbound(back).expect("port");
        let granter = Granter::open(Arc::clone(&platform), Ledger::new()).expect("gntalloc");
        let ring_page = granter.share(back, 1, Access::ReadWrite).expect("ring");
        let ring = FrontRing::new(Arc::clone(ring_page.pages()), X86_64);
        let data = granter
            .share(back, DATA_PAGES, Access::ReadWrite)
            .expect("pages");
        Front {
            platform,
            store,
            events,
            channel,
            ring,
            ring_page,
            granter,
            data,
            dir,
        }
    }

    pub fn set(&self, node: &str, value: impl std::fmt::Display) {
        self.store
            .write(&format!("{}/{node}", self.dir), value.to_string())
            .expect("write");
    }

    pub fn state(&self, state: XenbusState) {
        self.set("state", state.as_str());
    }

    /// Announces the ring as an honest front does.
    pub fn announce(&self) {
        self.set("ring-ref", self.ring_page.grefs()[0].0);
        self.set("event-channel", self.channel.port().0);
        self.set("protocol", "x86_64-abi");
    }

    /// The whole way to Connected.
    pub fn connect(&self, stage: &Stage) {
        stage.wait_back(XenbusState::InitWait);
        self.announce();
        self.state(XenbusState::Initialised);
        stage.wait_back(XenbusState::Connected);
        self.state(XenbusState::Connected);
    }

    pub fn pages(&self) -> &Arc<SharedPages> {
        self.data.pages()
    }

    pub fn gref(&self, page: usize) -> GrantRef {
        self.data.grefs()[page]
    }

    /// A request over whole data pages.
    pub fn request(&self, operation: Operation, id: u64, sector: u64, pages: &[usize]) -> Request {
        let segments: Segments = pages
            .iter()
            .map(|&page| Segment {
                gref: self.gref(page).0,
                first_sector: 0,
                last_sector: 7,
            })
            .collect();
        Request {
            operation,
            handle: 0,
            id,
            sector,
            segments,
        }
    }

    pub fn send(&mut self, requests: &[Request]) {
        for request in requests {
            self.ring.push(request).expect("room");
        }
        if self.ring.publish() {
            self.channel.notify().expect("notify");
        }
    }

    /// Waits for so many responses.
    pub fn receive(&mut self, count: usize) -> Vec<Response> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        loop {
            while let Some(response) = self.ring.pop().expect("the back end keeps the rules") {
                all.push(response);
            }
            if all.len() >= count {
                return all;
            }
            if self
                .ring
                .final_check()
                .expect("the back end keeps the rules")
            {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} responses", all.len());
            let ports = self.events.wait(left).expect("a response");
            self.events.unmask(&ports).expect("unmask");
        }
    }

    /// Waits for the back end's liveness byte: 0 when it is gone, 1 when one has mapped the ring.
    pub fn wait_back_byte(&self, value: u8) {
        let deadline = Instant::now() + PATIENCE;
        let byte = || {
            self.ring_page
                .pages()
                .load_u8(63, std::sync::atomic::Ordering::Acquire)
        };
        while byte() != value {
            let left = deadline.saturating_duration_since(Instant::now());
            // Its end and its beginning raise the channel.
            let ports = self.events.wait(left).expect("an event");
            self.events.unmask(&ports).expect("unmask");
        }
    }

    pub fn one(&mut self, request: Request) -> Response {
        self.send(&[request]);
        let all = self.receive(1);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }
}

/// The other process of a test: a front end with requests on the ring that it will not see answered.
pub fn child_front(dir: &std::path::Path) {
    let platform = libgnt::sim::client::join(dir, Some(FRONT), "front").expect("join");
    let mut front = Front::on(
        platform,
        format!("/local/domain/{}/device/vbd/{DEVICE}", FRONT.0),
    );
    let back = front
        .store
        .read_string(&format!("{}/backend", front.dir))
        .expect("backend");
    let back_state = format!("{back}/state");
    let wait_back = |front: &Front, state| {
        let deadline = Instant::now() + PATIENCE;
        while front.store.read_string(&back_state).expect("state") != XenbusState::as_str(state) {
            let left = deadline.saturating_duration_since(Instant::now());
            front
                .store
                .wait_watch_event(left)
                .expect("event")
                .expect("in time");
        }
    };
    front.store.watch(&back_state, "b").expect("watch");
    wait_back(&front, XenbusState::InitWait);
    front.announce();
    front.set(libgnt::proto::blkif::nodes::LIVENESS, LIVENESS);
    let port = front.channel.port();
    front
        .ring_page
        .set_unmap_notify(Some(LIVENESS), Some(port))
        .expect("notify");
    front
        .ring_page
        .pages()
        .store_u8(LIVENESS, 1, std::sync::atomic::Ordering::Release);
    front.state(XenbusState::Initialised);
    wait_back(&front, XenbusState::Connected);
    front.state(XenbusState::Connected);
    let requests: Vec<Request> = (0..32)
        .map(|id| front.request(Operation::Write, id, 0, &[id as usize]))
        .collect();
    front.send(&requests);
    // Until it is killed.
    std::mem::forget(front);
}

/// The front's byte in the ring page.
const LIVENESS: usize = 62;
