//! A Xen block front end in userspace.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts. The back end's modules
//! have the same names.
//!
//! 1. [`machine`]: the block protocol of this end, a state machine without I/O.
//! 2. `counters`: what is counted: [`Counters`].
//! 3. `error`: why there is no disk: [`FrontError`].
//! 4. `io`: what callers ask for and get back: [`Io`], [`Completion`].
//! 5. `observe`: who is told what happens: [`FrontEvent`], [`Observer`].
//! 6. `config`: how a front end is set up: [`FrontConfig`].
//! 7. `pace`: how long the loop waits, and how soon it tries again.
//! 8. `link`: one connection: ring page, event channel, data pages.
//! 9. `data`: performs the machine's actions on a link.
//! 10. `bus`: this end's side of xenstore, on a thread of its own.
//! 11. `life`: how connections begin and end.
//! 12. `run`: the loop, and [`Frontend`], which its caller drives.
//! 13. `disk`: [`Disk`], a thread around that.
//! 14. `cli`: the command line of the program, with the feature `cli`.
//!
//! ```no_run
//! use libgnt::DomId;
//! use pv_frontend::{Disk, FrontConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let xen = libgnt::open(&"sim:/tmp/xen".parse()?, Some(DomId(1)), "example")?;
//! let disk = Disk::open(FrontConfig::new(xen, "xvda".parse()?))?;
//! disk.write_at(0, &[1; 4096])?;
//! disk.flush()?;
//! let mut sector = [0; 512];
//! disk.read_at(512, &mut sector)?;
//! disk.close()?;
//! # Ok(())
//! # }
//! ```

pub mod machine;

mod counters;
mod error;
mod io;
mod observe;

mod config;
mod pace;

mod link;

mod data;

mod bus;

mod life;

mod run;

mod disk;

#[cfg(feature = "cli")]
pub mod cli;

pub use config::{DEFAULT_CLOSE, FrontConfig};
pub use counters::Counters;
pub use disk::{Disk, IoQueue, Ticket};
pub use error::FrontError;
pub use io::{Completion, Io, Refused};
pub use libgnt::observe::Observer;
pub use libgnt::stop::Stop;
pub use machine::{DeviceError, DiskInfo, IoError, ProtocolError};
pub use observe::{FrontEvent, FrontEventKind};
pub use pv_xenstore::toolstack::{DeviceClass, DeviceId};
pub use run::Frontend;

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
