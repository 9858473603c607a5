//! A real Xen on any machine: Debian's hypervisor, kernel and toolstack, in QEMU without hardware
//! virtualisation, with two or more domains for the agents.
//!
//! In the order of a run: `options` and `suite` say what was asked for, and `domains` for how many;
//! `cache` keeps what `archive` finds and `packages` fetches, with `tree` to look through it;
//! `parts` finds the hypervisor, kernel and toolstack in it, `emulator` QEMU, `program` the static
//! pv-stress, `gntdev` and `kbuild` the synchronous module; `image` and `images` make the initramfs
//! archives, and `job` the scripts in them. Then `machine` runs QEMU: `process` hears it, `listener`
//! understands it, `watch` and `monitor` see when it stands still, `course` says what follows.
//! `results` brings back what dom0 wrote, `report` tells, and [`run()`] does all of it in order.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

mod archive;
mod cache;
mod course;
mod domains;
mod emulator;
mod error;
mod ext4;
mod gntdev;
mod image;
mod images;
mod job;
mod kbuild;
mod listener;
mod machine;
mod monitor;
mod options;
mod packages;
mod parts;
pub mod peers;
mod process;
mod program;
mod progress;
mod prune;
pub mod release;
mod report;
mod results;
mod run;
mod suite;
mod tree;
mod watch;
mod work;

pub use error::LabError;
pub use options::LabCommand;
pub use run::run;
