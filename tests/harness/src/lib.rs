//! What every stress run needs, whatever it is about.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list:
//!
//! 1. [`error`]: what stops a run before it has a verdict.
//! 2. [`settings`]: words of the command line that several suites share.
//! 3. [`any_path`]: paths in JSON.
//! 4. [`cycle`]: searches for cycles.
//! 5. [`timeline`]: what each process did and when.
//! 6. [`memory`]: what a program can do to its own mappings.
//! 7. [`kernel`]: what the kernel below says of itself.
//! 8. [`trace`]: what a kernel does with grants, seen through its own tracing.
//! 9. [`picture`]: test pictures that fill pages.
//! 10. [`holder`]: ways to hold pages.
//! 11. [`hand`]: shares, maps, holds and unmaps on command.
//! 12. [`processes`]: start, listen, kill, reap.
//! 13. [`player`]: the processes that play a hand.
//! 14. [`host`]: the simulated Xen with its xenstore.
//! 15. [`digest`]: digests of files.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod any_path;
pub mod cycle;
pub mod digest;
pub mod error;
pub mod hand;
pub mod holder;
pub mod host;
pub mod kernel;
pub mod memory;
pub mod picture;
pub mod player;
pub mod processes;
pub mod settings;
pub mod timeline;
pub mod trace;
