//! The xenbus handshake: how a front end and a back end find each other's ring through two
//! `state` nodes, and part again.
//!
//! [`front::Handshake`] and [`back::Handshake`] are state machines without I/O
//! ([`Machine`](libgnt::machine::Machine)): an input goes in, actions come out, to be performed in
//! order. [`node`] has the store's side of the actions. [`device`] puts both together for whatever
//! protocol: who writes one hands in its nodes ([`feature`]) and does what it is told. Each uses only what is
//! above it here: [`XenbusState`]; the two machines and [`node`], of which none uses another;
//! [`errors`] and [`feature`]; [`device`].
//!
//! The order, as Linux peers keep it:
//!
//! | | back end | front end |
//! |---|---|---|
//! | start | 1 → features → 2 | 1 |
//! | ring | | sees 2; ring's nodes → 3 |
//! | connect | sees 3, or 4; maps; sizes → 4 | sees 4; reads sizes → 4 |
//! | close | 5 (asked, or sees 5) | sees 5 → 5 → 6 |
//! | closed | sees 6; unmaps → 6 | sees 6; frees its ring |
//! | again | sees 1 → features → 2 | 1, if `online` is still 1 |
//!
//! Linux' back end publishes `feature-persistent` only with its sizes, so a front end believes what
//! it reads at 4.
//!
//! Either end may vanish and come back at any point. What makes that safe:
//!
//! - Each end reads the other's state again after each own write (`ReadPeer`): of two that write
//!   and then read, at least one sees the other's write.
//! - A front end never offers a fresh ring before the back end has been Closed since the last
//!   one, so a back end in InitWait can only be connecting the ring that is in the store.
//! - The steps that commit to the other end (front's 3 and 4, back's 4) are transactions that
//!   also check the other's state ([`SwitchState::while_peer`]): nobody commits to an end that has
//!   moved on.
//! - A back end that starts and finds its own node at 4 was in service: it takes the ring of a
//!   front end at 3 or 4 over as it stands, and its node stays at 4. Front ends of other makes
//!   know no other way back: Linux' marks its disk dead at 5, and ignores a 2 while it is at 4. If
//!   the ring cannot be taken over, it closes. One that was left at 5 or 6 goes on closing; any
//!   other goes to 2.
//! - A front end in service that sees its back end at 2 takes that as "it was restarted", closes,
//!   and comes back. Unanswered requests are the front end's to keep.
//!
//! - The toolstack may take a device away and make it again before an end has looked: a back end's domain
//!   that crashed, and its successor. A switch never writes over a state that was reset
//!   ([`SwitchState::from`]), nor where the own directory names another back end by now: what is held
//!   is given up, and the new device begins at Initialising (`Renewed`). Linux' front ends do so from 7.0
//!   on (`xenbus_dev_changed` in `drivers/xen/xenbus/xenbus_probe.c`), and say "state reset occurred".
//!
//! Front ends of other makes (OVMF, U-Boot, Mini-OS) go to 4 without waiting for the back end's.

mod state;

pub mod back;
pub mod front;
pub mod node;

pub mod errors;
pub mod feature;

pub mod device;

pub mod roster;

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tables;

pub use state::{SwitchState, XenbusState};
