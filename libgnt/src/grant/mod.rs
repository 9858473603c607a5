//! Grants: share pages of our own, map those of others, copy, and give everything back.
//!
//! [`Granter`] and [`Share`] wrap gntalloc; [`Mapper`], [`Map`] and [`Unmapping`] wrap gntdev.
//! Taking a mapping away never waits for those who still use the pages: [`Map::unmap`] returns at
//! once, and the [`Unmapping`] it leaves behind tells when the hypervisor has really let go. A
//! [`Ledger`] names what is granted, mapped and unmapping at any time.
//!
//! Each part uses only what is above it here:
//!
//! - [`unmap`]: the life of an unmap, a machine without I/O. `ledger`, `retry`.
//! - `pairs`, `releases`: who tells that an unmap is over. `unmapping`: how its owner sees it.
//! - `mapping`: one mapping. `shared`: the open device. `perform`: the machine's actions, performed.
//! - `map`: what a program holds while it maps. `probe`: which grants of a batch are bad.
//! - `mapper`: opens, maps, and hears of releases. `copy`: grant copy.
//! - `share`: pages of our own.

mod copy;
mod ledger;
mod map;
mod mapper;
mod mapping;
mod pairs;
mod perform;
mod probe;
mod releases;
mod retry;
mod share;
mod shared;
pub mod unmap;
mod unmapping;

pub use ledger::{Counts, EntryKind, Ledger, LedgerEntry, Totals};
pub use map::{Map, UnmapError};
pub use mapper::Mapper;
pub use pairs::{IDLE_PAIRS, MAX_UNMAPPING};
pub use perform::Refusal;
pub use releases::UnmapId;
pub use retry::Retry;
pub use share::{EndAccess, EndAccessError, Granter, Share};
pub use unmap::{UnmapMachine, UnmapState};
pub use unmapping::Unmapping;
