//! Requests and responses a second between two threads: this library's ring, and in the same run
//! the macros of libxen-dev's `io/ring.h` (`benches/ring.c`), compiled here.
//!
//! `cargo bench -p libgnt --bench ring [-- --rounds N] [--milliseconds N] [--requests N]`
//!
//! What both do, on one page with 32 slots of 112 bytes:
//!
//! - The front end fills every free slot and publishes. Each request is built in its slot: a read
//!   with 1 or 11 segments, each with its own grant reference (C: `RING_GET_REQUEST` and the
//!   fields; here: `push_with` and `write_request`, which also zeroes the padding).
//! - The back end reads the producer index and checks it, copies all 112 bytes of each slot to
//!   private memory once (C: `RING_COPY_REQUEST`), and of that copy checks the operation, the
//!   number of segments and the sectors of each one, as xen-blkback does. The copy is then shown
//!   to the optimiser, as if it went to whoever does the I/O; nothing that was copied is dropped
//!   because nobody uses it. The answer is 16 bytes, padding zeroed (XSA-216).
//! - The front end checks the response index, copies each response once, and checks its id and
//!   status.
//!
//! Here every access to the page is also checked to be inside it, and lines of cache are asked
//! for ahead of their use; both are in the figures.
//!
//! Two threads spin on two processors; rounds alternate, and the medians of their rates and
//! ratios are printed. Other work on the machine stops one of two threads that wait for each
//! other, so the rate of each round's best millisecond, which has the processors to itself, says
//! more than that of the whole round. How far apart the two processors are decides what is
//! measured: the travel of lines of cache, or the instructions. The last line is instructions
//! only: front and back in turn on one thread, in each round's best millisecond.
//!
//! `--count SEGMENTS` runs just that loop, once, for a counter of instructions (callgrind).
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use libgnt::SharedPages;
use libgnt::proto::blkif::{Operation, Request, Segment, Status, X86_64};
use libgnt::ring::{BackRing, FrontRing};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Requests answered a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// In the whole round.
    whole: f64,
    /// In the round's best window: with the two threads undisturbed.
    best: f64,
}

/// As in `ring.c`.
const WINDOW: Duration = Duration::from_millis(1);

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Without the right to pin, the figures are only less steady.
    let _ = sched_setaffinity(None, &set);
}

/// The front end's half: fills the free slots, and publishes.
#[inline]
fn fill(ring: &mut FrontRing<X86_64>, segments: u32, mut sent: u64) -> u64 {
    while ring.free_slots() > 0 {
        let request = Request {
            operation: Operation::Read,
            handle: 51712,
            id: sent,
            sector: sent * 8,
            segments: (0..segments).map(|n| Segment {
                gref: n + 8,
                first_sector: 0,
                last_sector: 7,
            }),
        };
        ring.push_with(|codec, slot| codec.write_request(request, slot))
            .unwrap();
        sent += 1;
    }
    black_box(ring.publish());
    sent
}

/// The back end: takes, checks and answers what is there, and publishes.
#[inline]
fn serve(ring: &mut BackRing<X86_64>) -> bool {
    let batch = ring.available().unwrap();
    for _ in 0..batch {
        let request = ring.pop_ref().unwrap().unwrap();
        let status = match request.operation {
            Operation::Read | Operation::Write | Operation::Flush => Status::Okay,
            Operation::Malformed { .. } => Status::Error,
            Operation::Other(_) => Status::NotSupported,
        };
        // The request goes to whoever does the I/O.
        black_box(request.segments);
        let response = request.response(status);
        ring.push(&response);
    }
    if batch > 0 {
        black_box(ring.publish());
    }
    batch > 0
}

/// The front end's other half: takes the responses that are there.
#[inline]
fn drain(ring: &mut FrontRing<X86_64>, mut answered: u64) -> u64 {
    let answers = ring.available().unwrap();
    for _ in 0..answers {
        let response = ring.pop().unwrap().unwrap();
        assert!(response.id == answered && response.status == Status::Okay);
        answered += 1;
    }
    answered
}

fn back(mut ring: BackRing<X86_64>, cpu: usize, stop: &AtomicBool) {
    pin(cpu);
    while !stop.load(Ordering::Relaxed) {
        if !serve(&mut ring) {
            std::hint::spin_loop();
        }
    }
}

/// What was done so far, and how fast at best.
struct Watch {
    begin: Instant,
    window: Instant,
    before: u64,
    best: f64,
}

impl Watch {
    fn start() -> Self {
        let now = Instant::now();
        Watch {
            begin: now,
            window: now,
            before: 0,
            best: 0.0,
        }
    }

    fn look(&mut self, answered: u64) -> Duration {
        let now = Instant::now();
        if now - self.window >= WINDOW {
            let rate = (answered - self.before) as f64 / (now - self.window).as_secs_f64();
            self.best = self.best.max(rate);
            (self.window, self.before) = (now, answered);
        }
        now - self.begin
    }

    fn rate(&self, answered: u64) -> Rate {
        Rate {
            whole: answered as f64 / self.begin.elapsed().as_secs_f64(),
            best: self.best,
        }
    }
}

fn front(mut ring: FrontRing<X86_64>, segments: u32, run: Duration) -> Rate {
    let (mut sent, mut answered, mut batch, mut stopping) = (0u64, 0u64, 0u32, false);
    let mut watch = Watch::start();
    while !stopping || answered != sent {
        if !stopping {
            sent = fill(&mut ring, segments, sent);
        }
        let news = drain(&mut ring, answered);
        if news == answered {
            std::hint::spin_loop();
        }
        answered = news;
        batch = batch.wrapping_add(1);
        if batch.is_multiple_of(64) {
            stopping |= watch.look(answered) > run;
        }
    }
    watch.rate(answered)
}

/// Front and back in turn on this thread: what the instructions cost, without the peer's cache.
fn one_thread(segments: u32, requests: u64) -> Rate {
    let page = Arc::new(SharedPages::anonymous(1).unwrap());
    let mut front = FrontRing::new(page.clone(), X86_64);
    let mut back = BackRing::attach(page, X86_64);
    let (mut sent, mut answered, mut batch) = (0u64, 0u64, 0u32);
    let mut watch = Watch::start();
    while answered < requests {
        sent = fill(&mut front, segments, sent);
        serve(&mut back);
        answered = drain(&mut front, answered);
        batch = batch.wrapping_add(1);
        if batch.is_multiple_of(64) {
            watch.look(answered);
        }
    }
    watch.rate(answered)
}

/// One round of ours.
fn ours(segments: u32, run: Duration, cpus: [usize; 2]) -> Rate {
    let page = Arc::new(SharedPages::anonymous(1).unwrap());
    let front_ring = FrontRing::new(page.clone(), X86_64);
    let back_ring = BackRing::attach(page, X86_64);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| back(back_ring, cpus[1], &stop));
        let rate = scope.spawn(move || {
            pin(cpus[0]);
            front(front_ring, segments, run)
        });
        let rate = rate.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        rate
    })
}

/// Compiles the yardstick, or says why not.
fn compile(dir: &Path) -> Result<PathBuf, String> {
    let program = dir.join("ring");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ring.c");
    let output = Command::new(&compiler)
        .args(["-std=gnu11", "-O2", "-pthread", "-o"])
        .args([&program, &source])
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if output.status.success() {
        Ok(program)
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(text
            .lines()
            .next()
            .unwrap_or("the compiler failed")
            .to_owned())
    }
}

/// One round of the C macros.
fn theirs(program: &Path, arguments: &[u64]) -> Rate {
    let arguments = arguments.iter().map(u64::to_string);
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap());
    Rate {
        whole: numbers.next().unwrap(),
        best: numbers.next().unwrap(),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// `--name N` among the arguments. Cargo adds some of its own, which are not for us.
fn option(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map_or(default, |n| {
        n.parse().unwrap_or_else(|_| panic!("{name}: {n}"))
    })
}

fn main() {
    let rounds = option("--rounds", 15).max(1);
    let milliseconds = option("--milliseconds", 200);
    let run = Duration::from_millis(milliseconds);
    let requests = option("--requests", 5_000_000).max(1);
    if let n @ 1..=11 = option("--count", 0) {
        // For a counter of instructions: only this, and nothing else.
        black_box(one_thread(n as u32, requests));
        return;
    }
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    let &[front, back, ..] = &cpus[..] else {
        println!("ring: two threads that spin need two processors, here is one");
        return;
    };
    let (cpus, [c0, c1]) = ([front, back], [front as u64, back as u64]);
    let dir = tempfile::tempdir().unwrap();
    let program = compile(dir.path());
    if let Err(why) = &program {
        println!("no comparison with io/ring.h (needs gcc and libxen-dev): {why}");
    }
    for segments in [1, 11] {
        let (mut rates, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let ours = ours(segments, run, cpus);
            let c = program
                .as_ref()
                .ok()
                .map(|program| theirs(program, &[segments.into(), milliseconds, c0, c1]));
            rates.push((ours, c));
            let ours = one_thread(segments, requests);
            let c = program
                .as_ref()
                .ok()
                .map(|program| theirs(program, &[segments.into(), requests]));
            alone.push((ours, c));
        }
        report(segments, &rates, &alone);
    }
}

type Pair = (Rate, Option<Rate>);

fn report(segments: u32, rates: &[Pair], alone: &[Pair]) {
    let pick = |rates: &[Pair], pick: fn(&Pair) -> Option<f64>| {
        median(rates.iter().filter_map(pick).collect())
    };
    let of = |one| pick(rates, one);
    println!(
        "ring, requests of {segments} segment(s), median of {} rounds:",
        rates.len()
    );
    let million = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{:.2}", rate / 1e6));
    println!("                        libgnt   io/ring.h   ratio");
    for (what, ours, c, ratio) in [
        (
            "best millisecond, M/s",
            of(|(ours, _)| Some(ours.best)),
            of(|(_, c)| c.map(|c| c.best)),
            of(|(ours, c)| c.map(|c| ours.best / c.best)),
        ),
        (
            "whole round, M/s",
            of(|(ours, _)| Some(ours.whole)),
            of(|(_, c)| c.map(|c| c.whole)),
            of(|(ours, c)| c.map(|c| ours.whole / c.whole)),
        ),
    ] {
        let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        println!(
            "{what:22} {:>8} {:>11} {ratio:>7}",
            million(ours),
            million(c)
        );
    }
    let of = |one| pick(alone, one);
    let number = |n: Option<f64>| n.map_or("-".into(), |n| format!("{n:.2}"));
    println!(
        "one thread, ns/request {:>8} {:>11} {:>7}",
        number(of(|(ours, _)| Some(1e9 / ours.best))),
        number(of(|(_, c)| c.map(|c| 1e9 / c.best))),
        number(of(|(ours, c)| c.map(|c| ours.best / c.best)))
    );
}
