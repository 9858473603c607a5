//! A real Xen on any machine: Debian's hypervisor, kernel and toolstack, in QEMU without hardware
//! virtualisation, with two or more domains for front and back ends.
//!
//! # Layers
//!
//! The rooms are the steps of a run. Each module uses only what is above it in this list, and its own
//! parts:
//!
//! 1. `error`: why there is no lab.
//! 2. `progress`: who is told what happens, and the way out at Ctrl-C.
//! 3. `process`: the programs that a lab runs.
//! 4. `ask`: what was asked for.
//! 5. `fetch`: what Debian has, kept in a cache.
//! 6. `build`: what the machine needs.
//! 7. [`daemons`]: Debian's xenstore daemons, for whoever runs them without a Xen.
//! 8. `image`: what it boots.
//! 9. `machine`: it runs.
//! 10. `results`: what it leaves.
//! 11. `prune`: takes out of the cache what the next lab does not need.
//! 12. `table`: a lab for each row of a table.
//! 13. `run`: all of it in order.
//! 14. [`peers`]: the suite of that name, which a lab runs in dom0.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

mod error;

mod progress;

mod process;

mod ask;

mod fetch;

mod build;

pub mod daemons;

mod image;

mod machine;

mod results;

mod prune;

mod table;

mod run;

pub mod peers;

pub use ask::options::LabCommand;
pub use error::LabError;
pub use run::run;
