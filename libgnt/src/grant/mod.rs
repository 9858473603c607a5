//! Grants: share pages of our own, map those of others, copy, and give everything back.
//!
//! [`Granter`] and [`Share`] wrap gntalloc; [`Mapper`], [`Map`] and [`Unmapping`] wrap gntdev.
//! Taking a mapping away never waits for those who still use the pages: [`Map::unmap`] returns at
//! once, and the [`Unmapping`] it leaves behind tells when the hypervisor has really let go. A
//! [`Ledger`] names what is granted, mapped and unmapping at any time.

mod copy;
mod ledger;
mod map;
mod mapper;
mod pairs;
mod probe;
mod refusal;
mod releases;
mod retry;
mod share;
pub mod unmap;
mod unmapping;

pub use ledger::{Counts, EntryKind, Ledger, LedgerEntry};
pub use map::Map;
pub use mapper::Mapper;
pub use pairs::{IDLE_PAIRS, MAX_UNMAPPING};
pub use refusal::{EndAccessError, Refusal, UnmapError};
pub use retry::Retry;
pub use share::{EndAccess, Granter, Share};
pub use unmap::{UnmapMachine, UnmapState};
pub use unmapping::{UnmapId, Unmapping};
