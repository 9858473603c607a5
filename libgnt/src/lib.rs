//! Xen grant tables, event channels and shared rings from userspace.
//!
//! Layers, each using only what is above it: [`types`] and [`error`]; [`shm`], the only code that
//! touches shared memory; [`platform`], the seam, with [`linux`] and [`sim`] below it; [`grant`]
//! (share, map, copy, unmap, ledger) and [`event`] on top of the seam; [`ring`], and the
//! protocols' codecs in [`proto`].

pub mod error;
pub mod event;
pub mod grant;
pub mod linux;
pub mod machine;
pub mod platform;
pub mod proto;
pub mod ring;
pub mod shm;
pub mod sim;
pub mod stop;
pub mod types;

pub use error::{Error, Result};
pub use platform::{Platform, PlatformChoice};
pub use shm::SharedPages;
pub use types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, PAGE_SIZE};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
