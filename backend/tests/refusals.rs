//! What the devices refuse for a while or for good: the request that met it is answered, no other
//! waits for it, and Closed is the truth.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod common;

use common::bent::{Bend, Bent};
use common::{DATA_PAGES, Front, PATIENCE, Running, Stage};
use libgnt::grant::{Counts, EntryKind, IDLE_PAIRS, Ledger, Map};
use libgnt::platform::Platform;
use libgnt::proto::blkif::{Operation, Status};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::{DomId, GrantRef};
use pv_backend::{BackEvent, BackEventKind, Mode, Observer, PageLender, RequestInfo};
use pv_xenstore::XenbusState;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

fn bent(stage: &Stage, mode: Mode) -> (Running, Arc<Bend>) {
    let (platform, bend) = Bent::new(stage.platform(DomId::DOM0, "backend"));
    let running = Running::start_on(platform, |config| config.mode = mode);
    (running, bend)
}

#[test]
fn a_request_whose_release_nobody_would_tell_fails_and_others_go_on() {
    let stage = Stage::new();
    let (running, bend) = bent(&stage, Mode::Map);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    bend.no_notice.store(usize::MAX, Relaxed);
    let request = front.request(Operation::Write, 1, 0, &[0]);
    let response = front.one(request);
    assert_eq!((response.id, response.status), (1, Status::Error));
    assert_eq!(running.ledger.counts().untold_pages, 1);
    // What works after some attempts is no failure.
    bend.no_notice.store(2, Relaxed);
    for id in 2..5 {
        let request = front.request(Operation::Write, id, 0, &[0]);
        let response = front.one(request);
        assert_eq!((response.id, response.status), (id, Status::Okay));
    }
}

fn page_out(bend: &Bend, grefs: &[GrantRef]) {
    *bend.paged_out.lock().unwrap() = grefs.to_vec();
}

#[test]
fn a_page_that_is_paged_out_delays_its_own_request_only() {
    for mode in [Mode::Map, Mode::Copy, Mode::Persistent] {
        let stage = Stage::new();
        let (_running, bend) = bent(&stage, mode);
        let mut front = Front::new(&stage);
        front.set("feature-persistent", 1);
        front.connect(&stage);
        for operation in [Operation::Write, Operation::Read] {
            page_out(&bend, &[front.gref(0)]);
            let requests = [
                front.request(operation, 1, 0, &[0]),
                front.request(operation, 2, 8, &[1]),
            ];
            front.send(&requests);
            let first = front.receive(1)[0];
            assert_eq!((first.id, first.status), (2, Status::Okay), "{mode:?}");
            page_out(&bend, &[]);
            let second = front.receive(1)[0];
            assert_eq!((second.id, second.status), (1, Status::Okay), "{mode:?}");
            if mode == Mode::Persistent {
                // Mapped for good now.
                break;
            }
        }
    }
}

#[test]
fn a_page_that_stays_paged_out_fails_its_request() {
    let stage = Stage::new();
    let (_running, bend) = bent(&stage, Mode::Map);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    page_out(&bend, &[front.gref(0)]);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Error);
}

/// Pins every page it is lent.
struct Pinner {
    platform: Arc<dyn Platform>,
    holds: Sender<HoldId>,
}

impl PageLender for Pinner {
    fn lend(&mut self, map: &Map, _: &RequestInfo) {
        let memory = SimPlatform::of(&*self.platform).unwrap();
        let hold = memory.pin(map.pages(), 0, 1, HoldKind::Plain).unwrap();
        self.holds.send(hold).unwrap();
    }
}

/// Looks at the ledger when the back end says Closed.
struct AtClosed {
    ledger: Arc<OnceLock<Ledger>>,
    seen: Sender<(Counts, usize)>,
    refusals: usize,
}

impl Observer<BackEventKind> for AtClosed {
    fn event(&mut self, event: BackEvent) {
        match event.kind {
            BackEventKind::UnmapFailed { .. } => self.refusals += 1,
            BackEventKind::Closed { .. } => {
                let counts = self.ledger.get().unwrap().counts();
                let _ = self.seen.send((counts, self.refusals));
            }
            _ => {}
        }
    }
}

/// A back end of a domain with few event channels, and requests whose pages are all held: some
/// unmaps have begun, the others cannot.
struct Stuck {
    // Dropped in this order: who uses the stage before it.
    running: Running,
    front: Front,
    platform: Arc<dyn Platform>,
    holds: Vec<HoldId>,
    at_closed: Receiver<(Counts, usize)>,
    stage: Stage,
}

impl Stuck {
    fn new() -> Stuck {
        const REQUESTS: usize = 12;
        // For the ring and for a few unmaps.
        let mut config = Config::default();
        config.event_channels = 12;
        let stage = Stage::with(config);
        let platform = stage.platform(DomId::DOM0, "backend");
        let ledger = Arc::<OnceLock<Ledger>>::default();
        let (seen, at_closed) = channel();
        let (send, holds) = channel();
        let running = Running::start_on(Arc::clone(&platform), |config| {
            config.mode = Mode::Map;
            let lender = Pinner {
                platform: Arc::clone(&platform),
                holds: send,
            };
            let observer = AtClosed {
                ledger: Arc::clone(&ledger),
                seen,
                refusals: 0,
            };
            config.lender = Some(Box::new(lender));
            config.observer = Some(Box::new(observer));
        });
        ledger.set(running.ledger.clone()).unwrap();
        let mut front = Front::new(&stage);
        front.connect(&stage);
        let requests: Vec<_> = (0..REQUESTS)
            .map(|n| front.request(Operation::Read, n as u64, 0, &[n]))
            .collect();
        front.send(&requests);
        let holds = (0..REQUESTS)
            .map(|_| holds.recv_timeout(PATIENCE).unwrap())
            .collect();
        Stuck {
            running,
            front,
            platform,
            holds,
            at_closed,
            stage,
        }
    }

    fn release(&mut self) {
        let memory = SimPlatform::of(&*self.platform).unwrap();
        for hold in self.holds.drain(..) {
            memory.release(hold).unwrap();
        }
    }
}

#[test]
fn closed_is_not_said_while_unmaps_could_not_begin() {
    let mut stuck = Stuck::new();
    let (front, stage) = (&stuck.front, &stuck.stage);
    front.state(XenbusState::Closing);
    stage.wait_back(XenbusState::Closing);
    let mut ports = Vec::new();
    while front.events.read(&mut ports).unwrap() > 0 {}
    front.events.unmask(&ports).unwrap();
    front.state(XenbusState::Closed);
    // None was answered: this is the end of the ring.
    front.events.wait(PATIENCE).unwrap();
    stuck.release();
    let closed = stuck.at_closed.recv_timeout(PATIENCE);
    let (counts, refusals) =
        closed.unwrap_or_else(|_| panic!("never closed: {:?}", stuck.running.ledger.snapshot()));
    assert_eq!(counts.mapped_pages, 0, "Closed, and still mapped");
    assert!(refusals <= 1, "{refusals} refusals were told of");
}

#[test]
fn a_stop_does_not_wait_for_who_holds_pages_and_does_not_say_closed() {
    let stuck = Stuck::new();
    stuck.front.state(XenbusState::Closing);
    stuck.front.state(XenbusState::Closed);
    assert!(stuck.running.ledger.counts().mapped_pages > 0);
    stuck.running.stop().unwrap();
    stuck.stage.wait_back(XenbusState::Closing);
    assert!(stuck.at_closed.try_recv().is_err(), "Closed was said");
}

#[test]
fn a_closed_fronts_event_channels_are_given_back() {
    let stage = Stage::new();
    let running = Running::start(&stage, |config| config.mode = Mode::Persistent);
    let mut front = Front::new(&stage);
    front.set("feature-persistent", 1);
    front.connect(&stage);
    for page in 0..DATA_PAGES {
        let request = front.request(Operation::Read, page as u64, 0, &[page]);
        assert_eq!(front.one(request).status, Status::Okay);
    }
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    running.wait_closed();
    let deadline = Instant::now() + PATIENCE;
    // The front's own is one, and the back end's may be on its way.
    let few = 2 * IDLE_PAIRS as u32 + 2;
    loop {
        let ports = stage.dom0.inspect().unwrap().event_channels;
        if ports <= few {
            return;
        }
        assert!(Instant::now() < deadline, "{ports} event channels");
        std::thread::yield_now();
    }
}

#[test]
fn a_ring_page_that_somebody_holds_is_in_the_ledger() {
    let stage = Stage::new();
    let inner = stage.platform(DomId::DOM0, "backend");
    let (platform, bend) = Bent::new(Arc::clone(&inner));
    let running = Running::start_on(platform, |_| {});
    let front = Front::new(&stage);
    bend.hold_next.store(true, Relaxed);
    front.connect(&stage);
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    // The end of the ring.
    front.events.wait(PATIENCE).unwrap();
    let ring = front.ring_page.grefs();
    assert_eq!(front.ring_page.in_use().unwrap().unwrap(), ring);
    let entries = running.ledger.snapshot();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0].kind, EntryKind::Unmapping);
    assert_eq!(entries[0].grants[0].gref, ring[0]);
    let memory = SimPlatform::of(&*inner).unwrap();
    for hold in bend.holds.lock().unwrap().drain(..) {
        memory.release(hold).unwrap();
    }
    running.wait_closed();
    let deadline = Instant::now() + PATIENCE;
    while !running.ledger.counts().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", running.ledger.snapshot());
        std::thread::yield_now();
    }
}
