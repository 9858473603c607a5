//! A simulated Xen: a host process that agent processes join as domains over a Unix socket.
//!
//! Grants, event channels, the memory manager's references and xenstore behave as the real ones
//! do; memory is memfd pages that processes really share. Each part uses only what is above it here:
//!
//! - [`wire`]: what a client and the host say to each other; [`frame`]: how it travels on the socket.
//! - [`core`]: the state machine: input in, actions out, no I/O.
//! - `memory`: memfds, and this process's limits. [`events`] and [`hazard`]: pages that processes share, below.
//! - [`host`]: sockets, timers and memory around the core.
//! - [`client`]: the platform traits, as calls to the host.
//!
//! The data path does not pass through the host: events are bits in a shared page and an
//! eventfd ([`events`]); grant copies go through pages that the copier has cached, guarded by
//! hazard slots ([`hazard`]).

pub mod client;
pub mod core;
pub mod events;
pub mod frame;
pub mod hazard;
pub mod host;
mod memory;
pub mod wire;
