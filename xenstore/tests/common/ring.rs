//! The daemon's end of ring pages on a simulated Xen: bytes go to and fro between the ring and our server.

use libgnt::event::{Channel, Events};
use libgnt::grant::{Granter, Ledger, Map, Mapper, Share};
use libgnt::sim::core::Config;
use libgnt::sim::host::{HostThread, NoServices};
use libgnt::{Access, DomId, ForeignGrant, Platform, PlatformChoice, SharedPages};
use pv_xenstore::{RingParts, ServerHandle};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::JoinHandle;

pub const REQ_CONS: usize = 2048;
pub const REQ_PROD: usize = 2052;
pub const RSP_CONS: usize = 2056;
pub const RSP_PROD: usize = 2060;
pub const FEATURES: usize = 2064;
pub const CONNECTION: usize = 2068;
pub const ERROR: usize = 2072;
const SIZE: u32 = 1024;
/// The domain that has the rings.
const STUB: DomId = DomId(7);

/// A simulated Xen.
pub struct Xen {
    host: HostThread,
    dir: tempfile::TempDir,
}

/// A ring page, as both domains have it.
pub struct Page {
    /// Of the stub domain.
    pub ours: Arc<SharedPages>,
    /// Of the daemon's.
    pub theirs: Arc<SharedPages>,
    _share: Share,
    _map: Map,
    theirs_events: Events,
    theirs_channel: Channel,
}

impl Xen {
    pub fn start() -> Xen {
        let dir = tempfile::tempdir().unwrap();
        let host = HostThread::start(dir.path(), Config::default(), Box::new(NoServices)).unwrap();
        Xen { host, dir }
    }

    fn join(&self, domid: DomId) -> Arc<dyn Platform> {
        let xen = PlatformChoice::Sim(self.dir.path().to_owned());
        libgnt::open(&xen, Some(domid), "ring").unwrap()
    }

    /// A fresh ring.
    pub fn ring(&self) -> (RingParts, Page) {
        let (stub, dom0) = (self.join(STUB), self.join(DomId::DOM0));
        let granter = Granter::open(Arc::clone(&stub), Ledger::new()).unwrap();
        let share = granter.share(DomId::DOM0, 1, Access::ReadWrite).unwrap();
        let grant = ForeignGrant {
            domid: STUB,
            gref: share.grefs()[0],
        };
        let mapper = Mapper::open(Arc::clone(&dom0), Ledger::new()).unwrap();
        let map = mapper.map(&[grant], Access::ReadWrite).unwrap();
        let events = Events::open(&*stub).unwrap();
        let channel = events.bind_unbound(DomId::DOM0).unwrap();
        let theirs_events = Events::open(&*dom0).unwrap();
        let theirs_channel = theirs_events
            .bind_interdomain(STUB, channel.port())
            .unwrap();
        let page = Page {
            ours: Arc::clone(share.pages()),
            theirs: Arc::clone(map.pages()),
            _share: share,
            _map: map,
            theirs_events,
            theirs_channel,
        };
        let parts = RingParts {
            page: Arc::clone(&page.ours),
            events,
            channel: Arc::new(channel),
        };
        (parts, page)
    }

    pub fn host(&self) -> &HostThread {
        &self.host
    }
}

impl Page {
    pub fn notify(&self) {
        self.theirs_channel.notify().unwrap();
    }

    fn word(&self, at: usize) -> u32 {
        self.theirs.load_u32(at, Ordering::Relaxed)
    }

    pub fn set(&self, at: usize, value: u32) {
        self.theirs.store_u32(at, value, Ordering::Relaxed);
    }

    /// Takes requests out of the ring.
    fn take(&self, into: &mut Vec<u8>) -> bool {
        let (cons, prod) = (self.word(REQ_CONS), self.word(REQ_PROD));
        fence(Ordering::Acquire);
        for n in 0..prod.wrapping_sub(cons) {
            let mut byte = [0];
            let at = cons.wrapping_add(n) % SIZE;
            self.theirs.read(at as usize, &mut byte);
            into.push(byte[0]);
        }
        fence(Ordering::Release);
        self.set(REQ_CONS, prod);
        prod != cons
    }

    /// Puts what fits into the ring.
    pub fn put(&self, from: &mut Vec<u8>) -> bool {
        let (cons, prod) = (self.word(RSP_CONS), self.word(RSP_PROD));
        let room = SIZE - prod.wrapping_sub(cons);
        let bytes = from.len().min(room as usize);
        for (n, byte) in from.drain(..bytes).enumerate() {
            let at = prod.wrapping_add(n as u32) % SIZE;
            self.theirs.write((SIZE + at) as usize, &[byte]);
        }
        fence(Ordering::Release);
        self.set(RSP_PROD, prod.wrapping_add(bytes as u32));
        bytes > 0
    }

    /// Serves it with dom0's rights until the end of the returned.
    pub fn serve(self, server: &ServerHandle, features: u32) -> Bridge {
        let (stop, stopped) = UnixStream::pair().unwrap();
        self.set(FEATURES, features);
        let server = server.clone();
        let thread = std::thread::spawn(move || bridge(&self, &server, &stopped));
        Bridge {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

/// A served ring.
pub struct Bridge {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn connect(server: &ServerHandle) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.attach(DomId::DOM0, theirs).unwrap();
    ours.set_nonblocking(true).unwrap();
    ours
}

fn bridge(page: &Page, server: &ServerHandle, stopped: &UnixStream) {
    let mut stream = connect(server);
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    let mut ports = Vec::new();
    loop {
        let mut moved = false;
        if page.word(CONNECTION) == 1 {
            // A new connection: its watches and transactions are gone with the stream.
            stream = connect(server);
            (requests, answers) = (Vec::new(), Vec::new());
            for at in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
                page.set(at, 0);
            }
            fence(Ordering::Release);
            page.set(CONNECTION, 0);
            moved = true;
        }
        if requests.len() < 8192 {
            moved |= page.take(&mut requests);
        }
        match stream.write(&requests) {
            Ok(n) => drop(requests.drain(..n)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        if answers.len() < 8192 {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(n) => answers.extend_from_slice(&bytes[..n]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        moved |= page.put(&mut answers);
        if moved {
            page.notify();
            page.theirs_events
                .unmask(&std::mem::take(&mut ports))
                .unwrap();
            continue;
        }
        page.theirs_events
            .unmask(&std::mem::take(&mut ports))
            .unwrap();
        let mut events = PollFlags::empty();
        if answers.is_empty() {
            events |= PollFlags::IN;
        }
        if !requests.is_empty() {
            events |= PollFlags::OUT;
        }
        let mut fds = [
            PollFd::new(&page.theirs_events, PollFlags::IN),
            PollFd::new(&stream, events),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut fds, None).unwrap();
        if !fds[2].revents().is_empty() {
            return;
        }
        page.theirs_events.read(&mut ports).unwrap();
    }
}
