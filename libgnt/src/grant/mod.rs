//! Grants: share pages of our own, map those of others, copy, and give everything back.
//!
//! [`Granter`] and [`Share`] wrap gntalloc; [`Mapper`], [`Map`] and [`Unmapping`] wrap gntdev.
//! Taking a mapping away never waits for those who still use the pages: [`Map::unmap`] returns at
//! once, and the [`Unmapping`] it leaves behind tells when the hypervisor has really let go. A
//! [`Ledger`] names what is granted, mapped and unmapping at any time.

mod copy;
mod ledger;
mod map;
mod probe;
mod releases;
mod retry;
mod share;
mod unmap;

pub use ledger::{Counts, EntryKind, Ledger, LedgerEntry};
pub use map::{Map, Mapper, UnmapRefused};
pub use releases::{MAX_UNMAPPING, UnmapId, Unmapping};
pub use retry::Retry;
pub use share::{EndAccess, Granter, Share};
pub use unmap::{UnmapMachine, UnmapState, UnmapStep};
