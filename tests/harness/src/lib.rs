//! What every stress run needs, whatever it is about.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`error`]: what stops a run before it has a verdict.
//! 2. [`settings`]: words of the command line that several suites share.
//! 3. [`any_path`]: paths in JSON.
//! 4. [`cycle`]: cycles in an order.
//! 5. [`timeline`]: what each process did and when.
//! 6. [`processes`]: start, listen, kill, reap.
//! 7. [`holder`]: ways to hold pages.
//! 8. [`digest`](mod@digest): SHA-256 of files.
//! 9. [`host`]: the simulated Xen with its xenstore.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod any_path;
pub mod cycle;
pub mod digest;
pub mod error;
pub mod holder;
pub mod host;
pub mod processes;
pub mod settings;
pub mod timeline;
