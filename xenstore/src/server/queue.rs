//! What waits to be sent on one connection, bounded (XSA-349, XSA-326).
//!
//! Replies are bounded by not reading more requests ([`OutQueue::is_congested`]). Watch events
//! come from others' work, so equal ones are merged, and a client that takes none of many different
//! ones for long is cut. Their number alone says nothing about the client: one commit of another's
//! makes as many as it likes, at once.

use crate::wire::{HEADER_BYTES, Packet};
use libgnt::machine::Now;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
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

/// An event of which no byte has gone.
#[derive(Debug)]
struct Event {
    /// Where it begins, in bytes since the connection's first.
    at: u64,
    bytes: usize,
    hash: u64,
}

/// The queue: one run of bytes, and where in it there is what.
#[derive(Debug)]
pub struct OutQueue {
    limits: QueueLimits,
    bytes: Vec<u8>,
    /// Bytes of `bytes` that have gone.
    gone: usize,
    /// All bytes that have gone since the connection's first.
    all_gone: u64,
    events: VecDeque<Event>,
    /// Bytes of `events`.
    event_bytes: usize,
    /// Where each of `events` is, by its bytes' hash. Of two with one hash the first.
    by_hash: HashMap<u64, u64>,
    hashes: RandomState,
    /// Where replies end that have not gone whole.
    replies: VecDeque<u64>,
    /// The first event that came after the client last took something.
    quiet_since: Option<Now>,
}

/// What an empty queue keeps for the next messages.
const KEPT_BYTES: usize = 16 << 10;

impl OutQueue {
    /// An empty one.
    pub fn new(limits: QueueLimits) -> OutQueue {
        OutQueue {
            limits,
            bytes: Vec::new(),
            gone: 0,
            all_gone: 0,
            events: VecDeque::new(),
            event_bytes: 0,
            by_hash: HashMap::new(),
            hashes: RandomState::new(),
            replies: VecDeque::new(),
            quiet_since: None,
        }
    }

    /// Adds a reply.
    pub fn push_reply(&mut self, packet: &Packet) {
        append(&mut self.bytes, packet);
        self.replies.push_back(self.end());
    }

    /// Adds an event, or merges it with an equal one that waits, unless it is of a special watch.
    ///
    /// Merging loses nothing: who handles the waiting event reads the store after it, and so
    /// after this change too.
    ///
    /// # Errors
    /// [`TooManyEvents`]: cut the connection.
    pub fn push_event(&mut self, packet: &Packet, now: Now) -> Result<(), TooManyEvents> {
        let hash = self.hashes.hash_one(&packet.payload);
        let is_merged = packet.payload.first() != Some(&b'@');
        if is_merged
            && self
                .by_hash
                .get(&hash)
                .is_some_and(|at| self.is_at(*at, packet))
        {
            return Ok(());
        }
        let since = *self.quiet_since.get_or_insert(now);
        let is_quiet = now.saturating_sub(since) >= self.limits.quiet;
        let bytes = HEADER_BYTES + packet.payload.len();
        if self.events.len() >= self.limits.events && is_quiet
            || self.event_bytes + bytes > self.limits.event_bytes
        {
            return Err(TooManyEvents {
                events: self.events.len(),
                bytes: self.event_bytes,
            });
        }
        let at = self.end();
        append(&mut self.bytes, packet);
        self.event_bytes += bytes;
        self.events.push_back(Event { at, bytes, hash });
        if is_merged {
            self.by_hash.entry(hash).or_insert(at);
        }
        Ok(())
    }

    fn end(&self) -> u64 {
        self.all_gone + (self.bytes.len() - self.gone) as u64
    }

    /// Are the packet's bytes those at this place?
    fn is_at(&self, at: u64, packet: &Packet) -> bool {
        let start = self.gone + at.saturating_sub(self.all_gone) as usize + HEADER_BYTES;
        let there = self.bytes.get(start..start + packet.payload.len());
        there == Some(&packet.payload) && self.kind_and_length_at(start, packet)
    }

    fn kind_and_length_at(&self, payload: usize, packet: &Packet) -> bool {
        let header = &self.bytes[payload - HEADER_BYTES..payload];
        header[..4] == packet.kind.to_ne_bytes()
            && header[12..] == (packet.payload.len() as u32).to_ne_bytes()
    }

    /// Should no more requests be read for now?
    pub fn is_congested(&self) -> bool {
        self.bytes.len() - self.gone > self.limits.congested_bytes
    }

    /// Replies that have not gone whole.
    pub fn replies(&self) -> usize {
        self.replies.len()
    }

    /// Nothing to send?
    pub fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    /// The next bytes to send.
    pub fn front(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// So many bytes of [`OutQueue::front`] have gone.
    pub fn advance(&mut self, gone: usize) {
        let gone = gone.min(self.bytes.len() - self.gone);
        if gone > 0 {
            self.quiet_since = None;
        }
        self.gone += gone;
        self.all_gone += gone as u64;
        while let Some(event) = self.events.front().filter(|event| event.at < self.all_gone) {
            self.event_bytes -= event.bytes;
            if self.by_hash.get(&event.hash) == Some(&event.at) {
                self.by_hash.remove(&event.hash);
            }
            self.events.pop_front();
        }
        while self
            .replies
            .front()
            .is_some_and(|end| *end <= self.all_gone)
        {
            self.replies.pop_front();
        }
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
            self.gone = 0;
        } else if self.gone > self.bytes.len() / 2 {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
    }
}

fn append(bytes: &mut Vec<u8>, packet: &Packet) {
    let words = [
        packet.kind,
        packet.req_id,
        packet.tx_id,
        packet.payload.len() as u32,
    ];
    bytes.reserve(HEADER_BYTES + packet.payload.len());
    for word in words {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&packet.payload);
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
        assert_eq!(queue.events.len(), 1);
        queue.advance(1);
        queue.push_event(&event(1), now).unwrap();
        let twice = [event(1).encode(), event(1).encode()].concat();
        assert_eq!(
            queue.front(),
            &twice[1..],
            "the first is on its way: the reader may have read the store"
        );
        queue.advance(event(1).encode().len() - 1);
        assert_eq!(queue.front(), event(1).encode());
        queue.advance(queue.front().len());
        assert!(queue.is_empty() && queue.by_hash.is_empty());
        assert_eq!((queue.bytes.len(), queue.event_bytes), (0, 0));
    }

    #[test]
    fn events_of_special_watches_all_come() {
        let mut queue = queue();
        let released = Packet::watch_event(b"@releaseDomain", b"t");
        for _ in 0..3 {
            queue.push_event(&released, Now::ZERO).unwrap();
        }
        assert_eq!(queue.front().len(), 3 * released.encode().len());
    }

    /// Against the plainest model: a list of messages.
    #[test]
    fn all_comes_in_order_however_it_is_taken() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut queue = OutQueue::new(QueueLimits::default());
            let (mut waiting, mut sent) = (VecDeque::new(), 0);
            for n in 0..2000 {
                let packet = match rng.bool() {
                    true => event(rng.usize(0..20)),
                    false => Packet::new(Kind::Read, n, 0, vec![b'x'; rng.usize(0..50)]),
                };
                let bytes = packet.encode();
                if packet.known_kind() == Some(Kind::Read) {
                    queue.push_reply(&packet);
                    waiting.push_back(bytes);
                } else {
                    queue.push_event(&packet, Now::ZERO).unwrap();
                    let untouched = waiting.iter().skip(usize::from(sent > 0));
                    if !untouched.clone().any(|other| *other == bytes) {
                        waiting.push_back(bytes);
                    }
                }
                let mut take = rng.usize(0..80).min(queue.front().len());
                let all: Vec<u8> = waiting.iter().flatten().copied().skip(sent).collect();
                assert_eq!(queue.front(), all, "seed {seed}");
                queue.advance(take);
                while take > 0 {
                    let rest = waiting[0].len() - sent;
                    let taken = take.min(rest);
                    (take, sent) = (take - taken, sent + taken);
                    if sent == waiting[0].len() {
                        waiting.pop_front();
                        sent = 0;
                    }
                }
                let is_reply = |bytes: &&Vec<u8>| bytes[0] == Kind::Read as u8;
                assert_eq!(queue.replies(), waiting.iter().filter(is_reply).count());
            }
        }
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
        queue.advance(event(0).encode().len());
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
        assert!(queue.event_bytes <= queue.limits.event_bytes);
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
