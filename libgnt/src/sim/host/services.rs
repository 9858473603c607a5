//! What a host calls outside of this crate.

use crate::inspect::Deadlock;
use crate::types::DomId;
use std::os::unix::net::UnixStream;

/// What stands beside the hypervisor on dom0, outside this crate: xenstore, and who reads the log.
/// Called on the host's thread, so it must not block.
pub trait Services: Send {
    /// A process of this domain opened xenstore; the other end of the stream is its.
    fn xenstore_connection(&mut self, domid: DomId, stream: UnixStream) {
        let _ = (domid, stream);
    }
    /// A domain began (`@introduceDomain`).
    fn domain_created(&mut self, domid: DomId, name: &str) {
        let _ = (domid, name);
    }
    /// A domain ended (`@releaseDomain`).
    fn domain_released(&mut self, domid: DomId) {
        let _ = domid;
    }
    /// A wait-for cycle was found, and broken.
    fn deadlock(&mut self, deadlock: &Deadlock) {
        let _ = deadlock;
    }
    /// A line that a kernel or hypervisor would print.
    fn log(&mut self, line: &str) {
        tracing::info!(target: "sim", "{line}");
    }
}

/// No xenstore (its streams end at once); the log goes to `tracing`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl Services for NoServices {}
