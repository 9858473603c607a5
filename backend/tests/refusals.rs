//! What the devices refuse for a while or for good: the request that met it is answered, no other
//! waits for it, and Closed is the truth.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod common;

use common::bent::{Bend, Bent};
use common::{DATA_PAGES, Front, PATIENCE, Running, World};
use libgnt::grant::{Counts, IDLE_PAIRS, Ledger, Map};
use libgnt::platform::{HoldId, HoldKind, Platform};
use libgnt::proto::blkif::{Operation, Status};
use libgnt::sim::core::Config;
use libgnt::{DomId, GrantRef};
use pv_backend::driver::Mode;
use pv_backend::hooks::{BackendEvent, EventKind, Hooks, Observer, PageLender, RequestInfo};
use pv_xenstore::XenbusState;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

fn bent(world: &World, mode: Mode) -> (Running, Arc<Bend>) {
    let (platform, bend) = Bent::new(world.platform(DomId::DOM0, "backend"));
    let running = Running::start_on(platform, |config| config.mode = mode);
    (running, bend)
}

#[test]
fn a_request_whose_release_nobody_would_tell_fails_and_others_go_on() {
    let world = World::new();
    let (running, bend) = bent(&world, Mode::Map);
    let mut front = Front::new(&world);
    front.connect(&world);
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
        let world = World::new();
        let (_running, bend) = bent(&world, mode);
        let mut front = Front::new(&world);
        front.set("feature-persistent", 1);
        front.connect(&world);
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
    let world = World::new();
    let (_running, bend) = bent(&world, Mode::Map);
    let mut front = Front::new(&world);
    front.connect(&world);
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
        let memory = self.platform.memory_manager().unwrap();
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

impl Observer for AtClosed {
    fn event(&mut self, event: &BackendEvent) {
        match event.kind {
            EventKind::UnmapFailed { .. } => self.refusals += 1,
            EventKind::Closed { .. } => {
                let counts = self.ledger.get().unwrap().counts();
                let _ = self.seen.send((counts, self.refusals));
            }
            _ => {}
        }
    }
}

#[test]
fn closed_is_not_said_while_unmaps_could_not_begin() {
    const REQUESTS: usize = 12;
    // Dom0 has ports for the ring and for a few unmaps.
    let world = World::with(Config {
        event_channels: 12,
        ..Config::default()
    });
    let platform = world.platform(DomId::DOM0, "backend");
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
        config.hooks = Hooks::new(Some(Box::new(lender)), Some(Box::new(observer)));
    });
    ledger.set(running.ledger.clone()).unwrap();
    let mut front = Front::new(&world);
    front.connect(&world);
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| front.request(Operation::Read, n as u64, 0, &[n]))
        .collect();
    front.send(&requests);
    let held: Vec<HoldId> = (0..REQUESTS)
        .map(|_| holds.recv_timeout(PATIENCE).unwrap())
        .collect();
    front.state(XenbusState::Closing);
    world.wait_back(XenbusState::Closing);
    let mut ports = Vec::new();
    while front.events.read(&mut ports).unwrap() > 0 {}
    front.events.unmask(&ports).unwrap();
    front.state(XenbusState::Closed);
    // None was answered: this is the end of the ring.
    front.events.wait(PATIENCE).unwrap();
    let memory = platform.memory_manager().unwrap();
    for hold in held {
        memory.release(hold).unwrap();
    }
    let closed = at_closed.recv_timeout(PATIENCE);
    let (counts, refusals) =
        closed.unwrap_or_else(|_| panic!("never closed: {:?}", running.ledger.snapshot()));
    assert_eq!(counts.mapped_pages, 0, "Closed, and still mapped");
    assert!(refusals <= 1, "{refusals} refusals were told of");
}

#[test]
fn a_closed_fronts_event_channels_are_given_back() {
    let world = World::new();
    let running = Running::start(&world, |config| config.mode = Mode::Persistent);
    let mut front = Front::new(&world);
    front.set("feature-persistent", 1);
    front.connect(&world);
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
        let ports = world.dom0.inspect().unwrap().event_channels;
        if ports <= few {
            return;
        }
        assert!(Instant::now() < deadline, "{ports} event channels");
        std::thread::yield_now();
    }
}
