//! What becomes of a run's evidence: judges, verdicts, and reports for people and for CI.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`waits`]: a monitor of who waits for what while holding what.
//! 2. [`checks`]: judges, as pure functions over the evidence.
//! 3. [`picture`]: pictures that a run took.
//! 4. [`verdict`]: what a scenario came to.
//! 5. [`report`]: what a run leaves for people and for CI.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod checks;
pub mod picture;
pub mod report;
pub mod verdict;
pub mod waits;
