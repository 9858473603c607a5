//! How the programs of this workspace log, fail and end.
//!
//! # Layers
//!
//! 1. `failure`: an error on its way to a person.
//! 2. `log`: the log on standard error.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

/// The example of the README, which has to compile and to run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

mod failure;

mod log;

pub use failure::{ENVIRONMENT, FAILED, Failure, end};
pub use log::start_log;
