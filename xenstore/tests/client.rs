//! The client's suite on our server, or on any daemon's socket: `PV_XENSTORE_SOCKET=/run/xenstored/socket`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_suite::{Case, Connect, Many, Needs, Place, SOON};
use pv_xenstore::client::Request;
use pv_xenstore::{Client, Error};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Names a running daemon's socket instead of a server of the test's own.
const SOCKET: &str = "PV_XENSTORE_SOCKET";

#[test]
fn the_suite() {
    let ran = match std::env::var_os(SOCKET) {
        Some(socket) => pv_suite::run(&Place::dom0(&|| Client::from_socket_path(&socket).unwrap())),
        None => {
            let xenstore = Xenstore::new();
            let ran = pv_suite::run(&Place::dom0(&|| xenstore.dom0()));
            assert!(!xenstore.dom0().exists("/pv-suite").unwrap());
            ran
        }
    };
    let mut names = ran.clone();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ran.len(), "a node for each case");
}

/// A case that finds something wrong panics: here each watch is left to the daemon.
#[test]
#[should_panic(expected = "assertion")]
fn a_case_can_fail() {
    let xenstore = Xenstore::new();
    let leaks = |connect: &Connect<'_>, node: &str, _: Many| {
        let client = connect();
        client.watch(node, "left behind").unwrap();
        client.wait_watch_event(SOON).unwrap();
        client.write(node, "1").unwrap();
        client.read(node).unwrap();
        assert_eq!(client.next_watch_event().unwrap(), None);
    };
    let case = Case {
        name: "leaks",
        needs: Needs::Nothing,
        run: leaks,
    };
    pv_suite::run_case(&case, &Place::dom0(&|| xenstore.dom0()));
}

/// A domain's quota of watches is 128: what is dropped is given back.
#[test]
fn watches_of_a_domain_that_come_and_go_stay_within_its_quota() {
    let xenstore = Xenstore::new();
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    let guest = xenstore.client(1);
    for _ in 0..1000 {
        guest.watching("data").unwrap();
    }
    let held: Vec<_> = std::iter::from_fn(|| guest.watching("data").ok())
        .take(200)
        .collect();
    // The daemon's quota counts from 0 or from 1.
    assert!((128..=129).contains(&held.len()), "{}", held.len());
    let full = guest.watching("data").unwrap_err();
    assert_eq!(full.errno(), Some(Errno::TOOBIG), "{full}");
    drop(held);
    let event = guest.watching("data").unwrap().next(SOON).unwrap().unwrap();
    assert_eq!(
        (&*event.path, event.first),
        ("data", true),
        "relative, as asked"
    );
}

/// The first event of `@releaseDomain` is not the end of a domain.
#[test]
fn the_end_of_a_domain_is_not_the_first_event() {
    let xenstore = Xenstore::new();
    let dom0 = xenstore.dom0();
    let watch = dom0
        .watching_all(&["@introduceDomain", "@releaseDomain"])
        .unwrap();
    for _ in 0..2 {
        assert!(watch.next(SOON).unwrap().unwrap().first);
    }
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    let event = watch.next(SOON).unwrap().unwrap();
    assert_eq!((&*event.path, event.first), ("@introduceDomain", false));
    xenstore.server.release(DomId(1)).unwrap();
    let event = watch.next(SOON).unwrap().unwrap();
    assert_eq!((&*event.path, event.first), ("@releaseDomain", false));
}

/// Threads that give up at any moment, threads that wait, a loop that drives, and watches that come and go,
/// all on one connection: every answer is its own thread's, and nobody sleeps for ever.
#[test]
fn threads_that_give_up_hand_over() {
    const SEED: u64 = 0x5eed_c11e;
    const THREADS: u64 = 12;
    const ROUNDS: u32 = 200;
    let xenstore = Xenstore::new();
    let client = xenstore.dom0();
    client.set_deadline(SOON);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (client, over) = (&client, &over);
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(SEED + thread);
                    let path = format!("/threads/{thread}");
                    for round in 0..ROUNDS {
                        let value = format!("{thread} {round}");
                        client.write(&path, &value).unwrap();
                        let ticket = client.submit(Request::read(&path)).unwrap();
                        let patience = Duration::from_micros(random.u64(0..200));
                        match ticket.wait(patience) {
                            Ok(read) => assert_eq!(read, value.as_bytes()),
                            Err(Error::Timeout { .. }) => {}
                            Err(error) => panic!("{error}, with the seed {SEED}"),
                        }
                        if random.u8(..) < 32 {
                            let watch = client.watching(&path).unwrap();
                            assert!(watch.next(SOON).unwrap().unwrap().first);
                        }
                        assert_eq!(client.read_string(&path).unwrap(), value);
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                client.drive().unwrap();
                assert_eq!(client.next_watch_event().unwrap(), None);
                std::thread::yield_now();
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "the seed is {SEED}");
    });
    // A thread that nobody wakes sleeps as long as its deadline.
    assert!(began.elapsed() < SOON, "somebody slept; the seed is {SEED}");
}
