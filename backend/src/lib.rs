//! A Xen block back end in userspace.
//!
//! Layers, each using only what is above it: [`agent`], the protocol as a state machine without
//! I/O; [`disk`], what the sectors are kept on.

pub mod agent;
pub mod disk;
