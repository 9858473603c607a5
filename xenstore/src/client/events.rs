//! Watch events on the client's side: bounded, equal ones merged.

use crate::error::{Error, Result};
use std::collections::{HashSet, VecDeque};

/// Different events that may wait.
pub const EVENTS_MAX: usize = 4096;

/// Something at or below a watched path changed, or the watch was just registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchEvent {
    /// What changed; relative if the watch was registered with a relative path.
    pub path: String,
    /// The watch's token.
    pub token: String,
}

#[derive(Debug, Default)]
pub(super) struct EventQueue {
    events: VecDeque<WatchEvent>,
    waiting: HashSet<WatchEvent>,
    lost: bool,
}

impl EventQueue {
    /// Takes an event's payload: path, token, each with a NUL.
    pub(super) fn push(&mut self, payload: &[u8]) {
        let mut parts = payload.split(|b| *b == 0);
        let mut text = || {
            parts
                .next()
                .map(|part| String::from_utf8_lossy(part).into_owned())
        };
        let (Some(path), Some(token)) = (text(), text()) else {
            tracing::warn!(payload = %payload.escape_ascii(), "malformed watch event dropped");
            return;
        };
        let event = WatchEvent { path, token };
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

    /// Takes all events of a token out; true if there were any, or if some are lost: they may have
    /// been this token's.
    pub(super) fn remove(&mut self, token: &str) -> bool {
        let before = self.events.len();
        self.events.retain(|event| event.token != token);
        self.waiting.retain(|event| event.token != token);
        self.events.len() < before || self.lost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_bounds_and_says_when_events_are_lost() {
        let mut queue = EventQueue::default();
        for n in 0..EVENTS_MAX {
            queue.push(format!("a/{n}\0t\0").as_bytes());
            queue.push(b"a/0\0t\0");
        }
        queue.push(b"one-too-many\0t\0");
        for n in 0..EVENTS_MAX {
            assert_eq!(queue.pop().unwrap().unwrap().path, format!("a/{n}"));
        }
        assert!(!queue.is_empty(), "the loss is still to be told");
        assert!(matches!(queue.pop(), Err(Error::EventsLost { .. })));
        assert!(matches!(queue.pop(), Ok(None)));
        queue.push(b"a/0\0t\0");
        assert!(queue.pop().unwrap().is_some());
    }
}
