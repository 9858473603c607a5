//! A Xen block front end in userspace.
//!
//! The rooms, each using only what is above it:
//!
//! | module | contents |
//! |---|---|
//! | [`machine`] | the block protocol of this end, a state machine without I/O |
//! | `io`, `counters`, `error`, `observe`, `config` | what callers give and get: [`Io`], [`Counters`], [`FrontError`], [`FrontEvent`], [`FrontConfig`] |
//! | `pace` | how long the loop waits, and how soon it tries again |
//! | `link` | one connection: ring page, event channel, data pages |
//! | `data` | performs the machine's actions on a link |
//! | `bus` | this end's side of xenstore, on a thread of its own |
//! | `life` | how connections begin and end |
//! | `run` | the loop, and [`Frontend`], which its caller drives |
//! | `disk` | [`Disk`], a thread around that |
//! | `cli` | the command line of the program, with the feature `cli` |
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
pub use libgnt::stop::Stop;
pub use machine::{DeviceError, DiskInfo, IoError, ProtocolError};
pub use observe::{FrontEvent, FrontEventKind, Observer};
pub use pv_xenstore::toolstack::{DeviceClass, DeviceId};
pub use run::Frontend;

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
