//! A xenstore client, an embedded xenstore server, and the xenbus handshake.
//!
//! Layers, each using only what is above it: [`wire`], [`path`], [`perms`], [`quota`] and [`value`];
//! the tree ([`store`], [`access`], [`transaction`], [`watch`]); [`server`], a state machine without
//! I/O, and [`server::service`], its thread. For clients: [`client`]; on top of it [`xenbus`]
//! (the handshake of both ends, without I/O) and [`toolstack`] (creating and removing devices); and
//! [`steady`] with [`keeper`], for an end that must not depend on xenstore's good days.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod access;
pub mod client;
pub mod error;
pub mod keeper;
pub mod path;
pub mod perms;
pub mod quota;
pub mod server;
pub mod steady;
pub mod store;
pub mod toolstack;
pub mod transaction;
mod transport;
pub mod value;
pub mod watch;
pub mod wire;
pub mod xenbus;

pub use client::{Client, Transaction, WatchEvent};
pub use error::{Error, Result};
pub use perms::{Permission, Rights};
pub use server::Sabotage;
pub use server::service::{Config, ServerHandle, ServiceError};
pub use xenbus::XenbusState;
