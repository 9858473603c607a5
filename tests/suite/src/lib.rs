//! What a client must get of any xenstore daemon, ours or another, however it is connected: a list of cases.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list:
//!
//! 1. [`case`]: what a case is, and where it may run.
//! 2. `nodes`: nodes, domains, and many requests at once.
//! 3. `transactions`.
//! 4. `watches`.

#![allow(
    clippy::unwrap_used,
    reason = "a case that finds something wrong panics"
)]

pub mod case;

mod nodes;

mod transactions;

mod watches;

pub use case::{Case, Connect, Many, Needs, Place, Run, SOON};

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must.
    Passed,
    /// It may not run here; why.
    NotHere(&'static str),
    /// Something is wrong, in the words of its panic.
    Failed(String),
}

/// A case that was run, or was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its name.
    pub name: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [nodes::CASES, transactions::CASES, watches::CASES].concat()
}

/// Runs one, below a node of its own, which it removes.
///
/// # Panics
/// Something is wrong.
pub fn run_case(case: &Case, place: &Place<'_>) {
    let client = (place.connect)();
    let node = format!("{}/{}", place.node, case.name);
    client.mkdir(&node).unwrap();
    (case.run)(place.connect, &node, place.many);
    // The directory that the cases are in goes with its last node, and none above it.
    let above = place.node.rsplit_once('/').map_or("", |(above, _)| above);
    let kept = if above.is_empty() { "/" } else { above };
    client.remove_tree(&node, kept).unwrap();
}

/// Runs all, whatever becomes of them.
pub fn run_all(place: &Place<'_>) -> Vec<Ran> {
    let one = |case: &Case| {
        let begun = Instant::now();
        let outcome = match place.lacks(case) {
            Some(why) => Outcome::NotHere(why),
            None => match catch_unwind(AssertUnwindSafe(|| run_case(case, place))) {
                Ok(()) => Outcome::Passed,
                Err(panic) => Outcome::Failed(words(&*panic)),
            },
        };
        Ran {
            name: case.name,
            outcome,
            took: begun.elapsed(),
        }
    };
    cases().iter().map(one).collect()
}

/// Runs all, and gives the names of those that ran.
///
/// # Panics
/// If one has failed, at the end.
pub fn run(place: &Place<'_>) -> Vec<&'static str> {
    let all = run_all(place);
    let failed = all
        .iter()
        .filter(|ran| matches!(ran.outcome, Outcome::Failed(_)));
    let failed: Vec<&Ran> = failed.collect();
    assert!(failed.is_empty(), "these cases failed: {failed:#?}");
    let ran = all.iter().filter(|ran| ran.outcome == Outcome::Passed);
    ran.map(|ran| ran.name).collect()
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".into())
}
