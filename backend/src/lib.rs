//! A Xen block back end in userspace.
//!
//! Layers, each using only what is above it: [`agent`], the protocol as a state machine without
//! I/O; [`disk`], what the sectors are kept on; [`hooks`], for programs that embed the back end;
//! [`driver`], the event loop that performs the agent's actions; [`cli`], the command line.

pub mod agent;
pub mod cli;
pub mod disk;
pub mod driver;
pub mod hooks;
