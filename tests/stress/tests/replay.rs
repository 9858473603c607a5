//! The counterexample of the model of gntdev, walked through on the simulated platform by real
//! processes, step by step; and the same processes where the holder lets go in time.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Place;
use libgnt::inspect::Inspection;
use libgnt::sim::client::SimPlatform;
use libgnt::{Access, DomId, ForeignGrant};
use pv_harness::hand::{Answer, Ending, HeldId, Link, MapId, Order, RemoteHand, ShareId};
use pv_harness::player::HandProcess;
use pv_harness::processes::Start;
use pv_harness::settings::{HoldName, Unmap};
use pv_harness::timeline::{Record, merge, read_file};
use pv_judges::waits::Monitor;
use pv_models::cli::{BoundArgs, explain};
use pv_models::systems;
use pv_stress::role::{Assignment, HandTask, Home, Part, Role};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does what it is told.
struct Process {
    hand: RemoteHand<HandProcess>,
    timeline: PathBuf,
}

impl Process {
    fn start(place: &Place, name: &str, domain: u16) -> Process {
        let timeline = place.path(&format!("{name}.jsonl"));
        let dir = place.path("sim");
        let start = Start {
            name: name.into(),
            parent: std::process::id(),
            timeline: timeline.clone(),
            assignment: Assignment::Play(Part {
                home: Some(Home::Sim {
                    dir,
                    domid: DomId(domain),
                }),
                sabotage: None,
                role: Role::Hand(HandTask {
                    record: true,
                    ..HandTask::default()
                }),
            }),
        };
        let program = Path::new(env!("CARGO_BIN_EXE_pv-stress"));
        let mut process = HandProcess::start(program, &start).unwrap();
        process.set_patience(PATIENCE);
        let hand = RemoteHand::over(process);
        Process { hand, timeline }
    }

    fn end(mut self) -> Vec<Record> {
        self.hand.link().end().unwrap();
        read_file(&self.timeline).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        let _ = self.hand.link().kill();
    }
}

/// Granter, mapper and pinner; the mapper has mapped, and the pinner holds.
struct Cast {
    granter: Process,
    mapper: Process,
    pinner: Process,
    share: ShareId,
    map: MapId,
    held: HeldId,
}

impl Cast {
    fn new(place: &Place) -> Cast {
        let mut granter = Process::start(place, "granter", 1);
        let mut mapper = Process::start(place, "mapper", 2);
        let mut pinner = Process::start(place, "pinner", 2);
        let (share, grefs) = granter.hand.share(DomId(2), 1, Access::ReadWrite).unwrap();
        let grants = grefs.into_iter().map(|gref| ForeignGrant {
            domid: DomId(1),
            gref,
        });
        let map = mapper
            .hand
            .map(grants.collect(), Access::ReadWrite)
            .unwrap();
        let (id, loan) = mapper.hand.lend(map, HoldName::I915, 1).unwrap();
        let held = pinner.hand.attach(loan).unwrap();
        mapper.hand.settle(id, true).unwrap();
        Cast {
            granter,
            mapper,
            pinner,
            share,
            map,
            held,
        }
    }

    fn end_access(&mut self) -> Ending {
        self.granter.hand.end_access(self.share).unwrap()
    }

    fn release(&mut self) {
        self.pinner.hand.release(self.held).unwrap();
    }

    fn unmap(&mut self) {
        self.mapper.hand.unmap(self.map).unwrap();
    }

    fn await_release(&mut self) {
        self.mapper.hand.await_release(self.map, PATIENCE).unwrap();
    }

    fn end(self) -> Vec<Record> {
        merge(vec![
            self.pinner.end(),
            self.mapper.end(),
            self.granter.end(),
        ])
    }
}

/// An answer in words: what was done, or why not.
fn words(answer: &Answer) -> String {
    match answer {
        Answer::Refused(refusal) => refusal.to_string(),
        other => format!("{other:?}"),
    }
}

fn host(place: &Place, unmap: &str) -> common::Sim {
    common::Sim::start_with(place, &["--domains", "2", "--unmap", unmap])
}

/// Until the host is seen in a state. Each look is a round trip to it.
fn await_host(place: &Place, what: &str, seen: impl Fn(&Inspection) -> bool) {
    let xl = SimPlatform::connect(&place.path("sim"), Some(DomId::DOM0), "xl", false).unwrap();
    let began = Instant::now();
    while !seen(&xl.inspect().unwrap()) {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_models_history_is_the_platforms() {
    // What the model says: the pinner gets its page, the mapper's callback waits for it, and the
    // pinner waits for the end of the mapper's round.
    let told = explain(&systems::all(), "gntdev/sync", None, BoundArgs::default()).unwrap();
    let names: Vec<&str> = told
        .history
        .cycle()
        .iter()
        .map(|c| told.history.actors[*c].as_str())
        .collect();
    assert_eq!(names, ["mapper", "pinner 2"]);

    let place = Place::new();
    let sim = host(&place, "sync");
    let mut cast = Cast::new(&place);
    // The round begins, and the callback waits: the unmap does not return.
    let (map, held) = (cast.map, cast.held);
    let unmap = Order::Unmap { map, told: true };
    cast.mapper.hand.link().send(&unmap).unwrap();
    await_host(&place, "no unmap waits", |host| !host.unmapping.is_empty());
    // The granter's page is in use for as long.
    assert!(matches!(cast.end_access(), Ending::InUse(_)));
    // The last step: the pinner lets go, which needs the end of the round. The cycle is closed;
    // the simulated kernel breaks it where a real one hangs.
    cast.pinner.hand.link().send(&Order::Release(held)).unwrap();
    let unmap = cast.mapper.hand.link().receive().unwrap();
    let release = cast.pinner.hand.link().receive().unwrap();
    let said = format!("{}\n{}", words(&unmap), words(&release));
    assert!(said.contains("deadlock: "), "{said}");
    for edge in ["mapper", "pinner", "munmap", "invalidation"] {
        assert!(said.contains(edge), "no {edge} in {said}");
    }
    let Cast {
        mut granter,
        mapper,
        pinner,
        share,
        ..
    } = cast;
    drop(pinner);
    drop(mapper);
    await_host(&place, "the page is still mapped", |host| {
        host.grants.iter().all(|grant| grant.maps == 0)
    });
    assert_eq!(granter.hand.end_access(share).unwrap(), Ending::Ended);
    granter.end();
    sim.end();
}

#[test]
fn asynchronous_the_same_history_goes_on() {
    let place = Place::new();
    let sim = host(&place, "async");
    let mut cast = Cast::new(&place);
    cast.unmap();
    assert!(matches!(cast.end_access(), Ending::InUse(_)));
    cast.release();
    cast.await_release();
    assert_eq!(cast.end_access(), Ending::Ended);
    let records = cast.end();
    sim.end();
    let mut monitor = Monitor::default();
    monitor.learn(&records, Unmap::Async);
    assert!(monitor.cycles().is_empty(), "{:?}", monitor.cycles());
}

#[test]
fn a_holder_that_lets_go_in_time_is_reported_all_the_same() {
    let place = Place::new();
    let sim = host(&place, "sync");
    let mut cast = Cast::new(&place);
    cast.release();
    cast.unmap();
    cast.await_release();
    assert_eq!(cast.end_access(), Ending::Ended);
    let records = cast.end();
    sim.end();
    // Nothing hung. The order of the waits says that it could have.
    let mut monitor = Monitor::default();
    monitor.learn(&records, Unmap::Sync);
    let cycles = monitor.cycles();
    assert_eq!(cycles.len(), 1, "{records:#?}");
    let said: Vec<String> = cycles[0].iter().map(ToString::to_string).collect();
    let text = said.join("; ");
    assert_eq!(said.len(), 2, "{text}");
    assert!(
        text.contains("pinner has references to mapper's pages"),
        "{text}"
    );
    assert!(
        text.contains("mapper has the invalidation of mapper's address space"),
        "{text}"
    );
}
