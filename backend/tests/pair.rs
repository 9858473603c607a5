//! The back end against an honest front end, on the simulated Xen.

mod common;

use common::bent::Bent;
use common::{Front, PATIENCE, Running, Stage};
use libgnt::PAGE_SIZE;
use libgnt::grant::Map;
use libgnt::platform::Platform;
use libgnt::proto::blkif::{Operation, Status};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::wire::{HoldId, HoldKind};
use pv_backend::disk::Backing;
use pv_backend::machine::{BackSabotage, DataMode};
use pv_backend::{BackEventKind, Mode, PageLender, RequestInfo};
use pv_xenstore::XenbusState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

const MODES: [(Mode, bool, DataMode); 4] = [
    (Mode::Map, true, DataMode::Map),
    (Mode::Copy, false, DataMode::Copy),
    (Mode::Auto, true, DataMode::Persistent),
    (Mode::Auto, false, DataMode::Map),
];

fn pattern(n: usize) -> Vec<u8> {
    (0..PAGE_SIZE)
        .map(|i| (i * 7 + n * 31 + i / 256) as u8)
        .collect()
}

fn write_and_read_back(front: &mut Front) {
    for page in 0..11 {
        front.pages().write(page * PAGE_SIZE, &pattern(page));
    }
    let pages: Vec<usize> = (0..11).collect();
    let write = front.request(Operation::Write, 1, 8, &pages);
    assert_eq!(front.one(write).status, Status::Okay);
    let flush = front.request(Operation::Flush, 2, 0, &[]);
    assert_eq!(front.one(flush).status, Status::Okay);
    // Into other pages, in another order, as many requests at once.
    let reads: Vec<_> = (0..11)
        .map(|n| front.request(Operation::Read, 100 + n, 8 + n * 8, &[30 - n as usize]))
        .collect();
    front.send(&reads);
    let mut ids: Vec<u64> = front
        .receive(11)
        .iter()
        .map(|response| {
            assert_eq!(response.status, Status::Okay, "{response:?}");
            response.id
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (100..111).collect::<Vec<_>>());
    for n in 0..11 {
        let mut back = vec![0; PAGE_SIZE];
        front.pages().read((30 - n) * PAGE_SIZE, &mut back);
        assert!(back == pattern(n), "page {n} came back different");
    }
}

#[test]
fn data_goes_there_and_back_in_every_mode() {
    for (mode, persistent, expected) in MODES {
        for on_file in [false, true] {
            let stage = Stage::new();
            let image = tempfile::NamedTempFile::new().expect("image");
            image.as_file().set_len(1 << 20).expect("size");
            let running = Running::start(&stage, |config| {
                config.mode = mode;
                if on_file {
                    config.backing = Backing::File(image.path().into());
                }
            });
            let mut front = Front::new(&stage);
            if persistent {
                front.set("feature-persistent", 1);
            }
            front.connect(&stage);
            let used = running.wait("connected", |event| match event {
                BackEventKind::Connected { mode } => Some(*mode),
                _ => None,
            });
            assert_eq!(used, expected);
            write_and_read_back(&mut front);
            // Its end: all is unmapped, and the image has the data.
            front.state(XenbusState::Closing);
            front.state(XenbusState::Closed);
            running.wait_closed();
            running.stop().expect("stops");
            if on_file {
                let bytes = std::fs::read(image.path()).expect("image");
                assert!(
                    bytes[4096..8192] == pattern(0)[..],
                    "the image has other data"
                );
            }
        }
    }
}

#[test]
fn what_the_back_end_announces() {
    let stage = Stage::new();
    let _running = Running::start(&stage, |config| config.read_only = true);
    let front = Front::new(&stage);
    front.connect(&stage);
    let node = |name: &str| {
        let path = format!("{}/{name}", stage.back_dir());
        stage
            .store
            .read_string(&path)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    assert_eq!(node("sectors"), "2048");
    assert_eq!(node("sector-size"), "512");
    assert_eq!(node("feature-flush-cache"), "1");
    assert_eq!(node("feature-persistent"), "1");
    assert_eq!(node("max-ring-page-order"), "0");
    // VDISK_READONLY, `xen/include/public/io/blkif.h`.
    assert_eq!(node("info").parse::<u32>().expect("number") & 4, 4);
    // The toolstack's, which says nothing of `--read-only`.
    assert_eq!(node("mode"), "w");
}

#[test]
fn a_container_that_does_not_know_the_guest_type_can_serve() {
    let stage = Stage::new();
    let (container, bend) = Bent::new(stage.platform(libgnt::DomId::DOM0, "backend"));
    bend.no_guest_type.store(true, Ordering::Relaxed);
    let _running = Running::start_on(container, |_| {});
    let mut front = Front::new(&stage);
    front.connect(&stage);
    write_and_read_back(&mut front);
}

/// Pins every page it is lent, and hands the hold to the test.
struct Pinner {
    platform: Arc<dyn Platform>,
    holds: Sender<(u64, HoldId)>,
    only: Option<u64>,
}

impl PageLender for Pinner {
    fn lend(&mut self, map: &Map, request: &RequestInfo) {
        if self.only.is_some_and(|id| id != request.id) {
            return;
        }
        let memory = SimPlatform::of(&*self.platform).expect("simulated");
        let pages = map.pages();
        let hold = memory
            .pin(pages, 0, pages.pages(), HoldKind::Plain)
            .expect("pin");
        self.holds
            .send((request.id, hold))
            .expect("the test listens");
    }
}

fn with_pinner(stage: &Stage, only: Option<u64>) -> (Running, Release) {
    with_pinner_and(stage, only, BackSabotage::None)
}

fn with_pinner_and(stage: &Stage, only: Option<u64>, sabotage: BackSabotage) -> (Running, Release) {
    let (send, holds) = channel();
    let platform = stage.platform(libgnt::DomId::DOM0, "backend");
    let running = Running::start_on(Arc::clone(&platform), |config| {
        config.mode = Mode::Map;
        config.sabotage = sabotage;
        config.lender = Some(Box::new(Pinner {
            platform: Arc::clone(&platform),
            holds: send,
            only,
        }));
    });
    let consumer = stage.platform(libgnt::DomId::DOM0, "consumer");
    (running, Release { consumer, holds })
}

struct Release {
    consumer: Arc<dyn Platform>,
    holds: std::sync::mpsc::Receiver<(u64, HoldId)>,
}

impl Release {
    /// Takes a hold over from the back end, so that it is the consumer's.
    fn take(&self) -> (u64, HoldId, libgnt::SharedPages) {
        let (id, hold) = self.holds.recv_timeout(PATIENCE).expect("a hold");
        let pages = self.memory().attach(hold).expect("attach");
        (id, hold, pages)
    }

    fn memory(&self) -> &SimPlatform {
        SimPlatform::of(&*self.consumer).expect("simulated")
    }
}

#[test]
fn a_held_request_is_answered_when_released_and_others_go_on() {
    let stage = Stage::new();
    let (running, consumer) = with_pinner(&stage, Some(7));
    let mut front = Front::new(&stage);
    front.connect(&stage);
    front.pages().write(0, b"held");
    let held = front.request(Operation::Write, 7, 0, &[0]);
    front.send(&[held]);
    let (id, hold, pages) = consumer.take();
    assert_eq!(id, 7);
    let took = running.wait("unmap", |event| match event {
        BackEventKind::UnmapBegun {
            request: Some(7),
            took,
            ..
        } => Some(*took),
        _ => None,
    });
    assert!(
        took < Duration::from_secs(1),
        "unmap waited {took:?} for the holder"
    );
    for id in 100..200 {
        let request = front.request(Operation::Read, id, 0, &[1]);
        let response = front.one(request);
        assert_eq!(
            (response.id, response.status),
            (id, Status::Okay),
            "answered while held"
        );
    }
    let in_use = front.data.in_use().expect("simulated").expect("simulated");
    assert!(
        in_use.contains(&front.gref(0)),
        "released under the holder: {in_use:?}"
    );
    let mut live = [0; 4];
    pages.read(0, &mut live);
    assert_eq!(&live, b"held");
    drop(pages);
    consumer.memory().release(hold).expect("release");
    let response = front.receive(1)[0];
    assert_eq!((response.id, response.status), (7, Status::Okay));
    let in_use = front.data.in_use().expect("simulated").expect("simulated");
    assert!(
        !in_use.contains(&front.gref(0)),
        "answered before the release: {in_use:?}"
    );
}

#[test]
fn closed_means_that_nothing_is_mapped_and_a_holder_is_told_of() {
    let stage = Stage::new();
    let (running, consumer) = with_pinner(&stage, Some(7));
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let held = front.request(Operation::Write, 7, 0, &[0]);
    front.send(&[held]);
    let (_, hold, pages) = consumer.take();
    drop(pages);
    front.state(XenbusState::Closing);
    stage.wait_back(XenbusState::Closing);
    front.state(XenbusState::Closed);
    let error = pv_xenstore::toolstack::error_path(&stage.back_dir());
    stage.wait_node(&error, "the reason", |text| {
        text.is_some_and(|text| text.contains("still mapped"))
    });
    stage.wait_back(XenbusState::Closing);
    consumer.memory().release(hold).expect("release");
    stage.wait_back(XenbusState::Closed);
    let in_use = front.data.in_use().expect("simulated").expect("simulated");
    assert!(in_use.is_empty(), "Closed, and still mapped: {in_use:?}");
    stage.wait_node(&error, "gone", |text| text.is_none());
    drop(running);
}

#[test]
fn a_back_end_that_answers_before_the_release_is_seen_to() {
    let stage = Stage::new();
    let sabotage = BackSabotage::RespondBeforeRelease;
    let (_running, consumer) = with_pinner_and(&stage, Some(7), sabotage);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let held = front.request(Operation::Write, 7, 0, &[0]);
    front.send(&[held]);
    let (_, hold, _pages) = consumer.take();
    // Held, and answered all the same: what the test before this one must never see.
    assert_eq!(front.receive(1)[0].id, 7);
    let in_use = front.data.in_use().expect("simulated").expect("simulated");
    assert_eq!(in_use, [front.gref(0)]);
    consumer.memory().release(hold).expect("release");
}

#[test]
fn too_many_held_requests_are_back_pressure_not_a_crash() {
    let stage = Stage::new();
    let (running, consumer) = with_pinner(&stage, None);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let requests: Vec<_> = (0..16)
        .map(|id| front.request(Operation::Read, id, 0, &[id as usize]))
        .collect();
    front.send(&requests);
    let holds: Vec<_> = (0..16).map(|_| consumer.take()).collect();
    running.wait("back-pressure", |event| {
        matches!(event, BackEventKind::BackPressure { on: true, .. }).then_some(())
    });
    let late: Vec<_> = (16..24)
        .map(|id| front.request(Operation::Read, id, 0, &[id as usize]))
        .collect();
    front.send(&late);
    for (_, hold, pages) in holds {
        drop(pages);
        consumer.memory().release(hold).expect("release");
    }
    for _ in 16..24 {
        let (_, hold, pages) = consumer.take();
        drop(pages);
        consumer.memory().release(hold).expect("release");
    }
    let mut ids: Vec<u64> = front.receive(24).iter().map(|r| r.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..24).collect::<Vec<_>>());
}

#[test]
fn stop_answers_what_is_in_flight_and_closes() {
    let stage = Stage::new();
    let running = Running::start(&stage, |_| {});
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    running.stop.ask();
    stage.wait_back(XenbusState::Closing);
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    stage.wait_back(XenbusState::Closed);
    let ledger = running.ledger.clone();
    running.stop().expect("stops");
    assert!(ledger.counts().is_empty(), "{:?}", ledger.snapshot());
}
