//! A Xen block front end in userspace.
//!
//! [`agent`] is the block protocol as a state machine without I/O; [`Frontend`] performs its
//! actions on a ring, granted pages, an event channel and xenstore, driven by its caller; [`Disk`]
//! puts a thread around that; [`cli`] is the command line of `pv-frontend`.
//!
//! ```no_run
//! use libgnt::{DomId, platform};
//! use pv_frontend::{Disk, FrontConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let xen = platform::open(&"sim:/tmp/xen".parse()?, Some(DomId(1)), "example")?;
//! let disk = Disk::open(FrontConfig::new(xen, "xvda".parse()?))?;
//! disk.write_at(0, &[1; 4096])?;
//! disk.flush()?;
//! let mut sector = [0; 512];
//! disk.read_at(512, &mut sector)?;
//! disk.close()?;
//! # Ok(())
//! # }
//! ```

pub mod agent;
mod bus;
pub mod cli;
mod config;
mod counters;
mod datapath;
mod disk;
mod engine;
mod error;
mod io;
mod live;
mod observe;
mod pool;

pub use agent::{DeviceError, DiskInfo, IoError, ProtocolError};
pub use config::{DEFAULT_CLOSE, FrontConfig};
pub use counters::Counters;
pub use disk::{Disk, IoQueue, Ticket};
pub use engine::Frontend;
pub use error::FrontError;
pub use io::{Completion, Io, Refused};
pub use libgnt::stop::Stop;
pub use observe::{FrontEvent, FrontEventKind, Observer};
pub use pv_xenstore::toolstack::{DeviceClass, DeviceId};
