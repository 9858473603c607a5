//! What an end of a protocol does, told as it happens to somebody who judges it from outside.

use crate::machine::{Now, monotonic};
use std::fmt;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Happened<K> {
    /// `CLOCK_MONOTONIC`: comparable between the processes of one machine.
    pub at: Now,
    /// What.
    pub kind: K,
}

/// Gets every event, in order, on the thread of the end that it watches: be quick.
pub trait Observer<K>: Send {
    /// One event.
    fn event(&mut self, event: Happened<K>);

    /// False: only events that happen once in a connection are wanted, and none of those that each
    /// request has. Asked once.
    fn each_request(&self) -> bool {
        true
    }
}

impl<K, F: FnMut(Happened<K>) + Send> Observer<K> for F {
    fn event(&mut self, event: Happened<K>) {
        self(event);
    }
}

impl<K> fmt::Debug for dyn Observer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// Tells an observer, if there is one.
#[derive(Debug)]
pub struct Tell<K> {
    observer: Option<Box<dyn Observer<K>>>,
    each_request: bool,
}

impl<K> Tell<K> {
    /// Asks the observer, here and never again, whether it wants to hear of each request.
    pub fn new(observer: Option<Box<dyn Observer<K>>>) -> Self {
        let each_request = observer.as_ref().is_some_and(|o| o.each_request());
        Tell {
            observer,
            each_request,
        }
    }

    /// Does anybody want to hear of each request?
    pub fn is_each_wanted(&self) -> bool {
        self.each_request
    }

    /// Tells what happens once in a connection. `kind` is built only if somebody listens.
    pub fn tell(&mut self, kind: impl FnOnce() -> K) {
        if let Some(observer) = &mut self.observer {
            observer.event(Happened {
                at: monotonic(),
                kind: kind(),
            });
        }
    }

    /// The same for what happens once in a request.
    #[inline]
    pub fn tell_each(&mut self, kind: impl FnOnce() -> K) {
        if self.each_request {
            self.tell(kind);
        }
    }
}
