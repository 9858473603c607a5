//! What becomes of a run's evidence: judges, verdicts, and reports for people and for CI.
//!
//! Layers, each using only what is above it: [`waits`] (a monitor of who waits for what); [`checks`]
//! (judges, as pure functions over the evidence); [`verdict`]; [`report`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod checks;
pub mod report;
pub mod verdict;
pub mod waits;
