//! The server: a state machine without I/O, and the thread that puts sockets around it.
//!
//! Each module uses only what is above it:
//! - [`quota`]: what a domain may take;
//! - [`store`]: the tree of nodes; [`access`]: one caller's operations on a tree;
//!   [`transaction`]: a private tree and its commit; [`watch`]: who watches what;
//! - [`machine`]: the state machine, [`Server`], spread over a file for each kind of request;
//! - `requests`: what the service itself asks of the machine;
//! - [`queue`]: what waits to be sent on one connection;
//! - [`service`]: the thread with its sockets.

pub mod quota;
pub mod store;

pub mod access;
pub mod transaction;
pub mod watch;

pub mod machine;

pub mod queue;
mod requests;

pub mod service;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tables;

pub use machine::{Action, Input, Server, StoreSabotage};
pub use watch::ConnId;
