//! A Xen block front end in userspace.

pub mod agent;
mod config;
mod counters;
mod datapath;
mod io;
mod live;
mod observe;
mod pool;

pub use config::{DeviceId, FrontConfig};
pub use counters::Counters;
pub use io::{Completion, Io, Refused};
pub use observe::{FrontEvent, FrontEventKind, Observer};
