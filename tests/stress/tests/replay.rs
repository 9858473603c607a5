//! The counterexample of the model of gntdev, walked through on the simulated platform by real
//! processes, step by step; and the same processes where the holder lets go in time.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Place;
use libgnt::DomId;
use libgnt::inspect::Inspection;
use libgnt::sim::client::SimPlatform;
use pv_harness::settings::Unmap;
use pv_harness::timeline::{Record, merge, read_file};
use pv_judges::waits::Monitor;
use pv_models::cli::{BoundArgs, explain};
use pv_models::systems;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does what it is told.
struct Actor {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<String>,
    timeline: PathBuf,
}

impl Actor {
    fn start(place: &Place, name: &str, domain: &str) -> Actor {
        let timeline = place.path(&format!("{name}.jsonl"));
        let sim = place.path("sim");
        let args = [
            "model",
            "actor",
            "--sim",
            sim.to_str().unwrap(),
            "--domain",
            domain,
            "--name",
            name,
            "--timeline",
            timeline.to_str().unwrap(),
        ];
        let mut command: Command = place.command(&args);
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        Actor {
            child,
            stdin,
            said,
            timeline,
        }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        self.said.recv_timeout(PATIENCE).unwrap()
    }

    /// Tells, and hears `ok` and something.
    fn ok(&mut self, line: &str) -> String {
        self.tell(line);
        let said = self.hear();
        said.strip_prefix("ok")
            .unwrap_or_else(|| panic!("{line}: {said}"))
            .trim()
            .to_owned()
    }

    fn end(mut self) -> Vec<Record> {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
        read_file(&self.timeline).unwrap()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn host(place: &Place, unmap: &str) -> common::Sim {
    common::Sim::start_with(place, &["--domains", "2", "--unmap", unmap])
}

/// Granter, mapper and pinner; the mapper has mapped, and the pinner holds.
fn cast(place: &Place) -> (Actor, Actor, Actor) {
    let mut granter = Actor::start(place, "granter", "1");
    let mut mapper = Actor::start(place, "mapper", "2");
    let mut pinner = Actor::start(place, "pinner", "2");
    let gref = granter.ok("share 2");
    mapper.ok(&format!("map 1 {gref}"));
    let hold = mapper.ok("lend i915");
    pinner.ok(&format!("hold {hold} i915"));
    (granter, mapper, pinner)
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
    let (mut granter, mut mapper, mut pinner) = cast(&place);
    // The round begins, and the callback waits: the unmap does not return.
    mapper.tell("unmap");
    await_host(&place, "no unmap waits", |host| !host.unmapping.is_empty());
    // The granter's page is in use for as long.
    assert_eq!(granter.ok("end"), "in-use");
    // The last step: the pinner lets go, which needs the end of the round. The cycle is closed;
    // the simulated kernel breaks it where a real one hangs.
    pinner.tell("release");
    let (unmap, release) = (mapper.hear(), pinner.hear());
    let said = format!("{unmap}\n{release}");
    assert!(said.contains("deadlock: "), "{said}");
    for edge in ["mapper", "pinner", "munmap", "invalidation"] {
        assert!(said.contains(edge), "no {edge} in {said}");
    }
    drop(pinner);
    drop(mapper);
    await_host(&place, "the page is still mapped", |host| {
        host.grants.iter().all(|grant| grant.maps == 0)
    });
    assert_eq!(granter.ok("end"), "ended");
    granter.end();
    sim.end();
}

#[test]
fn asynchronous_the_same_history_goes_on() {
    let place = Place::new();
    let sim = host(&place, "async");
    let (mut granter, mut mapper, mut pinner) = cast(&place);
    mapper.ok("unmap");
    assert_eq!(granter.ok("end"), "in-use");
    pinner.ok("release");
    mapper.ok("released");
    assert_eq!(granter.ok("end"), "ended");
    let records = merge(vec![pinner.end(), mapper.end(), granter.end()]);
    sim.end();
    let mut monitor = Monitor::default();
    monitor.learn(&records, Unmap::Async);
    assert!(monitor.cycles().is_empty(), "{:?}", monitor.cycles());
}

#[test]
fn a_holder_that_lets_go_in_time_is_reported_all_the_same() {
    let place = Place::new();
    let sim = host(&place, "sync");
    let (mut granter, mut mapper, mut pinner) = cast(&place);
    pinner.ok("release");
    mapper.ok("unmap");
    mapper.ok("released");
    assert_eq!(granter.ok("end"), "ended");
    let records = merge(vec![pinner.end(), mapper.end(), granter.end()]);
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
