//! How long does an unmap call take while others are still held, and what does a held page cost
//! the host? `cargo bench --package pv-stress --bench unmap`
//!
//! The host is a process of its own: this benchmark, run again. Each row first lets a holder take
//! so many mappings and unmaps them, so that they stay in `Unmapping`; then it times further
//! map-and-unmap rounds that nobody holds.

use libgnt::grant::{Granter, Ledger, Mapper};
use libgnt::platform::Platform;
use libgnt::sim::client::{SimPlatform, connect};
use libgnt::sim::core::Config;
use libgnt::sim::host::{Host, NoServices};
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::types::{Access, DomId, ForeignGrant};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOST: &str = "PVPAIR_BENCH_HOST";
const ROUNDS: usize = 2_000;
const HELD: [usize; 4] = [0, 1, 100, 1000];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    if let Some(dir) = std::env::var_os(HOST) {
        return serve(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    let host = HostProcess::start(dir.path())?;
    let result = measure(dir.path(), &host);
    drop(host);
    result
}

/// The host's side: serves until its standard input closes.
fn serve(dir: &Path) -> Outcome<()> {
    let host = Host::bind(dir, Config::default(), Box::new(NoServices))?;
    let stop = host.stop_handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        stop.stop();
    });
    println!("ready");
    std::io::stdout().flush()?;
    Ok(host.run()?)
}

struct HostProcess(Child);

impl HostProcess {
    fn start(dir: &Path) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(HOST, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = [0; 6];
        child
            .stdout
            .as_mut()
            .ok_or("no stdout")?
            .read_exact(&mut ready)?;
        Ok(HostProcess(child))
    }

    /// Resident KiB.
    fn memory(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

struct Row {
    held: usize,
    median: Duration,
    p99: Duration,
    memory: u64,
}

fn measure(dir: &Path, host: &HostProcess) -> Outcome<()> {
    let back = connect(dir, Some(DomId(0)), "back")?;
    let front = connect(dir, Some(DomId(1)), "front")?;
    let granter = Granter::open(front, Ledger::new())?;
    let mapper = Mapper::open(Arc::clone(&back) as Arc<dyn Platform>, Ledger::new())?;
    // dom0 has enough event channels for all that are held, and for the one that is timed.
    mapper.limit_unmapping(HELD[HELD.len() - 1] + 1);
    let share = granter.share(DomId(0), 1, Access::ReadWrite)?;
    let grant = ForeignGrant {
        domid: DomId(1),
        gref: share.grefs()[0],
    };

    let mut rows = Vec::new();
    let mut holds = Vec::new();
    // Once before the first row, so that no row pays for what is made once.
    rounds(&mapper, grant, ROUNDS / 4)?;
    for held in HELD {
        while holds.len() < held {
            holds.push(hold_one(&back, &mapper, grant)?);
        }
        let mut times = rounds(&mapper, grant, ROUNDS)?;
        times.sort_unstable();
        let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        rows.push(Row {
            held,
            median,
            p99,
            memory: host.memory()?,
        });
    }
    for hold in holds {
        back.release(hold)?;
    }
    report(&rows);
    Ok(())
}

/// One mapping that stays in `Unmapping`.
fn hold_one(back: &SimPlatform, mapper: &Mapper, grant: ForeignGrant) -> Outcome<HoldId> {
    let map = mapper.map(&[grant], Access::ReadWrite)?;
    let hold = back.pin(map.pages(), 0, 1, HoldKind::Plain)?;
    map.unmap()?;
    Ok(hold)
}

/// The time of each unmap call; its release is awaited outside the timed part.
fn rounds(mapper: &Mapper, grant: ForeignGrant, count: usize) -> Outcome<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let map = mapper.map(&[grant], Access::ReadWrite)?;
        let began = Instant::now();
        let unmapping = map.unmap()?;
        times.push(began.elapsed());
        unmapping.wait(Duration::from_secs(10))?;
    }
    Ok(times)
}

fn report(rows: &[Row]) {
    println!("unmap call, {ROUNDS} rounds a row");
    println!("  held mappings     median        p99   median vs 0 held   host memory");
    let base = &rows[0];
    for row in rows {
        println!(
            "  {:>13} {:>7.1} us {:>7.1} us {:>18.2} {:>9} KiB",
            row.held,
            row.median.as_secs_f64() * 1e6,
            row.p99.as_secs_f64() * 1e6,
            row.median.as_secs_f64() / base.median.as_secs_f64(),
            row.memory,
        );
    }
    if let Some(last) = rows.last() {
        let more = last.memory.saturating_sub(base.memory) as f64 * 1024.0;
        println!(
            "  host memory for a held page: {:.0} bytes",
            more / last.held.max(1) as f64
        );
    }
}
