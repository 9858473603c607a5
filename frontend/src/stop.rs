//! A request to end, from anywhere.

use mio::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// Asks front ends to end: an open gives up, every pending I/O ends with an error, and a
/// [`Disk`](crate::Disk) closes by itself; a [`Frontend`](crate::Frontend) is to be closed. Clones
/// ask the same front ends.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    /// What a close may take that begins from then on, at most.
    limit: OnceLock<Duration>,
    /// The front ends' threads, which may sleep.
    sleepers: Mutex<Vec<Weak<Waker>>>,
}

impl Stop {
    /// Nothing is asked yet.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Asks, for good. From any thread, but not from a signal handler: it takes a lock.
    pub fn ask(&self) {
        self.0.asked.store(true, Ordering::Release);
        let sleepers = self.0.sleepers.lock();
        for waker in sleepers.unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(waker) = waker.upgrade()
                && let Err(error) = waker.wake()
            {
                tracing::warn!(%error, "wake the front end");
            }
        }
    }

    /// The same; and a close takes so long at most, whatever the front ends were configured with.
    pub fn ask_within(&self, time: Duration) {
        // The first word counts, as with the question itself.
        let _ = self.0.limit.set(time);
        self.ask();
    }

    /// A close's time, within that limit.
    pub(crate) fn at_most(&self, time: Duration) -> Duration {
        self.0.limit.get().map_or(time, |limit| time.min(*limit))
    }

    /// Was it asked?
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Has `waker` woken when it is asked; the caller looks at [`Stop::is_asked`] before it sleeps.
    pub(crate) fn wakes(&self, waker: &Arc<Waker>) {
        let sleepers = self.0.sleepers.lock();
        let mut sleepers = sleepers.unwrap_or_else(PoisonError::into_inner);
        sleepers.retain(|waker| waker.strong_count() > 0);
        sleepers.push(Arc::downgrade(waker));
    }
}
