//! The platform traits as calls to the simulated Xen's host.
//!
//! Control goes through the host: opening, granting, mapping, binding. Data does not: memory is
//! mapped from the host's memfds, an event is a bit in the receiver's page and a write to its
//! eventfd, and a grant copy goes through a page that was mapped once.
//!
//! Each part uses only what is above it here:
//!
//! - `names`: what errors call the simulated devices. `answer`: a reply, and the descriptors with it.
//! - `mappings`: what this process has mapped, and where.
//! - `connection`: requests to the host, and what the process knows of its own.
//! - `mmap`: maps what the host gives, and tells it when that is unmapped.
//! - `copy`: grant copy. `gntdev`, `gntalloc`, `evtchn`: a device each.
//! - `platform`: [`SimPlatform`], which opens them. `holds`: what it lets others hold. `changes`: what
//!   a process did to a mapping by itself.

mod answer;
mod changes;
mod connection;
mod copy;
mod evtchn;
mod gntalloc;
mod gntdev;
mod holds;
mod mappings;
mod mmap;
mod names;
mod platform;

pub use platform::{SimPlatform, connect, join};
