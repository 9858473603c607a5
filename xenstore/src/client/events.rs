//! Watch events on the client's side: bounded, equal ones merged.

use crate::error::{Error, Result};
use std::collections::{HashSet, VecDeque};

/// Different events that may wait.
pub const EVENTS_MAX: usize = 4096;

/// How the tokens of watches with a queue of their own begin.
pub(super) const ROUTED: &str = "pv-watch-";

/// Something at or below a watched path changed, or the watch was just registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchEvent {
    /// What changed; relative if the watch was registered with a relative path.
    pub path: String,
    /// The watch's token.
    pub token: String,
    /// The one event that each watch fires when it is registered, changed or not.
    pub first: bool,
}

impl WatchEvent {
    /// Takes an event's payload: path, token, each with a NUL. What a daemon of later days may add is
    /// left. `None` if it is none.
    pub(super) fn parse(payload: &[u8]) -> Option<WatchEvent> {
        let mut parts = payload.strip_suffix(b"\0")?.split(|b| *b == 0);
        let mut text = || parts.next().map(String::from_utf8_lossy);
        let (path, token) = (text()?, text()?);
        (!path.is_empty()).then(|| WatchEvent {
            path: path.into_owned(),
            token: token.into_owned(),
            first: false,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct EventQueue {
    events: VecDeque<WatchEvent>,
    waiting: HashSet<WatchEvent>,
    lost: bool,
}

impl EventQueue {
    pub(super) fn push(&mut self, event: WatchEvent) {
        if self.waiting.contains(&event) {
            return;
        }
        if self.events.len() >= EVENTS_MAX {
            self.lost = true;
            return;
        }
        self.waiting.insert(event.clone());
        self.events.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Result<Option<WatchEvent>> {
        match self.events.pop_front() {
            Some(event) => {
                self.waiting.remove(&event);
                Ok(Some(event))
            }
            None if std::mem::take(&mut self.lost) => Err(Error::EventsLost { limit: EVENTS_MAX }),
            None => Ok(None),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str) -> WatchEvent {
        WatchEvent::parse(format!("{path}\0t\0").as_bytes()).unwrap()
    }

    #[test]
    fn merges_bounds_and_says_when_events_are_lost() {
        let mut queue = EventQueue::default();
        for n in 0..EVENTS_MAX {
            queue.push(event(&format!("a/{n}")));
            queue.push(event("a/0"));
        }
        queue.push(event("one-too-many"));
        for n in 0..EVENTS_MAX {
            assert_eq!(queue.pop().unwrap().unwrap().path, format!("a/{n}"));
        }
        assert!(!queue.is_empty(), "the loss is still to be told");
        assert!(matches!(queue.pop(), Err(Error::EventsLost { .. })));
        assert!(matches!(queue.pop(), Ok(None)));
        queue.push(event("a/0"));
        assert!(queue.pop().unwrap().is_some());
    }

    #[test]
    fn a_change_is_not_merged_into_the_first_event() {
        let mut queue = EventQueue::default();
        let mut first = event("a");
        first.first = true;
        queue.push(first.clone());
        queue.push(event("a"));
        assert_eq!(queue.pop().unwrap(), Some(first));
        assert_eq!(queue.pop().unwrap(), Some(event("a")));
    }

    #[test]
    fn what_is_an_event() {
        for bad in [&b""[..], b"\0", b"a\0", b"a\0t", b"\0t\0"] {
            assert_eq!(WatchEvent::parse(bad), None, "{}", bad.escape_ascii());
        }
        let event = WatchEvent::parse(b"a\0\0more\0").unwrap();
        assert_eq!((&event.path[..], &event.token[..]), ("a", ""));
    }
}
