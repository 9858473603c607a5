//! The client's side of the protocol, without I/O: requests go out with ids of their own, as many at once
//! as the limit allows; answers are matched by id, in whatever order they come; events are apart.
//!
//! oxenstored answers DIRECTORY with the whole list, however long, where others say E2BIG: to a DIRECTORY that
//! was asked, such an answer is taken up to [`DIRECTORY_MAX_BYTES`].
//!
//! A stream that says something impossible (a message that is too long, an answer that nobody asked for
//! or of another kind, an event that is none) is of no more use: every request that has no answer yet is
//! answered with the cause, and the connection is over.

use super::events::WatchEvent;
use crate::wire::{Decoder, Kind, PAYLOAD_MAX_BYTES, Packet};
use libgnt::machine::{Machine, Now};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};

/// Requests that may be in flight on one connection, those among them that nobody waits for any more.
pub const IN_FLIGHT_MAX: usize = 1024;

/// No directory is longer, however it comes: a hostile daemon's would have no end.
pub const DIRECTORY_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What can happen to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody asks something.
    Ask {
        /// [`Protocol::next_id`].
        id: u32,
        /// What is asked.
        kind: Kind,
        /// The transaction, or 0.
        tx_id: u32,
        /// At most as long as the transport takes.
        payload: Vec<u8>,
    },
    /// Nobody waits for this answer any more. The request may be answered all the same.
    Forget(u32),
    /// The kernel refused to send this request.
    Refused(u32, Errno),
    /// The server sent bytes.
    Received(Vec<u8>),
    /// The stream has come to its end, and why.
    Ended(String),
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this message, after all earlier ones.
    Send {
        /// Whose it is.
        id: u32,
        /// Header and payload.
        message: Vec<u8>,
    },
    /// This is what became of a request. Each that is not forgotten has exactly one.
    Answer {
        /// Whose it is.
        id: u32,
        /// What it is.
        answer: Answer,
    },
    /// A watch fired.
    Event(WatchEvent),
    /// Close the stream: nothing will come of it any more.
    End(String),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done; the payload.
    Done(Vec<u8>),
    /// The server refused; an errno's name.
    Refused(Vec<u8>),
    /// The kernel refused.
    Errno(Errno),
    /// The server's answer was impossible.
    Nonsense(String),
    /// The connection ended before it.
    Lost(String),
    /// [`IN_FLIGHT_MAX`] others are before it, and it was not sent.
    Busy,
}

/// A request without an answer.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    wanted: bool,
    /// Path and token of a WATCH that registers something new, or of an UNWATCH.
    watch: Option<(String, String)>,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Protocol {
    decoder: Decoder,
    asked: HashMap<u32, Asked>,
    /// Watches whose first event is still to come: no more than the caller has registered.
    fresh: HashSet<(String, String)>,
    last_id: u32,
    over: Option<String>,
}

impl Protocol {
    /// An id that no request in flight has.
    pub fn next_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if !self.asked.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Requests without an answer.
    pub fn in_flight(&self) -> usize {
        self.asked.len()
    }

    /// Why the connection is of no more use.
    pub fn over(&self) -> Option<&str> {
        self.over.as_deref()
    }

    fn ask(&mut self, packet: &Packet, kind: Kind, actions: &mut Vec<Action>) {
        let id = packet.req_id;
        let refused = match &self.over {
            Some(cause) => Some(Answer::Lost(cause.clone())),
            None if self.asked.len() >= IN_FLIGHT_MAX => Some(Answer::Busy),
            None => None,
        };
        if let Some(answer) = refused {
            actions.push(Action::Answer { id, answer });
            return;
        }
        let watch = match kind {
            // Its event may come before its answer, on `/dev/xen/xenbus`.
            Kind::Watch => pair(&packet.payload).filter(|pair| self.fresh.insert(pair.clone())),
            Kind::Unwatch => pair(&packet.payload),
            _ => None,
        };
        let asked = Asked {
            kind,
            wanted: true,
            watch,
        };
        self.asked.insert(id, asked);
        let message = packet.encode();
        actions.push(Action::Send { id, message });
    }

    fn received(&mut self, bytes: &[u8], actions: &mut Vec<Action>) {
        self.decoder.push(bytes);
        loop {
            let asked = &self.asked;
            let limit = |kind, id: u32| match asked.get(&id) {
                Some(asked) if kind == Kind::Directory as u32 && asked.kind == Kind::Directory => {
                    DIRECTORY_MAX_BYTES
                }
                _ => PAYLOAD_MAX_BYTES,
            };
            let packet = match self.decoder.next_packet_within(limit) {
                Ok(Some(packet)) => packet,
                Ok(None) => return,
                Err(error) => return self.end(format!("malformed message: {error}"), actions),
            };
            let taken = if packet.known_kind() == Some(Kind::WatchEvent) {
                self.event(&packet, actions)
            } else {
                self.answer(packet, actions)
            };
            if let Err(cause) = taken {
                return self.end(cause, actions);
            }
        }
    }

    fn event(&mut self, packet: &Packet, actions: &mut Vec<Action>) -> Result<(), String> {
        let Some(mut event) = WatchEvent::parse(&packet.payload) else {
            let payload = packet.payload.escape_ascii();
            return Err(format!("a watch event that is none: \"{payload}\""));
        };
        if !self.fresh.is_empty() {
            let pair = (event.path, event.token);
            let first = self.fresh.remove(&pair);
            let (path, token) = pair;
            event = WatchEvent { path, token, first };
        }
        actions.push(Action::Event(event));
        Ok(())
    }

    fn answer(&mut self, packet: Packet, actions: &mut Vec<Action>) -> Result<(), String> {
        let id = packet.req_id;
        let Some(asked) = self.asked.remove(&id) else {
            return Err(format!("an answer that nobody asked for: {packet:?}"));
        };
        let (answer, cause) = match packet.known_kind() {
            Some(Kind::Error) => (Answer::Refused(packet.payload), None),
            Some(kind) if kind == asked.kind => (Answer::Done(packet.payload), None),
            _ => {
                let what = format!(
                    "an answer of kind {} to {}",
                    packet.kind,
                    asked.kind.c_name()
                );
                (Answer::Nonsense(what.clone()), Some(what))
            }
        };
        let done = matches!(answer, Answer::Done(_));
        self.settle_watch(&asked, done);
        if done && asked.kind == Kind::ResetWatches {
            self.fresh.clear();
        }
        if asked.wanted {
            actions.push(Action::Answer { id, answer });
        }
        cause.map_or(Ok(()), Err)
    }

    fn settle_watch(&mut self, asked: &Asked, done: bool) {
        if let Some(pair) = &asked.watch
            && (asked.kind == Kind::Unwatch) == done
        {
            self.fresh.remove(pair);
        }
    }

    fn refused(&mut self, id: u32, errno: Errno, actions: &mut Vec<Action>) {
        if let Some(asked) = self.asked.remove(&id) {
            self.settle_watch(&asked, false);
            if asked.wanted {
                let answer = Answer::Errno(errno);
                actions.push(Action::Answer { id, answer });
            }
        }
    }

    fn end(&mut self, cause: String, actions: &mut Vec<Action>) {
        let mut ids: Vec<u32> = self.asked.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if self.asked.remove(&id).is_some_and(|asked| asked.wanted) {
                let answer = Answer::Lost(cause.clone());
                actions.push(Action::Answer { id, answer });
            }
        }
        self.decoder = Decoder::new();
        self.fresh.clear();
        self.over = Some(cause.clone());
        actions.push(Action::End(cause));
    }
}

impl Machine for Protocol {
    type Input = Input;
    type Action = Action;

    fn step(&mut self, _: Now, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Ask {
                id,
                kind,
                tx_id,
                payload,
            } => self.ask(&Packet::new(kind, id, tx_id, payload), kind, actions),
            _ if self.over.is_some() => {}
            Input::Forget(id) => {
                if let Some(asked) = self.asked.get_mut(&id) {
                    asked.wanted = false;
                }
            }
            Input::Refused(id, errno) => self.refused(id, errno, actions),
            Input::Received(bytes) => self.received(&bytes, actions),
            Input::Ended(cause) => self.end(cause, actions),
        }
    }
}

/// Path and token.
fn pair(payload: &[u8]) -> Option<(String, String)> {
    WatchEvent::parse(payload).map(|event| (event.path, event.token))
}

#[cfg(test)]
mod tests;
