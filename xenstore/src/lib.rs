//! A xenstore client, an embedded xenstore server, and the xenbus handshake.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`value`]: what the values of nodes mean.
//! 2. [`perms`]: who may read and write a node.
//! 3. [`wire`]: messages as bytes.
//! 4. [`error`]: the client's errors.
//! 5. [`path`]: paths, and how a relative one becomes absolute.
//! 6. [`domain`]: what a domain finds in its home.
//! 7. `server` (a feature): a state machine without I/O, and its thread. Nothing below uses it.
//! 8. `transport`: the client's end of the byte stream: a socket, the device, or a ring.
//! 9. [`client`]: requests with a deadline, watch events, transactions.
//! 10. `xs` (the feature `xenstore-rs`): the traits of that crate.
//! 11. [`steady`]: a connection that bad days do not end.
//! 12. [`keeper`]: the thread that keeps a device's side of xenstore.
//! 13. [`xenbus`]: the handshake of both ends, without I/O, and the store's side of it; devices of any
//!     protocol, and the roster of a driver domain's.
//! 14. [`toolstack`]: creates, finds and removes block devices.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

/// The examples of the README, which have to compile and to run.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

#[cfg(test)]
mod testing;

pub mod value;

pub mod perms;

pub mod wire;

pub mod error;

pub mod path;

pub mod domain;

#[cfg(feature = "server")]
pub mod server;

mod transport;

pub mod client;

#[cfg(feature = "xenstore-rs")]
mod xs;

pub mod steady;

pub mod keeper;

pub mod xenbus;

pub mod toolstack;

pub use client::{Client, Transaction, Watch, WatchEvent};
pub use error::{DeviceTrouble, Error, Result};
pub use perms::{Permission, Rights};
#[cfg(feature = "server")]
pub use server::service::{DomainSocket, ServerConfig, ServerHandle, ServiceError};
#[cfg(feature = "server")]
pub use server::{Daemon, StoreSabotage};
pub use transport::RingParts;
pub use xenbus::XenbusState;
