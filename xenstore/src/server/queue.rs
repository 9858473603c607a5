//! What waits to be sent on one connection, bounded (XSA-349, XSA-326).
//!
//! Replies are bounded by not reading more requests ([`OutQueue::is_congested`]). Watch events
//! come from others' work, so equal ones are merged, and a client that lets too many different
//! ones wait is cut.

use crate::wire::Packet;
use std::collections::{HashSet, VecDeque};

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Watch events that may wait.
    pub events: usize,
    /// Bytes above which no more requests are read.
    pub congested_bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits {
            events: 1024,
            congested_bytes: 64 << 10,
        }
    }
}

/// The client lets too many events wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} different watch events wait unread")]
pub struct TooManyEvents(pub usize);

#[derive(Debug)]
struct Item {
    bytes: Vec<u8>,
    event: bool,
}

/// The queue.
#[derive(Debug)]
pub struct OutQueue {
    limits: QueueLimits,
    items: VecDeque<Item>,
    /// Events of `items` of which no byte has gone.
    waiting: HashSet<Vec<u8>>,
    bytes: usize,
    /// Bytes of the first item that have gone.
    sent: usize,
}

impl OutQueue {
    /// An empty one.
    pub fn new(limits: QueueLimits) -> OutQueue {
        OutQueue {
            limits,
            items: VecDeque::new(),
            waiting: HashSet::new(),
            bytes: 0,
            sent: 0,
        }
    }

    /// Adds a reply.
    pub fn push_reply(&mut self, packet: &Packet) {
        self.push(Item {
            bytes: packet.encode(),
            event: false,
        });
    }

    /// Adds an event, or merges it with an equal one that waits.
    ///
    /// Merging loses nothing: who handles the waiting event reads the store after it, and so
    /// after this change too.
    ///
    /// # Errors
    /// [`TooManyEvents`]: cut the connection.
    pub fn push_event(&mut self, packet: &Packet) -> Result<(), TooManyEvents> {
        let bytes = packet.encode();
        if self.waiting.contains(&bytes) {
            return Ok(());
        }
        if self.waiting.len() >= self.limits.events {
            return Err(TooManyEvents(self.waiting.len()));
        }
        self.waiting.insert(bytes.clone());
        self.push(Item { bytes, event: true });
        Ok(())
    }

    /// Should no more requests be read for now?
    pub fn is_congested(&self) -> bool {
        self.bytes > self.limits.congested_bytes
    }

    /// Nothing to send?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next bytes to send.
    pub fn front(&self) -> &[u8] {
        self.items
            .front()
            .map_or(&[], |item| &item.bytes[self.sent..])
    }

    /// So many bytes of [`OutQueue::front`] have gone.
    pub fn advance(&mut self, gone: usize) {
        let Some(first) = self.items.front() else {
            return;
        };
        if self.sent == 0 && gone > 0 && first.event {
            self.waiting.remove(&first.bytes);
        }
        self.sent += gone;
        self.bytes = self.bytes.saturating_sub(gone);
        if self.sent >= first.bytes.len() {
            self.items.pop_front();
            self.sent = 0;
        }
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.bytes.len();
        self.items.push_back(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Kind;

    fn event(n: usize) -> Packet {
        Packet::watch_event(format!("/a/{n}").as_bytes(), b"t")
    }

    fn queue() -> OutQueue {
        OutQueue::new(QueueLimits {
            events: 3,
            congested_bytes: 100,
        })
    }

    #[test]
    fn equal_events_are_merged_only_while_none_of_their_bytes_has_gone() {
        let mut queue = queue();
        for _ in 0..10 {
            queue.push_event(&event(1)).unwrap();
        }
        assert_eq!(queue.items.len(), 1);
        queue.advance(1);
        queue.push_event(&event(1)).unwrap();
        assert_eq!(
            queue.items.len(),
            2,
            "the first is on its way: the reader may have read the store"
        );
        assert_eq!(queue.front(), &event(1).encode()[1..]);
        queue.advance(queue.front().len());
        assert_eq!(queue.front(), event(1).encode());
        queue.advance(queue.front().len());
        assert!(queue.is_empty() && queue.waiting.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn different_events_are_bounded() {
        let mut queue = queue();
        for n in 0..3 {
            queue.push_event(&event(n)).unwrap();
        }
        assert_eq!(queue.push_event(&event(3)), Err(TooManyEvents(3)));
        queue
            .push_event(&event(2))
            .expect("an equal one still merges");
    }

    #[test]
    fn replies_congest() {
        let mut queue = queue();
        queue.push_reply(&Packet::new(Kind::Read, 1, 0, vec![0; 80]));
        assert!(!queue.is_congested());
        queue.push_reply(&Packet::new(Kind::Read, 2, 0, vec![0; 80]));
        assert!(queue.is_congested());
        queue.advance(96);
        assert!(!queue.is_congested());
    }
}
