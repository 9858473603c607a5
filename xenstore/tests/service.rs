//! Client and server over real sockets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::wire::{Decoder, Kind, Packet};
use pv_xenstore::{Client, Error, Permission, Rights, ServerConfig, ServerHandle, ServiceError};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_domain_finds_itself() {
    let xenstore = Xenstore::new();
    xenstore.server.introduce(DomId(3), "guest").unwrap();
    let guest = xenstore.client(3);
    assert_eq!(guest.read_parsed::<u16>("domid").unwrap(), 3);
    assert_eq!(guest.read_string("name").unwrap(), "guest");
    assert_eq!(guest.domain_path(DomId(3)).unwrap(), "/local/domain/3");
    let asked = guest.is_domain_introduced(DomId(3)).unwrap_err();
    assert_eq!(asked.errno(), Some(Errno::ACCESS));
    let dom0 = xenstore.dom0();
    assert!(dom0.is_domain_introduced(DomId(3)).unwrap());
    assert!(!dom0.is_domain_introduced(DomId(4)).unwrap());
    assert_eq!(dom0.read_string("domid").unwrap(), "0");
}

#[test]
fn nodes_permissions_and_errors() {
    let xenstore = Xenstore::new();
    for domid in [1, 2] {
        xenstore.server.introduce(DomId(domid), "guest").unwrap();
    }
    let (one, two) = (xenstore.client(1), xenstore.client(2));
    one.write("data/x", b"\0\xff").unwrap();
    assert_eq!(one.read("data/x").unwrap(), b"\0\xff");
    assert_eq!(one.try_read("data/y").unwrap(), None);
    assert!(matches!(
        one.read_string("data/x"),
        Err(Error::BadValue { .. })
    ));
    one.mkdir("data/d").unwrap();
    assert_eq!(one.directory("data").unwrap(), ["x", "d"]);
    assert_eq!(one.directory("data/d").unwrap(), Vec::<String>::new());
    let refused = two.read("/local/domain/1/data/x").unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::ACCESS));
    let text = refused.to_string();
    assert!(
        text.contains("read") && text.contains("/local/domain/1/data/x"),
        "{text}"
    );
    assert!(text.contains("xenstore-chmod"), "the cure: {text}");
    let perms = [
        Permission::new(Rights::None, DomId(1)),
        Permission::new(Rights::Read, DomId(2)),
    ];
    one.set_perms("data/x", &perms).unwrap();
    assert_eq!(two.get_perms("/local/domain/1/data/x").unwrap(), perms);
    assert_eq!(two.read("/local/domain/1/data/x").unwrap(), b"\0\xff");
    one.rm("data/x").unwrap();
    assert!(!one.exists("data/x").unwrap());
    assert!(matches!(
        one.write("data/x", vec![0; 4096]),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(one.read("a\0b"), Err(Error::Invalid(_))));
    assert_eq!(one.read("a b").unwrap_err().errno(), Some(Errno::INVAL));
}

#[test]
fn values_are_read_whatever_stands_around_them() {
    let xenstore = Xenstore::new();
    let dom0 = xenstore.dom0();
    dom0.write("/x", b" 012 \0").unwrap();
    assert_eq!(dom0.read_parsed::<u64>("/x").unwrap(), 12);
    assert_eq!(dom0.read_string("/x").unwrap(), " 012 ");
    dom0.write("/x", b"\xff12").unwrap();
    for error in [
        dom0.read_parsed::<u64>("/x").unwrap_err(),
        dom0.read_string("/x").unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains(r#"holds "\xff12""#), "escaped once: {text}");
    }
}

#[test]
fn long_directories_come_whole() {
    let xenstore = Xenstore::new();
    let dom0 = xenstore.dom0();
    let names: Vec<String> = (0..400)
        .map(|n| format!("a-name-long-enough-to-need-parts-{n:03}"))
        .collect();
    for name in &names {
        dom0.mkdir(&format!("/many/{name}")).unwrap();
    }
    assert_eq!(dom0.directory("/many").unwrap(), names);
}

#[test]
fn watch_events_come_while_requests_go_on() {
    let xenstore = Xenstore::new();
    let (watcher, writer) = (xenstore.dom0(), xenstore.dom0());
    watcher.watch("/w", "token").unwrap();
    let first = watcher.wait_watch_event(SOON).unwrap().unwrap();
    assert_eq!((first.path.as_str(), first.token.as_str()), ("/w", "token"));
    assert_eq!(watcher.next_watch_event().unwrap(), None);
    writer.write("/w/a", "1").unwrap();
    writer.write("/w/b", "1").unwrap();
    // This request reads past the events; they must be in the queue then.
    assert_eq!(watcher.read("/w/b").unwrap(), b"1");
    assert!(watcher.has_watch_events());
    let mut paths = Vec::new();
    while let Some(event) = watcher.next_watch_event().unwrap() {
        paths.push(event.path);
    }
    assert_eq!(paths, ["/w/a", "/w/b"]);
    watcher.unwatch("/w", "token").unwrap();
    writer.write("/w/a", "2").unwrap();
    assert_eq!(watcher.read("/w/a").unwrap(), b"2");
    assert_eq!(watcher.next_watch_event().unwrap(), None);
}

#[test]
fn transactions_collide_and_all_increments_count() {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let xenstore = Xenstore::new();
    xenstore.dom0().write("/counter", "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let client = xenstore.dom0();
                for _ in 0..EACH {
                    client
                        .transaction(|tx| {
                            let n: usize = tx.read_parsed("/counter")?;
                            tx.write("/counter", (n + 1).to_string())
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(
        xenstore.dom0().read_parsed::<usize>("/counter").unwrap(),
        WRITERS * EACH
    );
}

#[test]
fn a_transaction_that_always_collides_ends() {
    let xenstore = Xenstore::new();
    let (one, other) = (xenstore.dom0(), xenstore.dom0());
    let mut tries = 0;
    let error = one
        .transaction(|tx| {
            tries += 1;
            tx.try_read("/x")?;
            other.write("/x", tries.to_string())
        })
        .unwrap_err();
    assert!(
        matches!(error, Error::Conflict { attempts } if attempts == tries),
        "{error}"
    );
}

#[test]
fn an_error_in_the_body_drops_the_transaction() {
    let xenstore = Xenstore::new();
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    let guest = xenstore.client(1);
    for _ in 0..20 {
        // Twice the quota of open transactions: they are really closed.
        let error = guest.transaction(|tx| {
            tx.write("data/x", "1")?;
            tx.read("data/none").map(|_| ())
        });
        assert_eq!(error.unwrap_err().errno(), Some(Errno::NOENT));
    }
    assert!(!guest.exists("data/x").unwrap());
}

#[test]
fn the_end_of_a_domain_cuts_its_connections_and_is_told() {
    let xenstore = Xenstore::new();
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    let (dom0, guest) = (xenstore.dom0(), xenstore.client(1));
    dom0.watch("@releaseDomain", "gone").unwrap();
    dom0.wait_watch_event(SOON).unwrap().unwrap();
    xenstore.server.release(DomId(1)).unwrap();
    assert_eq!(
        dom0.wait_watch_event(SOON).unwrap().unwrap().path,
        "@releaseDomain"
    );
    assert!(!dom0.exists("/local/domain/1").unwrap());
    assert!(matches!(
        guest.read("domid"),
        Err(Error::Disconnected { .. })
    ));
    assert!(matches!(
        guest.next_watch_event(),
        Err(Error::Disconnected { .. })
    ));
}

#[test]
fn a_malformed_message_costs_only_its_sender() {
    let xenstore = Xenstore::new();
    let bystander = xenstore.dom0();
    for bytes in [
        // A length of 4 GiB; one byte over the limit; random text.
        [2u32, 0, 0, u32::MAX].map(u32::to_ne_bytes).concat(),
        [2u32, 0, 0, 4097].map(u32::to_ne_bytes).concat(),
        b"GET / HTTP/1.1\r\nHost: xenstore\r\n\r\n".to_vec(),
    ] {
        let mut stream = UnixStream::connect(xenstore.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(&bytes).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "cut");
        bystander.write("/alive", "1").unwrap();
    }
    // Half a message, and gone.
    let mut stream = UnixStream::connect(xenstore.socket()).unwrap();
    stream.write_all(&[2, 0, 0, 0, 1]).unwrap();
    drop(stream);
    assert_eq!(bystander.read("/alive").unwrap(), b"1");
}

/// What a server-side queue holds for a client that never reads is bounded, and equal events are one.
#[test]
fn a_client_that_never_reads_is_cut_when_different_events_pile_up() {
    let xenstore = Xenstore::with(|config| {
        config.queue.events = 50;
        config.queue.quiet = Duration::ZERO;
    });
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    let writer = xenstore.dom0();
    let mut sleeper = xenstore.stream(1);
    sleeper.set_read_timeout(Some(SOON)).unwrap();
    sleeper
        .write_all(&Packet::new(Kind::Watch, 1, 0, "/local/domain/1\0t\0").encode())
        .unwrap();
    // The same node, over and over: one event waits, whatever happens.
    for n in 0..20_000 {
        writer.write("/local/domain/1/name", n.to_string()).unwrap();
    }
    let mut decoder = Decoder::new();
    let mut bytes = [0; 4096];
    let n = sleeper.read(&mut bytes).unwrap();
    decoder.push(&bytes[..n]);
    assert!(decoder.next_packet().unwrap().is_some(), "still served");
    // Different nodes: the socket's buffer fills, then the queue, then it is over.
    let mut cut = false;
    for n in 0..100_000 {
        writer
            .write(&format!("/local/domain/1/device/n{}", n % 1000), "")
            .unwrap();
        if n % 1000 == 999 && sleeper_is_cut(&sleeper) {
            cut = true;
            break;
        }
    }
    assert!(cut, "never cut");
}

/// Commits of many nodes, one behind the other, and a watcher that does nothing but read.
#[test]
fn a_watcher_that_reads_gets_every_event_of_whatever_is_committed_at_once() {
    const COMMITS: usize = 3;
    const NODES: usize = 2000;
    let xenstore = Xenstore::new();
    let mut watcher = xenstore.stream(0);
    watcher.set_read_timeout(Some(SOON)).unwrap();
    let watch = Packet::new(Kind::Watch, 1, 0, "/burst\0w\0").encode();
    watcher.write_all(&watch).unwrap();
    let mut received = Received::new(watcher);
    assert_eq!(received.next().known_kind(), Some(Kind::Watch));
    let first = received.next();
    assert_eq!(first, Packet::watch_event(b"/burst", b"w"));

    let mut writer = Received::new(xenstore.stream(0));
    let mut ask = |packet: Packet| {
        writer.stream.write_all(&packet.encode()).unwrap();
        writer.next()
    };
    // What they have in common is there before: else they would be in conflict.
    for commit in 0..COMMITS {
        ask(Packet::new(Kind::Mkdir, 1, 0, format!("/burst/{commit}\0")));
    }
    let mut ends = Vec::new();
    for commit in 0..COMMITS {
        let id = ask(Packet::new(Kind::TransactionStart, 1, 0, "\0")).payload;
        let id = std::str::from_utf8(&id).unwrap().trim_end_matches('\0');
        let id: u32 = id.parse().unwrap();
        for node in 0..NODES {
            let write = format!("/burst/{commit}/{node}\0v");
            ask(Packet::new(Kind::Write, 1, id, write));
        }
        ends.extend(Packet::new(Kind::TransactionEnd, 1, id, "T\0").encode());
    }
    writer.stream.write_all(&ends).unwrap();
    let mut missing: std::collections::BTreeSet<String> = (0..COMMITS)
        .flat_map(|commit| (0..NODES).map(move |node| format!("/burst/{commit}/{node}")))
        .collect();
    while !missing.is_empty() {
        let event = received.next();
        assert_eq!(event.known_kind(), Some(Kind::WatchEvent));
        let path = event.payload.split(|byte| *byte == 0).next().unwrap();
        missing.remove(std::str::from_utf8(path).unwrap());
    }
}

/// Whole packets of a stream.
struct Received {
    stream: UnixStream,
    decoder: Decoder,
}

impl Received {
    fn new(stream: UnixStream) -> Received {
        let decoder = Decoder::new();
        Received { stream, decoder }
    }

    fn next(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.decoder.next_packet().unwrap() {
                return packet;
            }
            let mut bytes = [0; 4096];
            let n = self.stream.read(&mut bytes).expect("in time");
            assert_ne!(n, 0, "the connection was cut");
            self.decoder.push(&bytes[..n]);
        }
    }
}

fn sleeper_is_cut(stream: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )
    .unwrap()
        > 0
}

/// Its replies are not queued without end either: the server stops reading its requests.
#[test]
fn a_client_that_only_asks_is_stopped_by_back_pressure() {
    let xenstore = Xenstore::new();
    let mut greedy = xenstore.stream(0);
    greedy
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let request = Packet::new(Kind::Directory, 1, 0, "/local/domain/0\0").encode();
    let stopped = (0..200_000).any(|_| greedy.write_all(&request).is_err());
    assert!(
        stopped,
        "the server took 200000 requests without one answer being read"
    );
    let start = Instant::now();
    assert!(xenstore.dom0().exists("/local").unwrap());
    assert!(start.elapsed() < SOON, "others are served");
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout_and_late_answers_are_dropped() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let client = Client::from_stream(ours.into()).unwrap();
    client.set_deadline(Duration::from_millis(20));
    let error = client.read("x").unwrap_err();
    assert!(
        matches!(&error, Error::Timeout { path, .. } if path == "x"),
        "{error}"
    );
    // The answer to the first request comes late, then the answer to the second.
    client.set_deadline(SOON);
    theirs
        .write_all(&Packet::new(Kind::Read, 1, 0, "late").encode())
        .unwrap();
    // A watch event's request id means nothing, even if it is the awaited one.
    let mut event = Packet::watch_event(b"p", b"t");
    event.req_id = 2;
    theirs.write_all(&event.encode()).unwrap();
    theirs
        .write_all(&Packet::new(Kind::Read, 2, 0, "right").encode())
        .unwrap();
    assert_eq!(client.read("x").unwrap(), b"right");
    assert_eq!(client.next_watch_event().unwrap().unwrap().path, "p");
    // An answer of the wrong kind.
    theirs
        .write_all(&Packet::new(Kind::Write, 3, 0, "OK\0").encode())
        .unwrap();
    assert!(matches!(client.read("x"), Err(Error::Protocol { .. })));
    // Garbage ends it.
    theirs.write_all(&[0xff; 64]).unwrap();
    assert!(matches!(client.read("x"), Err(Error::Disconnected { .. })));
    assert!(matches!(client.read("x"), Err(Error::Disconnected { .. })));
}

#[test]
fn sockets_left_behind_and_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let config = || {
        let mut config = ServerConfig::default();
        config.socket = Some(socket.clone());
        config
    };
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let server = ServerHandle::start(config()).expect("a dead server's socket is replaced");
    assert!(matches!(
        ServerHandle::start(config()),
        Err(ServiceError::InUse(_))
    ));
    server.stop();
    server.stop();
    assert!(!socket.exists(), "nothing is left behind");
    assert!(matches!(
        server.introduce(DomId(1), "x"),
        Err(ServiceError::Stopped)
    ));
    std::fs::write(&socket, "a file").unwrap();
    assert!(matches!(
        ServerHandle::start(config()),
        Err(ServiceError::NotASocket(_))
    ));
    assert_eq!(
        std::fs::read(&socket).unwrap(),
        b"a file",
        "and it is left alone"
    );
}

/// Anything that is no socket is taken for `/dev/xen/xenbus`, whose buffer holds header and
/// payload together.
#[test]
fn a_device_takes_less_in_one_message() {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let client = Client::from_stream(null.into()).unwrap();
    let error = client.write("x", vec![b'v'; 4079]).unwrap_err();
    assert!(error.to_string().contains("one message of 4080"), "{error}");
    // What fits is sent; /dev/null then ends the stream.
    assert!(matches!(
        client.write("x", vec![b'v'; 4078]),
        Err(Error::Disconnected { .. })
    ));
}

/// The wake-up of the last handle was lost now and then when its eventfd closed with it.
#[test]
fn the_last_handle_ends_the_thread_and_its_connections() {
    for round in 0..200 {
        let server = ServerHandle::start(ServerConfig::default()).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        server.attach(DomId(0), theirs).unwrap();
        drop(server);
        let end = ours.read(&mut [0]);
        assert!(matches!(end, Ok(0)), "round {round}: {end:?}");
    }
}
