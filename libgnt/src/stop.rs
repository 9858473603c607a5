//! A request to end, asked from anywhere and heard by every thread that waits with mio.
//!
//! ```
//! use libgnt::stop::Stop;
//! use mio::{Events, Poll, Token, Waker};
//! use std::{sync::Arc, thread, time::Duration};
//!
//! # fn main() -> std::io::Result<()> {
//! let stop = Stop::new();
//! let mut poll = Poll::new()?;
//! let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
//! stop.wakes(&waker);
//! let asks = stop.clone();
//! let other = thread::spawn(move || asks.ask());
//! let mut events = Events::with_capacity(1);
//! while !stop.is_asked() {
//!     poll.poll(&mut events, Some(Duration::from_secs(10)))?;
//! }
//! # other.join().ok();
//! # Ok(())
//! # }
//! ```

use mio::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// Asks whatever was opened with it to end: one front end or back end, or many. Each end says in
/// its own documentation what it does then. Clones ask the same ends. It cannot be taken back.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    /// What a close that begins from then on may take, at most.
    limit: OnceLock<Duration>,
    /// The threads that may sleep. No more than there are ends: those that are gone are removed.
    sleepers: Mutex<Vec<Weak<Waker>>>,
}

impl Stop {
    /// A request that nobody has made yet.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Makes the request. From any thread, but not from a signal handler, because it takes a lock.
    pub fn ask(&self) {
        // Partner: the load in `is_asked`, after the wake-up.
        self.0.asked.store(true, Ordering::Release);
        let sleepers = self.0.sleepers.lock();
        for waker in sleepers.unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(waker) = waker.upgrade()
                && let Err(error) = waker.wake()
            {
                tracing::warn!(%error, "cannot wake a thread to stop it");
            }
        }
    }

    /// Makes the request, and limits how long a close may take that begins from then on, whatever
    /// the end was configured with. If it is called more than once, the first limit counts.
    pub fn ask_within(&self, limit: Duration) {
        // As with the request itself, the first word counts.
        let _ = self.0.limit.set(limit);
        self.ask();
    }

    /// How long a close may take that was configured to take `time`: the smaller of `time` and the
    /// limit of [`Stop::ask_within`].
    pub fn at_most(&self, time: Duration) -> Duration {
        self.0.limit.get().map_or(time, |limit| time.min(*limit))
    }

    /// True once the request was made.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Has `waker` woken when the request is made. A request that was made before wakes nobody: the
    /// caller looks at [`Stop::is_asked`] after this call and before each sleep.
    pub fn wakes(&self, waker: &Arc<Waker>) {
        let sleepers = self.0.sleepers.lock();
        let mut sleepers = sleepers.unwrap_or_else(PoisonError::into_inner);
        sleepers.retain(|waker| waker.strong_count() > 0);
        sleepers.push(Arc::downgrade(waker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};

    #[test]
    fn every_sleeper_wakes_and_the_first_limit_counts() {
        let stop = Stop::new();
        let mut polls = [(); 2].map(|()| Poll::new().expect("epoll"));
        let wakers = polls.each_ref().map(|poll| {
            let waker = Waker::new(poll.registry(), Token(0)).expect("eventfd");
            let waker = Arc::new(waker);
            stop.wakes(&waker);
            waker
        });
        assert!(!stop.is_asked());
        let long = Duration::from_secs(9);
        assert_eq!(stop.at_most(long), long);
        let asks = stop.clone();
        asks.ask_within(Duration::from_secs(2));
        asks.ask_within(Duration::from_secs(5));
        assert!(stop.is_asked());
        assert_eq!(stop.at_most(long), Duration::from_secs(2));
        let short = Duration::from_secs(1);
        assert_eq!(stop.at_most(short), short);
        let mut events = Events::with_capacity(1);
        for poll in &mut polls {
            poll.poll(&mut events, Some(long)).expect("epoll_wait");
            assert!(!events.is_empty(), "it was woken");
        }
        drop(wakers);
        stop.ask();
    }
}
