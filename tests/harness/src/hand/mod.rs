//! A hand: whoever shares, maps, holds and unmaps on command, one order at a time, with the
//! platform of its own domain.
//!
//! [`Order`] and [`Answer`] are what is said. [`Hand`] performs orders and owns what it makes;
//! each thing it owns has a typed handle, and what is left when the hand ends goes with it.
//! [`RemoteHand`] is the other side: it gives orders over a [`Link`], which may be a socket, a
//! console or xenstore.
//!
//! A hand works at two levels. The orders about shares and maps use the library (`libgnt::grant`),
//! as any driver does. [`DeviceOrder`] is for who tests the devices themselves: one system call
//! each, in any order. Pages of both kinds are read, written and dropped by the same orders.

mod answer;
pub mod channel;
pub mod device;
mod failure;
mod grants;
mod hold;
mod loan;
mod order;
mod perform;
mod remote;
mod store;
mod table;

pub use answer::{Answer, Bad, Ending, Refusal};
pub use failure::Failure;
pub use grants::pattern;
pub use loan::Loan;
pub use order::{
    DeviceOrder, HeldId, LoanId, MapId, Order, Pages, Place, ShareId, StoreOrder, UNTIL_IT_COMES,
    View,
};
pub use perform::Hand;
pub use remote::{Link, RemoteHand, Unanswered};

#[cfg(test)]
mod tests;
