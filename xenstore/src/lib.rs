//! A xenstore client, an embedded xenstore server, and the xenbus handshake.
//!
//! Each module uses only what is above it here:
//!
//! - the words: [`value`], [`perms`], [`wire`], [`error`], [`path`], [`domain`];
//! - `server` (feature `server`): a state machine without I/O, and its thread; nothing below uses it;
//! - the client: its end of the byte stream, [`client`] itself, and [`steady`] with [`keeper`], for an
//!   end that must not depend on xenstore's good days;
//! - [`xenbus`]: the handshake of both ends, without I/O, and the store's side of it;
//! - [`toolstack`]: creating and removing devices.

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

pub mod steady;

pub mod keeper;

pub mod xenbus;

pub mod toolstack;

pub use client::{Client, Transaction, WatchEvent};
pub use error::{DeviceTrouble, Error, Result};
pub use perms::{Permission, Rights};
#[cfg(feature = "server")]
pub use server::StoreSabotage;
#[cfg(feature = "server")]
pub use server::service::{ServerConfig, ServerHandle, ServiceError};
pub use xenbus::XenbusState;
