//! S3: vfio's suspended virtual addresses and mediated devices.
//!
//! A program suspends the virtual address behind a device mapping, replaces itself (exec), and
//! registers an address again. Meanwhile a mediated device's driver may want to pin pages there.
//!
//! - `state`: what the model knows, and its laws.
//! - `actors`: who takes part.
//! - `variants`: which of them meet, and what must come of it.

mod state;

mod actors;

mod variants;

pub use variants::system;
