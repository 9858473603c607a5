//! xenstore on a real Xen: the client's cases and the histories of pv-rivals over the daemon's socket and
//! over `/dev/xen/xenbus`, and the echo device between two domains.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list:
//!
//! 1. [`part`]: what a part of it comes to.
//! 2. [`over`]: the way to the daemon.
//! 3. `cases`: the client's cases over it.
//! 4. [`scene`]: a history that is played in a corner of a tree that others use.
//! 5. [`wires`]: the daemon's side of a history.
//! 6. [`histories`]: histories from seeds, played on that daemon and on our server.
//! 7. `echo`: the echo device's ends.
//! 8. `suite`: all of it, from dom0.
//! 9. [`cli`]: the command line.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod cli;
pub mod histories;
pub mod over;
pub mod part;
pub mod scene;
pub mod wires;

mod cases;
mod echo;
mod suite;

pub use cases::cases;
