//! The client's suite on our server, or on any daemon's socket: `PV_XENSTORE_SOCKET=/run/xenstored/socket`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
mod suite;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::Client;
use rustix::io::Errno;
use suite::SOON;

/// Names a running daemon's socket instead of a server of the test's own.
const SOCKET: &str = "PV_XENSTORE_SOCKET";

#[test]
fn the_suite() {
    let ran = match std::env::var_os(SOCKET) {
        Some(socket) => suite::run(&|| Client::from_socket_path(&socket).unwrap()),
        None => {
            let xenstore = Xenstore::new();
            let ran = suite::run(&|| xenstore.dom0());
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
    let leaks = |connect: &suite::Connect<'_>, node: &str| {
        let client = connect();
        client.watch(node, "left behind").unwrap();
        client.wait_watch_event(SOON).unwrap();
        client.write(node, "1").unwrap();
        client.read(node).unwrap();
        assert_eq!(client.next_watch_event().unwrap(), None);
    };
    suite::run_case(("leaks", leaks), &|| xenstore.dom0());
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
