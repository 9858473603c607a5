//! The client over ring pages, on a simulated Xen.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/ring.rs"]
mod daemon;

use common::Xenstore;
use daemon::{Bridge, CONNECTION, ERROR, FEATURES, Page, REQ_CONS, RSP_CONS, RSP_PROD, Xen};
use pv_suite::{Place, SOON};
use pv_xenstore::wire::{Kind, Packet};
use pv_xenstore::{Client, Error};
use std::sync::Mutex;
use std::time::Duration;

const RECONNECTION: u32 = 1;
const SAYS_ERRORS: u32 = 2;

#[test]
fn the_suite_over_rings() {
    let (xen, xenstore) = (Xen::start(), Xenstore::new());
    let bridges: Mutex<Vec<Bridge>> = Mutex::default();
    let connect = || {
        let (parts, page) = xen.ring();
        let bridge = page.serve(&xenstore.server, RECONNECTION);
        bridges.lock().unwrap().push(bridge);
        Client::from_ring(parts, SOON).unwrap()
    };
    pv_suite::run(&Place::dom0(&connect));
    assert!(xen.host().stats().requests() > 0, "over the simulated Xen");
}

/// A ring that was used before: the old one's watches are gone, and what was on its way to it, too.
#[test]
fn a_ring_begins_anew() {
    let (xen, xenstore) = (Xen::start(), Xenstore::new());
    let (parts, page) = xen.ring();
    let again = parts.clone();
    let bridge = page.serve(&xenstore.server, RECONNECTION);
    let client = Client::from_ring(parts, SOON).unwrap();
    client.write("/x", "1").unwrap();
    client.watch("/x", "old").unwrap();
    client.wait_watch_event(SOON).unwrap().unwrap();
    drop(client);
    // Its watch fires into a ring that nobody reads.
    xenstore.dom0().write("/x", "2").unwrap();
    let client = Client::from_ring(again, SOON).unwrap();
    assert_eq!(client.read("/x").unwrap(), b"2");
    client.watch("/x", "old").expect("no watch is left");
    assert!(client.wait_watch_event(SOON).unwrap().unwrap().first);
    drop(bridge);
}

fn plain(xen: &Xen) -> (Client, Page) {
    let (parts, page) = xen.ring();
    (Client::from_ring(parts, SOON).unwrap(), page)
}

#[test]
fn indices_that_make_no_sense_end_the_connection() {
    let xen = Xen::start();
    for (what, at, value) in [
        ("more than the ring holds", RSP_PROD, 1025),
        ("backwards", RSP_PROD, u32::MAX),
        ("read what was never written", REQ_CONS, 5),
        ("backwards, too", REQ_CONS, 0x8000_0000),
    ] {
        let (client, page) = plain(&xen);
        page.set(at, value);
        page.notify();
        let error = client.read("x").unwrap_err();
        assert!(
            matches!(error, Error::Disconnected { .. }),
            "{what}: {error}"
        );
        assert!(error.to_string().contains("indices"), "{what}: {error}");
    }
}

#[test]
fn a_daemon_that_gives_up_says_why() {
    let xen = Xen::start();
    let (client, page) = plain(&xen);
    page.set(FEATURES, SAYS_ERRORS);
    page.set(ERROR, 3);
    page.notify();
    let error = client.read("x").unwrap_err();
    assert!(error.to_string().contains("protocol violation"), "{error}");
}

#[test]
fn a_daemon_that_does_not_take_the_ring_again_is_not_waited_for() {
    let xen = Xen::start();
    let (parts, page) = xen.ring();
    page.set(CONNECTION, 1);
    let refused = Client::from_ring(parts, Duration::from_millis(20));
    assert!(matches!(refused, Err(Error::Disconnected { .. })));
}

/// What an earlier user left unread is dropped where a ring cannot begin anew; an answer to nobody would
/// end the connection.
#[test]
fn what_is_left_of_an_earlier_user_is_dropped() {
    let xen = Xen::start();
    let (parts, page) = xen.ring();
    let mut old = Packet::new(Kind::Read, 99, 0, "old").encode();
    assert!(page.put(&mut old));
    let client = Client::from_ring(parts, SOON).unwrap();
    client.set_deadline(Duration::from_millis(20));
    let error = client.read("x").unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(
        page.theirs
            .load_u32(RSP_CONS, std::sync::atomic::Ordering::Relaxed),
        19
    );
}
