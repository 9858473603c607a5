//! A Xen block front end in userspace.
//!
//! [`agent`] is the protocol, a state machine without I/O.

pub mod agent;
