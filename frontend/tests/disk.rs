//! The front end as a whole, on the simulated Xen, against back ends that serve, die and lie.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Back, DISK_BYTES, FRONT, PATIENCE, Stage, protocol_error};
use libgnt::grant::{Granter, Ledger};
use libgnt::proto::blkif::Status;
use libgnt::{Access, DomId};
use pv_frontend::{
    DeviceError, Disk, FrontConfig, FrontError, FrontEvent, FrontEventKind, Io, IoError,
    ProtocolError,
};
use pv_xenstore::toolstack::End;
use pv_xenstore::xenbus::XenbusState;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

fn serve(back: &mut Back) {
    back.connect();
    back.serve_until_closed();
}

type Events = Arc<Mutex<Vec<FrontEventKind>>>;

fn observed(mut config: FrontConfig) -> (Disk, Events) {
    let events = Events::default();
    let sink = Arc::clone(&events);
    let observer = move |event: FrontEvent| sink.lock().unwrap().push(event.kind);
    config.observer = Some(Box::new(observer));
    (Disk::open(config).expect("open"), events)
}

fn count(events: &Events, what: impl Fn(&FrontEventKind) -> bool) -> usize {
    events
        .lock()
        .unwrap()
        .iter()
        .filter(|event| what(event))
        .count()
}

fn round_trip(persistent: bool) {
    let stage = Stage::new();
    let back = stage.back(move |back| {
        back.persistent = [Some(persistent), None];
        serve(back);
    });
    let mut config = stage.config();
    config.persistent = persistent;
    let disk = Disk::open(config).expect("open");
    let info = disk.info().expect("info");
    assert_eq!(info.bytes(), DISK_BYTES as u64);
    assert!(info.flush && !info.read_only && info.persistent == persistent);
    let data = pattern(3 << 20, 7);
    disk.write_at(4096, &data).expect("write");
    disk.flush().expect("flush");
    let mut seen = vec![0; data.len()];
    disk.read_at(4096, &mut seen).expect("read");
    assert!(seen == data, "what was read is not what was written");
    assert!(
        stage.image.lock().unwrap()[4096..][..data.len()] == data[..],
        "nothing on the disk"
    );
    let counters = disk.close().expect("close");
    assert!(
        counters.requests >= 2 * (3 << 20) / (44 << 10),
        "{counters:?}"
    );
    back.join().expect("back end");
    assert_eq!(stage.granted_pages(), 0, "grants are left");
    stage.wait_state(&stage.front_dir(), XenbusState::Closed);
    stage.wait_state(&stage.back_dir(), XenbusState::Closed);
}

#[test]
fn data_goes_there_and_back() {
    round_trip(false);
}

#[test]
fn data_goes_there_and_back_over_persistent_grants() {
    round_trip(true);
}

#[test]
fn persistent_grants_are_what_the_back_end_says_when_it_is_connected() {
    for (offers, agreed) in [
        // Linux' back end says so only then.
        ([None, Some(true)], true),
        ([Some(false), Some(true)], true),
        ([Some(true), None], true),
        ([Some(true), Some(false)], false),
        ([None, None], false),
    ] {
        let stage = Stage::new();
        let back = stage.back(move |back| {
            back.persistent = offers;
            back.connect();
            // Keeps the page mapped beyond the answer.
            let request = back.next();
            let map = back.perform_request(&request);
            back.kept.extend(map);
            back.answer(&request, Status::Okay);
            back.serve_until_closed();
        });
        let mut config = stage.config();
        config.persistent = true;
        let disk = Disk::open(config).expect("open");
        let info = disk.info().expect("info");
        assert_eq!(info.persistent, agreed, "{offers:?}");
        let node = format!("{}/feature-persistent", stage.front_dir());
        assert_eq!(stage.store.read_string(&node).expect("node"), "1");
        match disk.read_at(0, &mut [0; 4096]) {
            Ok(()) => assert!(agreed, "{offers:?}: kept without a word"),
            Err(error) => {
                let error = protocol_error(error);
                let refused = matches!(error, ProtocolError::StillMapped { .. });
                assert!(refused && !agreed, "{offers:?}: {error}");
            }
        }
        disk.close().expect("close");
        back.join().expect("back end");
        assert_eq!(stage.granted_pages(), 0, "{offers:?}: grants are left");
    }
}

#[test]
fn a_dead_back_ends_requests_are_done_by_the_next_one() {
    let stage = Stage::new();
    // Answers five, takes three more, performs two of those, and dies.
    let first = stage.back(|back| {
        back.connect();
        back.serve(5);
        for n in 0..3 {
            let request = back.next();
            if n < 2 {
                let map = back.perform_request(&request);
                back.kept.extend(map);
            }
        }
    });
    let (disk, events) = observed(stage.config());
    let data: Vec<_> = (0..16u64).map(|n| pattern(8192, n)).collect();
    let write = |n: usize| {
        disk.submit(Io::write(n as u64 * 8192, data[n].clone()))
            .expect("submit")
    };
    let tickets: Vec<_> = (0..16).map(write).collect();
    first.join().expect("first back end");
    let second = stage.back(serve);
    for (n, ticket) in tickets.into_iter().enumerate() {
        ticket.wait().unwrap_or_else(|e| panic!("write {n}: {e}"));
    }
    disk.flush().expect("flush");
    let image = stage.image.lock().unwrap().clone();
    for (n, data) in data.iter().enumerate() {
        assert!(
            image[n * 8192..][..8192] == data[..],
            "acknowledged write {n} is lost"
        );
    }
    disk.close().expect("close");
    second.join().expect("second back end");
    let connected = |again| move |event: &FrontEventKind| matches!(event, FrontEventKind::Connected { again: a, .. } if *a == again);
    assert_eq!(count(&events, connected(false)), 1);
    assert_eq!(count(&events, connected(true)), 1);
    let gone = |event: &FrontEventKind| matches!(event, FrontEventKind::BackendGone { why, unanswered: 11 } if why.contains("died"));
    assert_eq!(count(&events, gone), 1, "{:?}", events.lock().unwrap());
    assert_eq!(count(&events, |event| *event == FrontEventKind::Closed), 1);
    assert_eq!(stage.granted_pages(), 0, "grants are left");
}

#[test]
fn a_ring_whose_back_end_died_is_kept_for_the_one_that_takes_it_over() {
    let stage = Stage::new();
    let first = stage.back(|back| {
        back.connect();
        back.serve(5);
    });
    let (disk, events) = observed(stage.config());
    let data: Vec<_> = (0..16u64).map(|n| pattern(8192, n)).collect();
    let write = |n: usize| {
        disk.submit(Io::write(n as u64 * 8192, data[n].clone()))
            .expect("submit")
    };
    let tickets: Vec<_> = (0..16).map(write).collect();
    first.join().expect("first back end");
    let gone = |event: &FrontEventKind| matches!(event, FrontEventKind::BackendGone { why, .. } if why.contains("died"));
    let deadline = Instant::now() + PATIENCE;
    while count(&events, gone) == 0 {
        assert!(Instant::now() < deadline, "its death goes unnoticed");
        std::thread::yield_now();
    }
    // One that lives for a single request, and one that stays.
    let second = stage.back(|back| {
        back.take_over();
        back.serve(1);
    });
    second.join().expect("second back end");
    let third = stage.back(|back| {
        back.take_over();
        back.serve_until_closed();
    });
    for (n, ticket) in tickets.into_iter().enumerate() {
        ticket.wait().unwrap_or_else(|e| panic!("write {n}: {e}"));
    }
    disk.flush().expect("flush");
    let image = stage.image.lock().unwrap().clone();
    for (n, data) in data.iter().enumerate() {
        assert!(image[n * 8192..][..8192] == data[..], "write {n} is lost");
    }
    disk.close().expect("close");
    third.join().expect("third back end");
    let ring = |event: &FrontEventKind| match event {
        FrontEventKind::Connected { ring, .. } => Some(*ring),
        _ => None,
    };
    // A fresh ring may get the old one's grant, but what was on the old one would go out again.
    let write =
        |event: &FrontEventKind| matches!(event, FrontEventKind::Submitted { operation: 1, .. });
    assert_eq!(count(&events, write), 16);
    let rings: Vec<_> = events.lock().unwrap().iter().filter_map(ring).collect();
    assert!(
        rings.len() > 1 && rings.iter().all(|ring| *ring == rings[0]),
        "{rings:?}"
    );
    assert_eq!(stage.granted_pages(), 0, "grants are left");
}

#[test]
fn pages_that_a_dead_back_end_left_mapped_are_set_aside_until_they_are_free() {
    let stage = Stage::new();
    // Dies with a page in somebody's hands, as a third consumer may hold one.
    let first = stage.back(|back| {
        back.connect();
        let request = back.next();
        (
            back.map(&request).expect("a page"),
            request.segments[0].grant(),
        )
    });
    let (disk, events) = observed(stage.config());
    let ticket = disk.submit(Io::write(0, vec![3; 4096])).expect("submit");
    let (held, grant) = first.join().expect("first back end");
    let second = stage.back(serve);
    ticket.wait().expect("done by the second back end");
    disk.write_at(4096, &pattern(1 << 20, 1)).expect("write");
    let set_aside = |event: &FrontEventKind| matches!(event, FrontEventKind::StillInUse { grants } if grants.contains(&grant));
    let let_go = |event: &FrontEventKind| matches!(event, FrontEventKind::LetGo { grants } if grants.contains(&grant));
    let submitted = |event: &FrontEventKind| matches!(event, FrontEventKind::Submitted { grants, .. } if grants.contains(&grant));
    assert_eq!(count(&events, set_aside), 1);
    assert_eq!(count(&events, let_go), 0, "it is still held");
    assert_eq!(count(&events, submitted), 1, "the held page went out again");
    held.unmap()
        .expect("unmap")
        .wait(PATIENCE)
        .expect("released");
    let deadline = Instant::now() + PATIENCE;
    while count(&events, let_go) == 0 {
        assert!(Instant::now() < deadline, "the page is never given back");
        disk.write_at(0, &[3; 512]).expect("write");
    }
    disk.close().expect("close");
    second.join().expect("second back end");
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn a_back_end_that_restarts_in_order_is_followed() {
    let stage = Stage::new();
    let first = stage.back(|back| {
        back.connect();
        back.serve(1);
    });
    let disk = Disk::open(stage.config()).expect("open");
    disk.write_at(0, &[1; 512]).expect("write");
    first.join().expect("first");
    for n in 2..5u8 {
        let next = stage.back(|back| {
            back.connect();
            back.serve(1);
        });
        disk.write_at(0, &[n; 512]).expect("write");
        next.join().expect("next");
        assert_eq!(stage.image.lock().unwrap()[0], n);
    }
    disk.close().expect("closed without a back end");
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn no_back_end_comes_back() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.next();
    });
    let mut config = stage.config();
    config.reconnect = Duration::from_millis(400);
    let disk = Disk::open(config).expect("open");
    let began = Instant::now();
    let error = disk.write_at(0, &[1; 512]).expect_err("nobody is there");
    let FrontError::Io(IoError::Device(DeviceError::Gone(why))) = &error else {
        panic!("{error:?}");
    };
    assert!(why.contains("no back end for xvda within 400ms"), "{why}");
    assert!(why.contains("process died"), "{why}");
    assert!(began.elapsed() < PATIENCE / 2);
    back.join().expect("back end");
    let left = stage.wait_front_error();
    assert!(left.contains("no back end"), "{left}");
    disk.close().expect("close");
    assert_eq!(stage.granted_pages(), 0);
}

/// Another program of the domain has granted nearly all that its kernel allows.
#[test]
fn what_is_left_of_the_quota_is_shared_between_reads_and_writes() {
    let stage = Stage::new();
    let other = Granter::open(stage.platform(FRONT, "other"), Ledger::new()).expect("open");
    let share = |_| {
        other
            .share(DomId(0), 125, Access::ReadWrite)
            .expect("share")
    };
    // 24 of 1024 are left: the ring, and 11 for each way.
    let others: Vec<_> = (0..8).map(share).collect();
    let back = stage.back(serve);
    let disk = Disk::open(stage.config()).expect("open");
    let data = pattern(100_352, 3);
    disk.write_at(0, &data).expect("write");
    let mut seen = vec![0; data.len()];
    disk.read_at(0, &mut seen).expect("read");
    assert!(seen == data);
    disk.close().expect("close");
    back.join().expect("back end");
    drop(others);
    assert_eq!(stage.granted_pages(), 0);
}

/// The inbox is full for longer than a caller waits for room in it.
#[test]
fn a_close_arrives_when_the_inbox_is_full() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.next();
    });
    let mut config = stage.config();
    config.queue = 1;
    config.deadline = Duration::from_millis(200);
    config.reconnect = Duration::from_secs(2);
    let disk = Disk::open(config).expect("open");
    let taken = disk.submit(Io::write(0, vec![1; 512])).expect("taken");
    back.join().expect("back end");
    let waiting = disk
        .submit(Io::write(0, vec![2; 512]))
        .expect("in the inbox");
    let (sender, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(disk.close()));
    let closed = closed.recv_timeout(PATIENCE).expect("close returns");
    closed.expect("closed");
    for ticket in [taken, waiting] {
        ticket.wait().expect_err("nobody was there to do it");
    }
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn no_device_is_an_error_that_says_what_to_do() {
    let stage = Stage::new();
    stage
        .device()
        .remove(&stage.store, Duration::ZERO)
        .expect("remove");
    let error = Disk::open(stage.config())
        .map(drop)
        .expect_err("no device")
        .to_string();
    assert!(
        error.contains("xvda") && error.contains("xl block-attach"),
        "{error}"
    );
}

#[test]
fn values_as_other_toolstacks_write_them_are_read() {
    let stage = Stage::new();
    for (directory, node) in [
        (stage.front_dir(), "backend"),
        (stage.front_dir(), "backend-id"),
        (stage.front_dir(), "state"),
        (stage.back_dir(), "online"),
    ] {
        let path = format!("{directory}/{node}");
        let mut value = stage.store.read(&path).expect("read");
        value.push(0);
        stage.store.write(&path, value).expect("write");
    }
    let back = stage.back(|back| {
        back.sectors.push('\0');
        serve(back);
    });
    let disk = Disk::open(stage.config()).expect("open");
    disk.write_at(0, &[9; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("back end");
}

#[test]
fn a_back_end_that_is_no_domain_is_told_as_it_is() {
    let stage = Stage::new();
    let node = format!("{}/backend-id", stage.front_dir());
    stage.store.write(&node, b"1\x1bz").expect("write");
    let error = Disk::open(stage.config()).map(drop).expect_err("nonsense");
    let error = error.to_string();
    assert!(
        error.contains(r#"backend-id is "1\x1bz", which"#),
        "{error}"
    );
}

#[test]
fn a_removed_device_is_closed_in_order() {
    let stage = Stage::new();
    let back = stage.back(serve);
    let disk = Disk::open(stage.config()).expect("open");
    disk.write_at(0, &[5; 512]).expect("write");
    let removed = stage
        .device()
        .remove(&stage.store, PATIENCE)
        .expect("remove");
    assert_eq!(removed.end, End::Closed, "{removed:?}");
    let error = disk.write_at(0, &[6; 512]).expect_err("removed");
    assert!(
        matches!(error, FrontError::Io(IoError::Device(_))),
        "{error:?}"
    );
    disk.close().expect("close");
    back.join().expect("back end");
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn queues_are_bounded_and_complete_in_any_order() {
    let stage = Stage::new();
    let back = stage.back(serve);
    let disk = Disk::open(stage.config()).expect("open");
    let queue = disk.queue(4);
    for tag in 0..4 {
        queue
            .submit(Io::write(tag * 512, vec![tag as u8; 512]), tag)
            .expect("room");
    }
    let refused = queue.submit(Io::flush(), 9).expect_err("full");
    assert_eq!(refused.error, IoError::QueueFull { limit: 4 });
    let mut tags: Vec<_> = (0..4)
        .map(|_| queue.next(PATIENCE).expect("completion").tag)
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2, 3]);
    queue.submit(Io::read(0, 100), 1).expect("room");
    let done = queue.next(PATIENCE).expect("completion");
    assert!(
        matches!(done.result, Err(IoError::Misaligned { .. })),
        "{done:?}"
    );
    disk.close().expect("close");
    assert!(queue.is_dead());
    back.join().expect("back end");
}
