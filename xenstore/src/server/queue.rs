//! What waits to be sent on one connection, bounded (XSA-349, XSA-326).
//!
//! Replies are bounded by not reading more requests ([`OutQueue::is_congested`]). Watch events
//! come from others' work, so equal ones are merged, and a client that takes none of many different
//! ones for long is cut. Their number alone says nothing about the client: one commit of another's
//! makes as many as it likes, at once.

use crate::wire::Packet;
use libgnt::machine::Now;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLimits {
    /// Different watch events that may wait for a client that takes nothing.
    pub events: usize,
    /// How long it may take nothing while more than those wait. xenstored waits as long for a client
    /// to take an event (`timeout_watch_event_msec`, `tools/xenstored/core.c`, Xen 4.17 on).
    pub quiet: Duration,
    /// Bytes of watch events that may wait in any case. Twice as many are kept.
    pub event_bytes: usize,
    /// Bytes above which no more requests are read.
    pub congested_bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits {
            events: 1024,
            quiet: Duration::from_secs(20),
            event_bytes: 16 << 20,
            congested_bytes: 64 << 10,
        }
    }
}

/// The client lets too many events wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{events} different watch events of {bytes} bytes wait unread")]
pub struct TooManyEvents {
    /// How many.
    pub events: usize,
    /// How long they are together.
    pub bytes: usize,
}

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
    /// Bytes of `waiting`.
    waiting_bytes: usize,
    /// The first event that came after the client last took something.
    quiet_since: Option<Now>,
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
            waiting_bytes: 0,
            quiet_since: None,
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
    pub fn push_event(&mut self, packet: &Packet, now: Now) -> Result<(), TooManyEvents> {
        let bytes = packet.encode();
        if self.waiting.contains(&bytes) {
            return Ok(());
        }
        let since = *self.quiet_since.get_or_insert(now);
        let is_quiet = now.saturating_sub(since) >= self.limits.quiet;
        let (events, waiting_bytes) = (self.waiting.len(), self.waiting_bytes + bytes.len());
        if events >= self.limits.events && is_quiet || waiting_bytes > self.limits.event_bytes {
            return Err(TooManyEvents {
                events,
                bytes: self.waiting_bytes,
            });
        }
        self.waiting_bytes = waiting_bytes;
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
        if gone > 0 {
            self.quiet_since = None;
        }
        if self.sent == 0 && gone > 0 && first.event && self.waiting.remove(&first.bytes) {
            self.waiting_bytes -= first.bytes.len();
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
            quiet: Duration::from_secs(20),
            event_bytes: 100 * event(1).encode().len(),
            congested_bytes: 100,
        })
    }

    #[test]
    fn equal_events_are_merged_only_while_none_of_their_bytes_has_gone() {
        let mut queue = queue();
        let now = Now::from_secs(1);
        for _ in 0..10 {
            queue.push_event(&event(1), now).unwrap();
        }
        assert_eq!(queue.items.len(), 1);
        queue.advance(1);
        queue.push_event(&event(1), now).unwrap();
        assert_eq!(
            queue.items.len(),
            2,
            "the first is on its way: the reader may have read the store"
        );
        assert_eq!(queue.front(), &event(1).encode()[1..]);
        queue.advance(queue.front().len());
        assert_eq!(queue.front(), event(1).encode());
        queue.advance(queue.front().len());
        assert!(queue.is_empty() && queue.waiting.is_empty());
        assert_eq!((queue.bytes, queue.waiting_bytes), (0, 0));
    }

    #[test]
    fn a_client_is_cut_for_being_quiet_not_for_what_others_do_at_once() {
        let mut queue = queue();
        let start = Now::from_secs(1);
        let at = |seconds| start + Duration::from_secs(seconds);
        for n in 0..50 {
            queue.push_event(&event(10 + n), start).unwrap();
        }
        queue.push_event(&event(60), at(19)).expect("in time");
        // One byte is a sign of life.
        queue.advance(1);
        queue.push_event(&event(61), at(30)).expect("it reads");
        queue.push_event(&event(62), at(49)).expect("in time");
        let cut = queue.push_event(&event(63), at(50)).unwrap_err();
        assert_eq!(cut.events, 52);
        queue
            .push_event(&event(62), at(50))
            .expect("an equal one still merges");
    }

    #[test]
    fn few_events_may_wait_for_ever() {
        let mut queue = queue();
        let start = Now::from_secs(1);
        for n in 0..3 {
            queue.push_event(&event(n), start).unwrap();
        }
        let later = start + Duration::from_secs(1000);
        queue.advance(queue.front().len());
        queue.push_event(&event(4), later).unwrap();
        queue
            .push_event(&event(2), later + Duration::from_secs(1000))
            .unwrap();
    }

    #[test]
    fn the_bytes_of_events_are_bounded_however_fast_they_come() {
        let mut queue = queue();
        let now = Now::from_secs(1);
        let long = |n: u8| Packet::watch_event(&[b'/', n], b"t");
        let pushed = (0..=255).take_while(|n| queue.push_event(&long(*n), now).is_ok());
        assert!((100..200).contains(&pushed.count()));
        assert!(queue.waiting_bytes <= queue.limits.event_bytes);
        while !queue.is_empty() {
            queue.advance(queue.front().len());
        }
        queue
            .push_event(&long(255), now)
            .expect("there is room again");
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
