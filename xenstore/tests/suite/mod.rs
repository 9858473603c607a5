//! What the client must do with any daemon, ours or another, as dom0: a list of cases over a way to connect.
//!
//! Each case works below a node of its own, which it removes at the end.
#![allow(dead_code, reason = "not every test file uses all of it")]

mod nodes;
mod transactions;
mod watches;

use pv_xenstore::Client;
use std::time::Duration;

/// Nothing here takes so long; a loaded machine may.
pub const SOON: Duration = Duration::from_secs(20);

/// A new connection with dom0's rights.
pub type Connect<'a> = dyn Fn() -> Client + Sync + 'a;

/// A case: its name, which is its node's, too, and what it does. It panics if something is wrong.
pub type Case = (&'static str, fn(&Connect<'_>, &str));

/// All of them.
pub fn cases() -> Vec<Case> {
    [nodes::CASES, transactions::CASES, watches::CASES].concat()
}

/// Runs one, below a node of its own.
pub fn run_case((name, case): Case, connect: &Connect<'_>) {
    let dom0 = connect();
    let node = format!("/pv-suite/{name}");
    dom0.mkdir(&node).unwrap();
    case(connect, &node);
    dom0.remove_tree(&node, "/").unwrap();
}

/// Runs all, whatever becomes of them, and gives the names of those that ran.
///
/// # Panics
/// If one has failed, at the end.
pub fn run(connect: &Connect<'_>) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let mut run = |case: Case| {
        let ran =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_case(case, connect)));
        if ran.is_err() {
            failed.push(case.0);
        }
        case.0
    };
    let ran = cases().into_iter().map(&mut run).collect();
    assert!(failed.is_empty(), "these cases failed: {failed:?}");
    ran
}
