//! A Xen block back end in userspace.
//!
//! ```no_run
//! use libgnt::DomId;
//! use pv_backend::{BackConfig, Backend, Backing};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let xen = libgnt::open(&"sim:/tmp/xen".parse()?, Some(DomId(0)), "example")?;
//! let backing = Backing::File("disk.img".into());
//! let config = BackConfig::new(xen, DomId(1), "xvda".parse()?, backing);
//! let stop = config.stop.clone();
//! let serving = std::thread::spawn(move || Backend::open(config)?.run());
//! stop.ask();
//! serving.join().expect("no panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`machine`]: the block protocol of this end, as a state machine without I/O.
//! 2. [`disk`]: what the sectors are kept on.
//! 3. `observe`: events, and who is told of them.
//! 4. `lend`: who is lent a request's pages.
//! 5. `record`: what must outlive the process.
//! 6. `claim`: one back end for one device.
//! 7. `error`: how a back end fails.
//! 8. `config`: how it is set up.
//! 9. `pace`: when to look again, and when to sleep.
//! 10. `again`: what could not be done, and is tried again.
//! 11. `recorded`: a ring and the record of what was taken off it.
//! 12. `link`: one connection: ring page, event channel.
//! 13. `unmaps`: unmaps that are under way, and those that could not begin.
//! 14. `data`: performs the machine's actions.
//! 15. `bus`: this end's side of xenstore, on its thread.
//! 16. `life`: how connections begin and end.
//! 17. `run`: the event loop, and [`Backend`].
//! 18. `cli`: the command line, with the cargo feature `cli`.

pub mod machine;

pub mod disk;

mod observe;

mod lend;

mod record;

mod claim;

mod error;

mod config;

mod pace;

mod again;

mod recorded;

mod link;

mod unmaps;

mod data;

mod bus;

mod life;

mod run;

#[cfg(feature = "cli")]
pub mod cli;

pub use claim::ClaimError;
pub use config::{BackConfig, DEFAULT_CLOSE, Mode};
pub use disk::{Backing, DiskError};
pub use error::BackError;
pub use lend::PageLender;
pub use libgnt::observe::Observer;
pub use libgnt::stop::Stop;
pub use machine::{DataMode, RequestInfo};
pub use observe::{BackEvent, BackEventKind};
pub use pv_xenstore::toolstack::{DeviceClass, DeviceId};
pub use run::Backend;
