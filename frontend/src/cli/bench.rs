//! `bench`: I/O per second and latency, driven on this thread without another in between.

use super::context::{Context, Outcome, at_open};
use super::histogram::Histogram;
use crate::error::FrontError;
use crate::io::{Completion, Io};
use crate::machine::IoError;
use crate::run::Frontend;
use clap::Args;
use pv_program::Failure;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long to wait for the last I/Os before looking whether to stop.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// I/Os at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Bytes of each, whole sectors.
    #[arg(long, default_value_t = 4096)]
    block_size: usize,
    /// How long to measure. What is under way then is waited for, as --deadline and --reconnect say.
    #[arg(long, default_value = "5", value_parser = super::context::seconds)]
    seconds: Duration,
    /// Random reads (the default).
    #[arg(long, conflicts_with = "random_write")]
    random_read: bool,
    /// Random writes: they destroy what is on the disk.
    #[arg(long)]
    random_write: bool,
    /// Seed of the random offsets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Serialize)]
struct Report {
    ios: u64,
    /// I/Os that got no answer: the disk was lost, or did not answer in time.
    never_ended: u64,
    seconds: f64,
    iops: f64,
    mib_per_second: f64,
    block_size: usize,
    depth: u32,
    persistent: bool,
    latency_us: Latency,
    system_calls_per_request: f64,
    counters: crate::counters::Counters,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// What becomes of the I/Os.
struct Tally {
    histogram: Histogram,
    /// When the one with this tag was submitted.
    submitted: Vec<Instant>,
    under_way: u64,
    never_ended: u64,
    /// Nothing completes any more.
    over: bool,
    /// The first failure, which ends the measurement.
    failed: Option<FrontError>,
}

impl Tally {
    fn submit(&mut self, front: &mut Frontend, io: Io, tag: u64, now: Instant) {
        match front.submit(io, tag) {
            Ok(()) => {
                self.submitted[tag as usize] = now;
                self.under_way += 1;
            }
            Err(refused) => self.fail(FrontError::Io(refused.error)),
        }
    }

    /// Waits for completions.
    fn poll(&mut self, front: &mut Frontend, timeout: Duration) {
        if let Err(error) = front.poll(timeout) {
            self.over = true;
            self.fail(error);
        }
    }

    /// The buffer, if the I/O did what it should.
    fn take(&mut self, done: Completion, now: Instant) -> Option<Vec<u8>> {
        self.under_way -= 1;
        match done.result {
            Ok(()) => {
                self.histogram.add(now - self.submitted[done.tag as usize]);
                Some(done.data)
            }
            Err(error) => {
                if matches!(error, IoError::Device(_) | IoError::TimedOut { .. }) {
                    self.never_ended += 1;
                }
                self.fail(FrontError::Io(error));
                None
            }
        }
    }

    fn fail(&mut self, error: FrontError) {
        self.failed.get_or_insert(error);
    }
}

pub(super) fn run(context: &Context, args: &Bench) -> Outcome {
    let mut config = context.config();
    config.queue = args.depth as usize;
    let mut front = Frontend::open(config).map_err(at_open)?;
    let work = measure(context, args, &mut front);
    let closed = front.close();
    let work = match work {
        Ok((_, Some(_))) if context.stopped() => Err(Context::interrupted()),
        work => work,
    };
    let (report, failed) = match work {
        Ok(work) => work,
        Err(failure) => return context.ended(Err(failure), closed),
    };
    let printed = context.print(&report, |r| {
        let what = if args.random_write { "writes" } else { "reads" };
        let lost = match r.never_ended {
            0 => String::new(),
            n => format!("\nI/Os that never ended, and are in no figure here: {n}"),
        };
        format!(
            "{:.0} random {what} of {} bytes per second at depth {} ({:.0} MiB/s), persistent grants {}\n\
             latency  p50 {:.1} us, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, longest {:.1}\n\
             {:.3} system calls per request on this side{lost}",
            r.iops,
            r.block_size,
            r.depth,
            r.mib_per_second,
            if r.persistent { "on" } else { "off" },
            r.latency_us.p50,
            r.latency_us.p90,
            r.latency_us.p99,
            r.latency_us.p999,
            r.latency_us.max,
            r.system_calls_per_request,
        )
    });
    match failed {
        Some(error) if report.never_ended > 0 => {
            let never_ended = report.never_ended;
            let message = format!("{error} (I/Os that never ended: {never_ended})");
            Err(Failure::at_work(message))
        }
        Some(error) => Err(error.into()),
        None => {
            closed?;
            printed
        }
    }
}

/// The figures, and what kept them from being complete.
fn measure(
    context: &Context,
    args: &Bench,
    front: &mut Frontend,
) -> Result<(Report, Option<FrontError>), Failure> {
    let info = front.info();
    let sector = info.sector_size.max(512) as usize;
    if args.block_size == 0 || !args.block_size.is_multiple_of(sector) {
        let message = format!(
            "--block-size {}: not in sectors of {sector} bytes",
            args.block_size
        );
        return Err(Failure::environment(message));
    }
    let blocks = info.bytes() / args.block_size as u64;
    if blocks == 0 {
        let message = format!("--block-size {}: larger than the disk", args.block_size);
        return Err(Failure::environment(message));
    }
    let mut random = fastrand::Rng::with_seed(args.seed);
    let io = |random: &mut fastrand::Rng, buffer: Vec<u8>| {
        let offset = random.u64(0..blocks) * args.block_size as u64;
        match args.random_write {
            true => Io::write(offset, buffer),
            false => Io::read_into(offset, buffer),
        }
    };
    let before = front.counters();
    let began = Instant::now();
    let end = began + args.seconds;
    let mut tally = Tally {
        histogram: Histogram::new(),
        submitted: vec![began; args.depth as usize],
        under_way: 0,
        never_ended: 0,
        over: false,
        failed: None,
    };
    for tag in 0..args.depth {
        let mut buffer = vec![0; args.block_size];
        if args.random_write {
            random.fill(&mut buffer);
        }
        tally.submit(front, io(&mut random, buffer), u64::from(tag), began);
        if let Some(error) = tally.failed {
            // Nothing is lost: the disk takes no such I/O.
            return Err(error.into());
        }
    }
    let (mut ios, mut now) = (0, began);
    while now < end && tally.failed.is_none() {
        if context.stopped() {
            return Err(Context::interrupted());
        }
        tally.poll(front, end - now);
        now = Instant::now();
        while let Some(done) = front.next_completion() {
            let tag = done.tag;
            if let Some(buffer) = tally.take(done, now) {
                ios += 1;
                tally.submit(front, io(&mut random, buffer), tag, now);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let counters = front.counters().since(&before);
    // The slowest are under way: without them the latencies would look better than they are, and
    // a lost disk like a fast one. The front end bounds the wait.
    while tally.under_way > 0 && !tally.over {
        if context.stopped() {
            return Err(Context::interrupted());
        }
        tally.poll(front, LONGEST_WAIT);
        let now = Instant::now();
        while let Some(done) = front.next_completion() {
            tally.take(done, now);
        }
    }
    let us = |percent| tally.histogram.percentile(percent).as_secs_f64() * 1e6;
    let iops = ios as f64 / seconds;
    let latency_us = Latency {
        p50: us(50.0),
        p90: us(90.0),
        p99: us(99.0),
        p999: us(99.9),
        max: tally.histogram.max().as_secs_f64() * 1e6,
    };
    let report = Report {
        ios,
        never_ended: tally.never_ended + tally.under_way,
        seconds,
        iops,
        mib_per_second: iops * args.block_size as f64 / (1 << 20) as f64,
        block_size: args.block_size,
        depth: args.depth,
        persistent: info.persistent,
        latency_us,
        system_calls_per_request: counters.per_request(),
        counters,
    };
    Ok((report, tally.failed))
}
