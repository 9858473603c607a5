//! Requests and responses a second between two threads: this library's ring, and in the same run
//! the macros of libxen-dev's `io/ring.h` (`benches/ring.c`), compiled here.
//!
//! `cargo bench -p libgnt --bench ring [-- --rounds N] [--milliseconds N]`
//!
//! Both do the same: one page, 112-byte slots, the front end fills every free slot and publishes,
//! the back end copies, checks and answers what it finds; both spin. Rounds alternate, and the
//! medians of their rates and ratios are printed. Other work on the machine stops one of two
//! threads that wait for each other, so the rate of each round's best millisecond, which has the
//! processors to itself, says more than that of the whole round.
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use libgnt::SharedPages;
use libgnt::proto::blkif::{Operation, Request, Segment, Segments, Status, X86_64};
use libgnt::ring::{BackRing, FrontRing};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
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

fn back(mut ring: BackRing<X86_64>, cpu: usize, stop: &AtomicBool) {
    pin(cpu);
    while !stop.load(Ordering::Relaxed) {
        let batch = ring.available().unwrap();
        for _ in 0..batch {
            let request = ring.pop().unwrap().unwrap();
            let status = match request.operation {
                Operation::Read | Operation::Write | Operation::Flush => Status::Okay,
                Operation::Malformed { .. } => Status::Error,
                Operation::Other(_) => Status::NotSupported,
            };
            ring.push(&request.response(status));
        }
        if batch > 0 {
            std::hint::black_box(ring.publish());
        } else {
            std::hint::spin_loop();
        }
    }
}

fn front(mut ring: FrontRing<X86_64>, segments: u8, run: Duration) -> Rate {
    let (mut sent, mut answered, mut batch, mut stopping) = (0u64, 0u64, 0u32, false);
    let begin = Instant::now();
    let (mut window, mut before, mut best) = (begin, 0, 0f64);
    while !stopping || answered != sent {
        while !stopping && ring.free_slots() > 0 {
            let mut request = Request {
                operation: Operation::Read,
                handle: 51712,
                id: sent,
                sector: sent * 8,
                segments: Segments::default(),
            };
            let segment = |n| Segment {
                gref: u32::from(n) + 8,
                first_sector: 0,
                last_sector: 7,
            };
            request.segments.extend((0..segments).map(segment));
            ring.push(&request).unwrap();
            sent += 1;
        }
        std::hint::black_box(ring.publish());
        let answers = ring.available().unwrap();
        for _ in 0..answers {
            let response = ring.pop().unwrap().unwrap();
            assert!(response.id == answered && response.status == Status::Okay);
            answered += 1;
        }
        if answers == 0 {
            std::hint::spin_loop();
        }
        batch = batch.wrapping_add(1);
        if batch.is_multiple_of(64) {
            let now = Instant::now();
            if now - window >= WINDOW {
                best = best.max((answered - before) as f64 / (now - window).as_secs_f64());
                (window, before) = (now, answered);
            }
            stopping |= now - begin > run;
        }
    }
    Rate {
        whole: answered as f64 / begin.elapsed().as_secs_f64(),
        best,
    }
}

/// One round of ours.
fn ours(segments: u8, run: Duration, cpus: [usize; 2]) -> Rate {
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
fn theirs(program: &Path, segments: u8, run: Duration, cpus: [usize; 2]) -> Rate {
    let arguments = [
        u128::from(segments),
        run.as_millis(),
        cpus[0] as u128,
        cpus[1] as u128,
    ]
    .map(|n| n.to_string());
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
    let run = Duration::from_millis(option("--milliseconds", 200));
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    let &[front, back, ..] = &cpus[..] else {
        println!("ring: two threads that spin need two processors, here is one");
        return;
    };
    let cpus = [front, back];
    let dir = tempfile::tempdir().unwrap();
    let program = compile(dir.path());
    if let Err(why) = &program {
        println!("no comparison with io/ring.h (needs gcc and libxen-dev): {why}");
    }
    for segments in [1, 11] {
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let ours = ours(segments, run, cpus);
            let c = program
                .as_ref()
                .ok()
                .map(|program| theirs(program, segments, run, cpus));
            rates.push((ours, c));
        }
        report(segments, &rates);
    }
}

fn report(segments: u8, rates: &[(Rate, Option<Rate>)]) {
    let of = |pick: fn(&(Rate, Option<Rate>)) -> Option<f64>| {
        median(rates.iter().filter_map(pick).collect())
    };
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
}
