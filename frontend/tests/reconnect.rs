//! Back ends that come, take, and go, again and again.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Back, FRONT, PATIENCE, Stage};
use libgnt::grant::{Granter, Ledger, Map};
use libgnt::{Access, DomId};
use pv_frontend::{Disk, FrontConfig, FrontEvent, FrontEventKind, Io};
use pv_xenstore::xenbus::XenbusState;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

fn observed(mut config: FrontConfig) -> (Disk, Receiver<FrontEvent>) {
    let (tell, events) = channel();
    let observer = move |event: FrontEvent| drop(tell.send(event));
    config.observer = Some(Box::new(observer));
    let disk = Disk::open(config).expect("open");
    (disk, events)
}

/// Waits for an event.
fn await_event<T>(events: &Receiver<FrontEvent>, wanted: impl Fn(FrontEvent) -> Option<T>) -> T {
    loop {
        let event = events.recv_timeout(PATIENCE).expect("the event");
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

/// Takes a request, and dies with its page in somebody's hands.
fn take_one_and_die(back: &mut Back) -> Map {
    back.connect();
    let request = back.next();
    back.map(&request).expect("a page")
}

#[test]
fn a_back_end_that_keeps_pages_of_each_ring_gets_no_more_than_the_domain_can_spare() {
    const POOL: usize = 22;
    let stage = Stage::new();
    let mut config = stage.config();
    config.pool_pages = POOL;
    let first = stage.back(take_one_and_die);
    let (disk, events) = observed(config);
    let ticket = disk.submit(Io::write(0, vec![7; 512])).expect("submit");
    let mut held = vec![first.join().expect("back end")];
    // Each time eleven pages are allocated together, and stay.
    for _ in 0..2 {
        let next = stage.back(take_one_and_die);
        held.push(next.join().expect("back end"));
    }
    let last = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let why = await_event(&events, |event| match event.kind {
        FrontEventKind::NoRoom { why } => Some(why),
        _ => None,
    });
    assert!(why.contains("33 pages are set aside, of 46"), "{why}");
    assert!(why.contains("for example grant "), "{why}");
    assert!(stage.granted_pages() <= 2 * (POOL as u32 + 1));
    // When they come free it goes on.
    held.clear();
    ticket.wait().expect("done by the last back end");
    assert_eq!(stage.image.lock().unwrap()[..512], [7; 512]);
    disk.close().expect("close");
    last.join().expect("back end");
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn no_room_until_a_back_end_is_given_up_is_told_as_the_reason() {
    let stage = Stage::new();
    let mut config = stage.config();
    config.pool_pages = 22;
    config.reconnect = Duration::from_secs(2);
    let first = stage.back(take_one_and_die);
    let (disk, _events) = observed(config);
    let ticket = disk.submit(Io::write(0, vec![7; 512])).expect("submit");
    let mut held = vec![first.join().expect("back end")];
    for _ in 0..2 {
        let next = stage.back(take_one_and_die);
        held.push(next.join().expect("back end"));
    }
    let last = stage.back(|back| {
        back.connect_to(XenbusState::InitWait);
        back.follow("closed", Back::is_closed);
    });
    let error = ticket.wait().expect_err("no ring").to_string();
    assert!(error.contains("33 pages are set aside"), "{error}");
    disk.close().expect("close");
    last.join().expect("back end");
    drop(held);
}

/// Another program of the domain has granted what its kernel allows.
#[test]
fn a_first_ring_waits_for_the_quota() {
    let stage = Stage::new();
    let other = Granter::open(stage.platform(FRONT, "other"), Ledger::new()).expect("open");
    let others = other
        .share(DomId(0), 1010, Access::ReadWrite)
        .expect("share");
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let (tell, events) = channel();
    let observer = move |event: FrontEvent| drop(tell.send(event));
    let mut config = stage.config();
    config.observer = Some(Box::new(observer));
    let opening = std::thread::spawn(move || Disk::open(config));
    await_event(&events, |event| {
        matches!(event.kind, FrontEventKind::NoRoom { .. }).then_some(())
    });
    drop(others);
    let disk = opening.join().unwrap().expect("open");
    // Not closed before the back end knows that it is connected.
    disk.write_at(0, &[1; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("back end");
}

#[test]
fn rings_for_back_ends_that_do_not_last_are_paced() {
    let stage = Stage::new();
    let serve_one = |back: &mut Back| {
        back.connect();
        back.serve(1);
    };
    let first = stage.back(serve_one);
    let (disk, events) = observed(stage.config());
    let mut connected = Vec::new();
    let next_connection = || {
        await_event(&events, |event| {
            matches!(event.kind, FrontEventKind::Connected { .. }).then_some(event.at)
        })
    };
    connected.push(next_connection());
    disk.write_at(0, &[1; 512]).expect("write");
    first.join().expect("back end");
    for _ in 0..5 {
        let next = stage.back(serve_one);
        disk.write_at(0, &[1; 512]).expect("write");
        next.join().expect("back end");
        connected.push(next_connection());
    }
    disk.close().expect("close");
    // A pause lasts as long as it lasts: the fifth ring in a row waits for 80 to 160 ms.
    let pause = connected[5] - connected[4];
    assert!(pause >= Duration::from_millis(80), "{connected:?}");
}

/// A back end's domain crashes, and the toolstack makes the device again before the front end looks.
#[test]
fn a_device_that_is_made_anew_gets_what_the_old_back_end_left_unanswered() {
    let stage = Stage::new();
    let first = stage.back(|back| {
        // Nothing tells of its end.
        back.liveness = false;
        take_one_and_die(back)
    });
    let (disk, events) = observed(stage.config());
    let ticket = disk.submit(Io::write(0, vec![7; 512])).expect("submit");
    drop(first.join().expect("back end"));
    let (front, back) = (stage.front_dir(), stage.back_dir());
    let anew = stage.store.transaction(|tx| {
        for node in ["ring-ref", "event-channel"] {
            tx.rm(&format!("{front}/{node}"))?;
        }
        for directory in [&front, &back] {
            tx.write(&format!("{directory}/state"), "1")?;
        }
        Ok::<_, pv_xenstore::Error>(())
    });
    anew.expect("transaction");
    let last = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let (why, unanswered) = await_event(&events, |event| match event.kind {
        FrontEventKind::BackendGone { why, unanswered } => Some((why, unanswered)),
        _ => None,
    });
    assert!(why.contains("the toolstack made the device anew"), "{why}");
    assert_eq!(unanswered, 1);
    ticket.wait().expect("done by the new back end");
    assert_eq!(stage.image.lock().unwrap()[..512], [7; 512]);
    disk.close().expect("close");
    last.join().expect("back end");
    assert_eq!(stage.granted_pages(), 0);
}
