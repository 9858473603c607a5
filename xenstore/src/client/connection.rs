//! One connection: its stream, and what has been read from it.

use super::events::{EventQueue, WatchEvent};
use crate::error::{Error, Result};
use crate::transport::{SendError, Stream};
use crate::wire::{Decoder, HEADER_BYTES, Kind, PAYLOAD_MAX_BYTES, Packet, error_from_name};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    decoder: Decoder,
    events: EventQueue,
    last_request: u32,
    deadline: Duration,
    /// Why the connection is of no more use.
    broken: Option<String>,
}

/// What an error should say about a request.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) operation: &'static str,
    pub(super) path: &'a str,
}

/// Whoever can make a request: outside of a transaction, or inside.
pub(super) trait Call {
    fn request(&self, about: About<'_>, kind: Kind, parts: &[&[u8]]) -> Result<Vec<u8>>;
}

impl Connection {
    pub(super) fn new(fd: OwnedFd, deadline: Duration) -> Result<Connection> {
        let state = State {
            decoder: Decoder::new(),
            events: EventQueue::default(),
            last_request: 0,
            deadline,
            broken: None,
        };
        Ok(Connection {
            stream: Stream::new(fd)?,
            state: Mutex::new(state),
        })
    }

    pub(super) fn set_deadline(&self, deadline: Duration) {
        self.state().deadline = deadline;
    }

    /// The next watch event, without waiting.
    pub(super) fn next_event(&self) -> Result<Option<WatchEvent>> {
        let mut state = self.state();
        if let Some(event) = state.events.pop()? {
            return Ok(Some(event));
        }
        state.check()?;
        loop {
            let received = self.stream.receive(&mut state.decoder);
            // What came before the end of the stream still counts.
            let taken = state.take_packets(None);
            let popped = state.events.pop()?;
            if popped.is_some() {
                if let Err(error) = received {
                    state.breaks(&error);
                }
                return Ok(popped);
            }
            if let Err(error) = received.and(taken.map(|_| ())) {
                state.breaks(&error);
                return Err(error);
            }
            if state.decoder.buffered() < HEADER_BYTES + PAYLOAD_MAX_BYTES {
                return Ok(None);
            }
        }
    }

    /// Waits for an event of one watch, and takes it; leaves others' events where they are.
    /// False: the time is over.
    pub(super) fn wait_token(&self, token: &str, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            {
                let mut state = self.state();
                state.check()?;
                let received = self.stream.receive(&mut state.decoder);
                state.take_packets(None)?;
                if state.events.remove(token) {
                    return Ok(true);
                }
                received.inspect_err(|error| state.breaks(error))?;
            }
            if !self.stream.wait_readable(deadline)? {
                return Ok(false);
            }
        }
    }

    pub(super) fn wait_readable(&self, deadline: Instant) -> Result<bool> {
        self.stream.wait_readable(deadline)
    }

    /// Forgets the queued events of a watch that is no more.
    pub(super) fn drop_events(&self, token: &str) {
        self.state().events.remove(token);
    }

    /// Are there events that a request has read already?
    pub(super) fn has_events(&self) -> bool {
        !self.state().events.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, one answer.
    pub(super) fn call(
        &self,
        about: About<'_>,
        kind: Kind,
        tx_id: u32,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>> {
        let About { operation, path } = about;
        let payload = parts.concat();
        let limit = self.stream.payload_max();
        if payload.len() > limit {
            return Err(Error::Invalid(format!(
                "xenstore {operation} {path}: {} bytes do not fit in one message of {limit}; write less, or in several nodes",
                payload.len()
            )));
        }
        if path.contains('\0') {
            return Err(Error::Invalid(format!(
                "xenstore {operation} {path:?}: a NUL in the path"
            )));
        }
        let mut state = self.state();
        state.check()?;
        state.last_request = state.last_request.wrapping_add(1);
        let (request, waited) = (state.last_request, state.deadline);
        let deadline = Instant::now() + waited;
        let timeout = || Error::Timeout {
            operation,
            path: path.to_owned(),
            waited,
        };

        let packet = Packet::new(kind, request, tx_id, payload);
        let mut started = false;
        match self
            .stream
            .send(&packet, deadline, &mut state.decoder, &mut started)
        {
            Ok(()) => {}
            Err(SendError::Deadline) => {
                if started {
                    state.broken = Some("half a request was sent when the deadline came".into());
                }
                return Err(timeout());
            }
            Err(SendError::Failed(error)) => {
                if started || matches!(error, Error::Disconnected { .. }) {
                    state.breaks(&error);
                }
                return Err(error);
            }
        }
        loop {
            let received = self.stream.receive(&mut state.decoder);
            if let Some(reply) = state.take_packets(Some(request))? {
                return match reply.known_kind() {
                    Some(Kind::Error) => Err(Error::Refused {
                        operation,
                        path: path.to_owned(),
                        errno: error_from_name(&reply.payload),
                    }),
                    Some(answered) if answered == kind => Ok(reply.payload),
                    _ => Err(Error::Protocol {
                        operation,
                        path: path.to_owned(),
                        what: format!("a reply of kind {}", reply.kind),
                    }),
                };
            }
            if let Err(error) = received {
                state.breaks(&error);
                return Err(error);
            }
            if !self.stream.wait_readable(deadline)? {
                return Err(timeout());
            }
        }
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.broken {
            Some(cause) => Err(Error::Disconnected {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    fn breaks(&mut self, error: &Error) {
        self.broken.get_or_insert_with(|| match error {
            Error::Disconnected { cause } => cause.clone(),
            other => other.to_string(),
        });
    }

    /// Sorts what has come: events to the queue, the awaited reply to the caller. A reply that
    /// nobody awaits answers a request that has timed out.
    fn take_packets(&mut self, awaited: Option<u32>) -> Result<Option<Packet>> {
        loop {
            match self.decoder.next_packet() {
                Ok(None) => return Ok(None),
                Ok(Some(packet)) if packet.known_kind() == Some(Kind::WatchEvent) => {
                    self.events.push(&packet.payload);
                }
                Ok(Some(packet)) if Some(packet.req_id) == awaited => return Ok(Some(packet)),
                Ok(Some(packet)) => tracing::debug!(?packet, "late reply dropped"),
                Err(error) => {
                    let error = Error::Disconnected {
                        cause: format!("malformed message: {error}"),
                    };
                    self.breaks(&error);
                    return Err(error);
                }
            }
        }
    }
}

pub(super) fn text_of(about: About<'_>, bytes: Vec<u8>) -> Result<String> {
    let mut bytes = bytes;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|error| Error::Protocol {
        operation: about.operation,
        path: about.path.to_owned(),
        what: error.to_string(),
    })
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
