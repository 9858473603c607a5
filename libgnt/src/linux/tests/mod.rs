//! The real platform without Xen: a kernel that follows a script, and plain files and pipes.
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod calls;
mod fake;
mod nodes;
mod ports;
