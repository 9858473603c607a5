//! The server: a state machine without I/O, and the thread that puts sockets around it.
//!
//! Each module uses only what is above it:
//! - [`daemon`]: which daemon it plays; [`quota`]: what a domain may take, and [`rate`]: how fast it may write;
//! - [`store`]: the tree of nodes; [`change`]: what watches may have to hear of; [`transaction`]: what one
//!   has seen and changed; [`watch`]: who watches what; [`access`]: one caller's operations on either;
//! - [`ocaml`]: what of all this is another in oxenstored;
//! - [`state`]: the tree in a file;
//! - [`machine`]: the state machine, [`Server`], spread over a file for each kind of request;
//! - `requests`: what the service itself asks of the machine;
//! - [`queue`]: what waits to be sent on one connection;
//! - [`service`]: the thread with its sockets.

pub mod daemon;
pub mod quota;
pub mod rate;

pub mod store;

pub mod change;
pub mod transaction;
pub mod watch;

pub mod access;

pub mod ocaml;

pub mod state;

pub mod machine;

pub mod queue;
mod requests;

pub mod service;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tables;

pub use daemon::Daemon;
pub use machine::{Action, Input, Server, Settings, StoreSabotage};
pub use watch::ConnId;
