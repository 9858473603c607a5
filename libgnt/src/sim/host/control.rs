//! What others have of a running host: its counters, and the way to end it.

use mio::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of a running host, for tests and reports.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) requests: AtomicU64,
}

impl Stats {
    /// Requests that clients have made since the host started. An event or a copy on the data path adds none.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Ends a host's [`Host::run`](super::Host::run), from any thread or from a signal handler.
#[derive(Clone, Debug)]
pub struct StopHandle {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) waker: Arc<Waker>,
}

impl StopHandle {
    /// Asks the host to stop. One store and one `write`: safe in a signal handler.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // An eventfd whose counter is full is readable, which is all that is wanted.
        let _ = self.waker.wake();
    }
}
