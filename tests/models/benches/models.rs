//! The whole table of models, as `pv-stress model check` does it: states a second for each, and
//! whether it stays within its two minutes and 4 GiB.

use pv_models::graph::Recorder;
use pv_models::search::Limits;
use pv_models::systems;
use pv_models::table::table;
use pv_models::verdict::check;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MOST_TIME: Duration = Duration::from_secs(120);
const MOST_KIB: u64 = 4 << 20;

fn main() -> ExitCode {
    let began = Instant::now();
    let mut verdicts = Vec::new();
    for system in systems::all() {
        for variant in &system.variants {
            let recorder = Arc::new(Recorder::default());
            let bounds = variant.bounds(None);
            verdicts.push(check(
                &system,
                variant,
                bounds,
                Limits::default(),
                &recorder,
            ));
        }
    }
    let took = began.elapsed();
    let text = table(&verdicts);
    print!("{}", anstream::adapter::strip_str(&text));
    let kib = most_memory_kib().unwrap_or(0);
    println!(
        "in all {:.1} s, at most {} MiB",
        took.as_secs_f64(),
        kib >> 10
    );
    let good = verdicts.iter().all(|v| v.as_expected) && took < MOST_TIME && kib < MOST_KIB;
    if good {
        ExitCode::SUCCESS
    } else {
        println!("too slow, too large, or not as expected");
        ExitCode::FAILURE
    }
}

/// `VmHWM` of /proc/self/status.
fn most_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
