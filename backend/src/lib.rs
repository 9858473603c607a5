//! A Xen block back end in userspace.
//!
//! Layers, each using only what is above it: [`machine`], the block protocol of this end as a state
//! machine without I/O; [`disk`], what the sectors are kept on; what an embedding program sees
//! ([`Observer`], [`PageLender`]) and says ([`BackConfig`]); `record`, what must outlive the process;
//! `link`, one connection; `data`, which performs the machine's actions; `bus`, this end's side of
//! xenstore; `run` and `life`, the event loop: [`Backend`]; `cli`, the command line.

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
pub use libgnt::stop::Stop;
pub use machine::{DataMode, RequestInfo};
pub use observe::{BackEvent, BackEventKind, Observer};
pub use pv_xenstore::toolstack::{DeviceClass, DeviceId};
pub use run::Backend;
