//! `bench`: I/O per second and latency, driven on this thread without another in between.

use super::histogram::Histogram;
use super::{Context, Failure, Outcome};
use crate::engine::Frontend;
use crate::error::FrontError;
use crate::io::Io;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// I/Os at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Bytes of each, whole sectors.
    #[arg(long, default_value_t = 4096)]
    block_size: usize,
    /// How long to measure.
    #[arg(long, default_value = "5", value_parser = super::seconds)]
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

pub(super) fn run(context: &Context, args: &Bench) -> Outcome {
    let config = crate::FrontConfig {
        queue: args.depth as usize,
        ..context.config.clone()
    };
    let mut front = Frontend::open(config).map_err(Failure::at_open)?;
    let work = measure(context, args, &mut front);
    let closed = front.close();
    let report = work?;
    closed?;
    context.print(&report, |r| {
        let what = if args.random_write { "writes" } else { "reads" };
        format!(
            "{:.0} random {what} of {} bytes per second at depth {} ({:.0} MiB/s), persistent grants {}\n\
             latency  p50 {:.1} us, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, longest {:.1}\n\
             {:.3} system calls per request on this side",
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
    })
}

fn measure(context: &Context, args: &Bench, front: &mut Frontend) -> Result<Report, Failure> {
    let info = front.info();
    let sector = info.sector_size.max(512) as usize;
    if args.block_size == 0 || !args.block_size.is_multiple_of(sector) {
        let message = format!(
            "--block-size {}: not in sectors of {sector} bytes",
            args.block_size
        );
        return Err(Failure::Environment(message));
    }
    let blocks = info.bytes() / args.block_size as u64;
    if blocks == 0 {
        let message = format!("--block-size {}: larger than the disk", args.block_size);
        return Err(Failure::Environment(message));
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
    let mut histogram = Histogram::new();
    let mut submitted = vec![began; args.depth as usize];
    for tag in 0..args.depth {
        let mut buffer = vec![0; args.block_size];
        if args.random_write {
            random.fill(&mut buffer);
        }
        submit(front, io(&mut random, buffer), u64::from(tag))?;
    }
    let (mut ios, mut now) = (0, began);
    while now < end {
        if context.stopped() {
            return Err(Context::interrupted());
        }
        front.poll(end - now)?;
        now = Instant::now();
        while let Some(done) = front.next_completion() {
            done.result.map_err(FrontError::Io)?;
            let at = &mut submitted[done.tag as usize];
            histogram.add(now - *at);
            *at = now;
            ios += 1;
            submit(front, io(&mut random, done.data), done.tag)?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let counters = front.counters().since(&before);
    let us = |percent| histogram.percentile(percent).as_secs_f64() * 1e6;
    let iops = ios as f64 / seconds;
    let latency_us = Latency {
        p50: us(50.0),
        p90: us(90.0),
        p99: us(99.0),
        p999: us(99.9),
        max: histogram.max().as_secs_f64() * 1e6,
    };
    Ok(Report {
        ios,
        seconds,
        iops,
        mib_per_second: iops * args.block_size as f64 / (1 << 20) as f64,
        block_size: args.block_size,
        depth: args.depth,
        persistent: info.persistent,
        latency_us,
        system_calls_per_request: counters.per_request(),
        counters,
    })
}

fn submit(front: &mut Frontend, io: Io, tag: u64) -> Result<(), Failure> {
    front
        .submit(io, tag)
        .map_err(|refused| FrontError::Io(refused.error).into())
}
