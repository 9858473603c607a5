//! The program `pv-xenstored`: the embedded xenstore server on a socket, for people who develop
//! without Xen.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list:
//!
//! 1. `args`: what can be written on the command line.
//! 2. `run`: starts the server, and waits for a signal.
//!
//! Exit status: 0 stopped by a signal, 1 failed while at work, 2 wrong usage or environment.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

mod args;

mod run;

pub use args::command;
pub use run::main_from;
