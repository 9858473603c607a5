//! A connection that bad days do not end, and the thread that keeps it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::keeper::{Keep, Keeper, News};
use pv_xenstore::steady::{Open, Steady};
use pv_xenstore::{Client, Error, Result};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Connections of domain 1, whose streams the test can cut.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<UnixStream>>>);

impl Streams {
    fn open(&self, xenstore: &Xenstore) -> (Client, Open) {
        let (streams, server) = (self.clone(), xenstore.server.clone());
        let open = move || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            streams.0.lock().unwrap().push(ours.try_clone().unwrap());
            server.attach(DomId(1), theirs).unwrap();
            Client::from_stream(ours.into())
        };
        (open().unwrap(), Box::new(open))
    }

    fn cut(&self) {
        for stream in self.0.lock().unwrap().drain(..) {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
}

fn set_up() -> Xenstore {
    let xenstore = Xenstore::new();
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    xenstore
}

fn refused(errno: Errno) -> Error {
    Error::Refused {
        operation: "write",
        path: "a".into(),
        errno,
        said: None,
    }
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_an_error() {
    let xenstore = set_up();
    let (client, open) = Streams::default().open(&xenstore);
    let mut store = Steady::new(client, open);
    let mut tries = 0;
    let mut failing = [
        refused(Errno::NOSPC),
        refused(Errno::DQUOT),
        refused(Errno::TOOBIG),
        Error::Conflict { attempts: 32 },
    ]
    .into_iter();
    let value = store.run(|client| {
        tries += 1;
        failing.next().map_or_else(|| client.read("domid"), Err)
    });
    assert_eq!((value.unwrap(), tries), (b"1".to_vec(), 5));
    let mut tries = 0;
    let error = store.run(|_| -> Result<()> {
        tries += 1;
        Err(refused(Errno::INVAL))
    });
    assert_eq!((error.unwrap_err().errno(), tries), (Some(Errno::INVAL), 1));
}

#[test]
fn a_brake_ends_what_would_be_tried_for_ever() {
    let xenstore = set_up();
    let (client, open) = Streams::default().open(&xenstore);
    let mut store = Steady::new(client, open);
    let brake = store.brake();
    let began = Instant::now();
    let ends = std::thread::scope(|scope| {
        let ends = scope.spawn(|| store.run(|_| -> Result<()> { Err(refused(Errno::NOSPC)) }));
        brake.stop_at(Instant::now() + Duration::from_millis(50));
        ends.join().unwrap()
    });
    assert_eq!(ends.unwrap_err().errno(), Some(Errno::NOSPC));
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_new_connection_watches_what_the_old_one_did_and_looks_again() {
    let xenstore = set_up();
    let streams = Streams::default();
    let (client, open) = streams.open(&xenstore);
    let mut store = Steady::new(client, open);
    store.watch("data/a", "a").unwrap();
    let only_a = BTreeSet::from(["a".to_owned()]);
    let wait = |store: &mut Steady| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fired = store.fired().unwrap();
            if !fired.is_empty() {
                return fired;
            }
            assert!(Instant::now() < deadline, "no event");
            let client = store.client().unwrap().clone();
            // What it reads is put back into the client's own queue.
            client.read("domid").unwrap();
        }
    };
    assert_eq!(wait(&mut store), only_a, "a fresh watch fires");
    streams.cut();
    assert_eq!(wait(&mut store), only_a, "whatever happened meanwhile");
    // The new watch's own event came before this answer, and tells nothing new.
    store.run(|client| client.read("domid")).unwrap();
    assert_eq!(store.fired().unwrap(), BTreeSet::new());
    assert_eq!(store.reconnections(), 1);
    xenstore
        .dom0()
        .write("/local/domain/1/data/a", "1")
        .unwrap();
    assert_eq!(wait(&mut store), only_a);
}

/// A daemon that is stopped and started again at the same socket.
#[test]
fn a_daemon_that_is_restarted_is_found_again() {
    let mut xenstore = Xenstore::new();
    let socket = xenstore.socket();
    let open: Open = Box::new(move || Client::from_socket_path(&socket));
    let mut store = Steady::new(open().unwrap(), open);
    store.watch("/x", "x").unwrap();
    store.run(|client| client.read("/local")).unwrap();
    store.fired().unwrap();
    xenstore.restart();
    store.run(|client| client.write("/x", "1")).unwrap();
    assert_eq!(store.reconnections(), 1);
    assert_eq!(store.fired().unwrap(), BTreeSet::from(["x".to_owned()]));
}

/// Counts looks, and echoes.
#[derive(Default)]
struct Echo {
    news: Vec<String>,
    over: bool,
}

impl Keep for Echo {
    type Command = &'static str;
    type News = String;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        store.watch("data", "data")
    }

    fn obey(&mut self, store: &mut Steady, command: &'static str) -> Result<()> {
        let value = store.run(|client| client.read_string(command))?;
        self.news.push(value);
        self.over = command == "name";
        assert!(command != "vm", "a test's panic");
        Ok(())
    }

    fn look(&mut self, _: &mut Steady, fired: &BTreeSet<String>) -> Result<()> {
        self.news.extend(fired.iter().cloned());
        Ok(())
    }

    fn news(&mut self) -> Option<String> {
        self.news.pop()
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

#[test]
fn a_keeper_obeys_looks_and_ends() {
    let xenstore = set_up();
    let (client, open) = Streams::default().open(&xenstore);
    let store = Steady::new(client, open);
    let mut keeper = Keeper::start("test", Echo::default(), store).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let registry = poll.registry();
    registry
        .register(&mut keeper, mio::Token(0), mio::Interest::READABLE)
        .unwrap();
    let mut next = || {
        let mut events = mio::Events::with_capacity(1);
        loop {
            match keeper.news().unwrap() {
                News::Nothing => poll.poll(&mut events, Some(PATIENCE)).unwrap(),
                other => return other,
            }
            assert!(!events.is_empty() || !matches!(keeper.news(), Ok(News::Nothing)));
        }
    };
    assert!(matches!(next(), News::Piece(text) if text == "data"));
    xenstore
        .dom0()
        .write("/local/domain/1/data/x", "1")
        .unwrap();
    assert!(matches!(next(), News::Piece(text) if text == "data"));
    assert!(keeper.tell("domid"));
    assert!(matches!(next(), News::Piece(text) if text == "1"));
    assert!(keeper.tell("name"));
    assert!(matches!(next(), News::Piece(text) if text == "guest"));
    assert!(matches!(next(), News::Over));
    assert!(!keeper.tell("domid"), "nobody is there any more");
}

#[test]
fn a_keeper_that_panicked_has_not_ended_well() {
    let xenstore = set_up();
    xenstore.dom0().write("/local/domain/1/vm", "-").unwrap();
    let (client, open) = Streams::default().open(&xenstore);
    let store = Steady::new(client, open);
    let keeper = Keeper::start("test", Echo::default(), store).unwrap();
    assert!(keeper.tell("vm"));
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match keeper.news() {
            Ok(News::Over) => panic!("as if nothing were wrong"),
            Ok(_) => assert!(Instant::now() < deadline, "it never ends"),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(error.to_string().contains("panicked"), "{error}");
}

/// Counts up at the start, answers each command, and says how often it has looked.
struct Talker {
    news: std::collections::VecDeque<u32>,
    looks: u32,
    over: bool,
}

/// More than either queue holds.
const MANY: u32 = 500;
const LOOKED: u32 = 1_000_000;

impl Keep for Talker {
    type Command = u32;
    type News = u32;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        self.news.extend(0..MANY);
        store.watch("data", "data")
    }

    fn obey(&mut self, _: &mut Steady, command: u32) -> Result<()> {
        self.news.push_back(command);
        self.over = command == u32::MAX;
        Ok(())
    }

    fn look(&mut self, _: &mut Steady, _: &BTreeSet<String>) -> Result<()> {
        self.looks += 1;
        self.news.push_back(LOOKED + self.looks);
        Ok(())
    }

    fn news(&mut self) -> Option<u32> {
        self.news.pop_front()
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

/// The loop says more than the queues hold before it listens, and the end comes while they are full.
#[test]
fn a_keeper_loses_nothing_and_waits_for_nobody_who_waits_for_it() {
    let xenstore = set_up();
    let (client, open) = Streams::default().open(&xenstore);
    let store = Steady::new(client, open);
    let talker = Talker {
        news: std::collections::VecDeque::new(),
        looks: 0,
        over: false,
    };
    let mut keeper = Keeper::start("test", talker, store).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let registry = poll.registry();
    registry
        .register(&mut keeper, mio::Token(0), mio::Interest::READABLE)
        .unwrap();
    // On a thread of its own: it must not stand still, and the test must not, if it does.
    let (said, all_said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        assert!((MANY..2 * MANY).all(|command| keeper.tell(command)));
        said.send(keeper).unwrap();
    });
    let keeper = all_said
        .recv_timeout(PATIENCE)
        .expect("the loop and the thread wait for each other");
    let dom0 = xenstore.dom0();
    for n in 0..MANY {
        let value = n.to_string();
        dom0.write("/local/domain/1/data/x", value).unwrap();
    }
    let mut next = || {
        let mut events = mio::Events::with_capacity(1);
        loop {
            match keeper.news().unwrap() {
                News::Piece(piece) => return piece,
                News::Nothing => poll.poll(&mut events, Some(PATIENCE)).unwrap(),
                News::Over => panic!("it ended early"),
            }
            assert!(!events.is_empty(), "it stands still");
        }
    };
    for n in 0..2 * MANY {
        assert_eq!(next(), n, "in order, and nothing seen meanwhile before it");
    }
    // So many changes, and one look at what is there now.
    assert_eq!(next(), LOOKED + 1);
    for n in 0..MANY {
        assert!(keeper.tell(n));
    }
    assert!(keeper.tell(u32::MAX));
    let pieces: Vec<u32> = std::iter::from_fn(|| Some(next()))
        .take_while(|piece| *piece != u32::MAX)
        .filter(|piece| *piece < LOOKED)
        .collect();
    assert!(pieces.into_iter().eq(0..MANY), "the end loses nothing");
}
