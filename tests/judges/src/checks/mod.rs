//! Judges: what must hold in a run, as pure functions over the evidence. None of them starts,
//! reads or waits for anything, so each can be shown bad evidence, and is, in its tests.

mod aftermath;
mod deadlock;
mod hold;
mod kernel;
mod loss;
mod oracle;
mod request_life;

pub use aftermath::{
    host_is_empty, kernels_are_well, ledgers_are_empty, no_kernel_complained, nothing_left,
    timelines_are_complete,
};
pub use deadlock::{cycle_is_explained, no_deadlock, no_possible_cycle};
pub use hold::{
    answered_after_release, held_pages_stay, io_goes_on, learns_by_event, released_after_holder,
    reused_after_release, unmaps_return_while_held, was_held_while_unmapping,
};
pub use kernel::{
    AfterKill, Emptied, Form, Kill, Standstill, advice, complaint, emptying, kernel_does_not_wait,
    no_cycle, standstill,
};
pub use loss::{
    every_write_is_kept, released_by_death, same_data, was_killed_in_mid_io, was_noticed,
    work_went_on_after,
};
pub use oracle::{Watched, one_oracle, second_oracle};
pub use request_life::{RequestLife, lives};

use libgnt::grant::Totals;
use libgnt::inspect::{Deadlock, Inspection};
use pv_harness::kernel::GuestKernel;
use pv_harness::processes::Aftermath;
use pv_harness::timeline::{Event, Record};
use serde::{Deserialize, Serialize};

/// One thing that had to hold, and whether it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What had to hold.
    pub name: String,
    /// Did it?
    pub passed: bool,
    /// The figures behind the verdict; for a failure, the first offender.
    pub detail: String,
}

impl Check {
    /// A check that held.
    pub fn pass(name: &str, detail: impl Into<String>) -> Check {
        Check {
            name: name.into(),
            passed: true,
            detail: detail.into(),
        }
    }

    /// A check that did not.
    pub fn fail(name: &str, detail: impl Into<String>) -> Check {
        Check {
            name: name.into(),
            passed: false,
            detail: detail.into(),
        }
    }

    /// Passes if there are no offenders.
    pub fn none(name: &str, offenders: Vec<String>, held: impl Into<String>) -> Check {
        match offenders.first() {
            None => Check::pass(name, held),
            Some(first) if offenders.len() == 1 => Check::fail(name, first.clone()),
            Some(first) => Check::fail(name, format!("{first} (and {} more)", offenders.len() - 1)),
        }
    }
}

/// Everything that a run left for its judges.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// All timelines, by time.
    pub records: Vec<Record>,
    /// What became of each mapped request, from the timelines.
    pub lives: Vec<RequestLife>,
    /// The host's state after all roles had ended.
    pub inspection: Option<Inspection>,
    /// What each role's own ledger still held when it had finished, by process.
    pub ledgers: Vec<(String, Vec<String>)>,
    /// What each role's own ledger has counted from its beginning to its end, by process: not of those
    /// that were killed.
    pub totals: Vec<(String, Totals)>,
    /// On a real Xen: whose kernel was watched, by whom.
    pub watched: Vec<Watched>,
    /// How the processes ended, and what they left.
    pub aftermath: Aftermath,
    /// On a real Xen: what each domain's kernel said that is trouble.
    pub kernels: Option<Vec<(String, Vec<String>)>>,
    /// On a real Xen: event channels that were not there before, where that could be found out.
    pub channels: Option<Vec<String>>,
    /// On a real Xen: what the domains' kernels said of themselves.
    pub guests: Vec<GuestKernel>,
    /// A kernel in which tasks wait that nobody will wake.
    pub standstill: Option<Standstill>,
    /// How far stamps of different domains may be off against each other.
    pub clock_uncertainty_ns: u64,
}

impl Evidence {
    /// Puts the evidence together.
    pub fn new(
        mut aftermath: Aftermath,
        inspection: Option<Inspection>,
        ledgers: Vec<(String, Vec<String>)>,
    ) -> Evidence {
        let records = std::mem::take(&mut aftermath.records);
        Evidence {
            lives: lives(&records),
            records,
            inspection,
            ledgers,
            totals: Vec::new(),
            watched: Vec::new(),
            aftermath,
            kernels: None,
            channels: None,
            guests: Vec::new(),
            standstill: None,
            clock_uncertainty_ns: 0,
        }
    }

    /// The deadlocks that the host broke.
    pub fn deadlocks(&self) -> impl Iterator<Item = &Deadlock> {
        self.records
            .iter()
            .filter_map(|record| match &record.event {
                Event::Deadlock { deadlock } => Some(deadlock),
                _ => None,
            })
    }
}

/// What must hold after every scenario.
pub fn common(evidence: &Evidence) -> Vec<Check> {
    let mut checks = vec![
        host_is_empty(evidence),
        nothing_left(evidence),
        timelines_are_complete(evidence),
    ];
    checks.extend(kernels_are_well(evidence));
    checks.extend(second_oracle(evidence));
    checks.extend(kernel_does_not_wait(evidence));
    checks
}

/// Nanoseconds as people read them.
pub fn spell(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

#[doc(hidden)]
pub mod fixture;
#[cfg(test)]
pub(crate) use kernel::tests as hangs;
