//! The host, seen by a client that speaks its wire protocol by hand: what the library's own
//! client never does.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use libgnt::platform::{Evtchn, Platform};
use libgnt::sim::events::{EVENT_PAGES, raise};
use libgnt::sim::frame::{Filled, FrameReader, MAX_DESCRIPTORS, Outgoing, decode};
use libgnt::sim::host::{HostThread, Services};
use libgnt::sim::wire::{
    DeviceKind, FileId, HOST_SOCKET, PROTOCOL, Reply, ReplyFrame, Request, RequestFrame,
};
use libgnt::types::{Access, DomId, EvtchnPort, PAGE_SIZE};
use libgnt::{Error, SharedPages};
use memmap2::MmapOptions;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sim_common::{PATIENCE, Xen, readable, wait_events};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A connection without the library's client.
struct Raw {
    stream: UnixStream,
    reader: FrameReader,
    tag: u64,
}

impl Raw {
    fn join(dir: &Path, domid: u16) -> (Raw, OwnedFd) {
        let stream = UnixStream::connect(dir.join(HOST_SOCKET)).unwrap();
        let mut raw = Raw {
            stream,
            reader: FrameReader::new(MAX_DESCRIPTORS),
            tag: 0,
        };
        let join = Request::Join {
            protocol: PROTOCOL,
            domid: Some(DomId(domid)),
            process: "raw".into(),
            keep: false,
        };
        let (reply, fds) = raw.call(join);
        assert!(matches!(reply, Ok(Reply::Joined { .. })), "{reply:?}");
        let hazards = fds.into_iter().next().expect("the hazard page");
        (raw, hazards)
    }

    fn call(&mut self, request: Request) -> (Result<Reply, Errno>, Vec<OwnedFd>) {
        self.tag += 1;
        let frame = RequestFrame {
            tag: self.tag,
            wants_reply: true,
            request,
        };
        let sent = Outgoing::new(&frame, Vec::new())
            .unwrap()
            .send(self.stream.as_fd());
        assert_eq!(sent, Ok(true));
        loop {
            if let Some(frame) = self.reader.next_frame().unwrap() {
                let reply: ReplyFrame = decode(&frame.payload).unwrap();
                assert_eq!(reply.tag, self.tag);
                let errno =
                    |error: libgnt::sim::wire::SimError| Errno::from_raw_os_error(error.errno);
                return (reply.result.map_err(errno), frame.descriptors);
            }
            match self.reader.fill(self.stream.as_fd()).unwrap() {
                Filled::Closed => panic!("cut off"),
                Filled::Bytes => {}
                Filled::WouldBlock => {
                    let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
                    poll(&mut fds, None).unwrap();
                }
            }
        }
    }

    fn open(&mut self, device: DeviceKind) -> FileId {
        match self.call(Request::Open { device }).0 {
            Ok(Reply::Opened { file }) => file,
            other => panic!("{other:?}"),
        }
    }
}

fn map(fd: &OwnedFd, pages: usize) -> SharedPages {
    SharedPages::of_memfd(fd, pages, Access::ReadWrite).unwrap()
}

/// The worst moment for a raiser to die: the selector says that a wake-up is coming, and the
/// eventfd was not written. The receiver must be woken all the same, or no later event of
/// anybody's would wake it.
#[test]
fn a_raiser_that_dies_before_the_wake_up_loses_no_event() {
    let xen = Xen::start();
    let evtchn = xen.join(0, "receiver").open_evtchn().unwrap();
    let port = evtchn.bind_unbound(DomId(5)).unwrap();
    let other_port = evtchn.bind_unbound(DomId(6)).unwrap();
    let other = xen.join(6, "innocent").open_evtchn().unwrap();
    let to_other_port = other.bind_interdomain(DomId(0), other_port).unwrap();

    let (mut raw, _hazards) = Raw::join(xen.dir.path(), 5);
    let file = raw.open(DeviceKind::Evtchn);
    let bound = raw
        .call(Request::BindInterdomain {
            file,
            remote: DomId(0),
            port,
        })
        .0;
    let Ok(Reply::Port { port: local }) = bound else {
        panic!("{bound:?}")
    };
    let (peer, fds) = raw.call(Request::EvtchnPeer { file, port: local });
    let Ok(Reply::Peer {
        remote: Some(remote),
        ..
    }) = peer
    else {
        panic!("{peer:?}")
    };
    assert_eq!((remote, fds.len()), (port, 2));
    quiet(&*evtchn);

    assert!(
        raise(&map(&fds[0], EVENT_PAGES), port),
        "it is the raiser's to wake"
    );
    other.notify(to_other_port).unwrap();
    assert!(
        !readable(&*evtchn, Duration::ZERO),
        "somebody woke: the test shows nothing"
    );
    drop(raw);
    // Not by reading, which would find the events without a wake-up.
    assert!(readable(&*evtchn, PATIENCE), "never woken");
    let mut events = wait_events(&*evtchn);
    events.sort();
    let mut both = [port, other_port];
    both.sort();
    assert_eq!(events, both);
}

/// Takes and unmasks what the binds raised.
fn quiet(evtchn: &dyn Evtchn) {
    while readable(evtchn, Duration::ZERO) {
        let mut ports: Vec<EvtchnPort> = Vec::new();
        evtchn.read(&mut ports).unwrap();
        evtchn.unmask(&ports).unwrap();
    }
}

/// A copier that stands still in the middle of a copy: its grant counts as in use until it is
/// done, or dead.
#[test]
fn a_grant_that_is_being_copied_does_not_end() {
    let xen = Xen::start();
    let front = xen.join(6, "front");
    let gntalloc = front.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(5), 1, Access::ReadWrite).unwrap();
    let gref = run.grefs[0];
    let (mut raw, hazards) = Raw::join(xen.dir.path(), 5);
    let file = raw.open(DeviceKind::Gntdev);
    let grant = libgnt::ForeignGrant {
        domid: DomId(6),
        gref,
    };
    let (attached, fds) = raw.call(Request::CopyAttach {
        file,
        grant,
        write: true,
    });
    let Ok(Reply::CopyPage { generation, .. }) = attached else {
        panic!("{attached:?}")
    };
    let generations = SharedPages::of_memfd(&fds[1], 1, Access::ReadOnly).unwrap();
    let word = || generations.load_u32(gref.0 as usize * 4, std::sync::atomic::Ordering::Acquire);
    let refused = MmapOptions::new().len(PAGE_SIZE).map_raw(&fds[1]);
    assert!(
        refused.is_err(),
        "a copier could write the granter's generation words"
    );

    let ended = || front.inspect().unwrap().grants.is_empty();
    let hazards = map(&hazards, 1);
    libgnt::sim::hazard::guarded(
        &hazards,
        7,
        grant,
        || word() == generation,
        || {
            gntalloc.dealloc_gref(run.index, 1).unwrap();
            assert_ne!(word(), generation, "the next copy would not notice");
            // Each question makes the host look at its slots again.
            for _ in 0..50 {
                assert!(!ended(), "ended under a copy");
            }
        },
    );
    sim_common::eventually("the end, after the copy", ended);
}

/// As above, with a copier that dies.
#[test]
fn a_copier_that_dies_in_the_middle_lets_go() {
    let xen = Xen::start();
    let front = xen.join(6, "front");
    let gntalloc = front.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(5), 1, Access::ReadWrite).unwrap();
    let (mut raw, hazards) = Raw::join(xen.dir.path(), 5);
    let file = raw.open(DeviceKind::Gntdev);
    let grant = libgnt::ForeignGrant {
        domid: DomId(6),
        gref: run.grefs[0],
    };
    let (attached, _fds) = raw.call(Request::CopyAttach {
        file,
        grant,
        write: false,
    });
    assert!(attached.is_ok());
    libgnt::sim::hazard::guarded(
        &map(&hazards, 1),
        0,
        grant,
        || true,
        || {
            gntalloc.dealloc_gref(run.index, 1).unwrap();
            assert!(
                !front.inspect().unwrap().grants.is_empty(),
                "ended under a copy"
            );
            drop(raw);
            sim_common::eventually("the end, after the death", || {
                front.inspect().unwrap().grants.is_empty()
            });
        },
    );
}

#[test]
fn nothing_is_served_before_the_join() {
    let xen = Xen::start();
    let stream = UnixStream::connect(xen.dir.path().join(HOST_SOCKET)).unwrap();
    let mut raw = Raw {
        stream,
        reader: FrameReader::new(MAX_DESCRIPTORS),
        tag: 0,
    };
    let (reply, fds) = raw.call(Request::OpenXenstore);
    assert_eq!(reply, Err(Errno::PERM));
    assert!(fds.is_empty());
    assert_eq!(raw.call(Request::Inspect).0, Err(Errno::PERM));
}

/// A service that says on each xenstore stream whose it is, and notes which domains came and went.
#[derive(Clone, Default)]
struct Greeter(Arc<Mutex<Vec<String>>>);

impl Services for Greeter {
    fn xenstore_connection(&mut self, domid: DomId, mut stream: UnixStream) {
        stream
            .write_all(format!("you are {domid}").as_bytes())
            .unwrap();
    }
    fn domain_created(&mut self, domid: DomId, name: &str) {
        self.0.lock().unwrap().push(format!("+{} {name}", domid.0));
    }
    fn domain_released(&mut self, domid: DomId) {
        self.0.lock().unwrap().push(format!("-{}", domid.0));
    }
}

#[test]
fn xenstore_streams_and_news_of_domains_reach_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let greeter = Greeter::default();
    let config = libgnt::sim::core::Config::default();
    let host = HostThread::start(dir.path(), config, Box::new(greeter.clone())).unwrap();
    let dom0 = libgnt::sim::client::connect(dir.path(), Some(DomId(0)), "toolstack").unwrap();
    dom0.create_domain(DomId(7), "guest").unwrap();
    let guest = libgnt::sim::client::connect(dir.path(), Some(DomId(7)), "front").unwrap();
    let mut stream = UnixStream::from(guest.open_xenstore().unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "you are domain 7");
    dom0.destroy_domain(DomId(7)).unwrap();
    assert!(matches!(guest.inspect(), Err(Error::HostGone { .. })));
    host.stop().unwrap();
    let news = greeter.0.lock().unwrap().clone();
    assert_eq!(news[1..], ["+7 guest", "-7"], "{news:?}");
    assert!(news[0].starts_with("+0"), "{news:?}");
}
