//! The client: synchronous requests with a deadline, and a queue of watch events.

mod events;
mod operations;
mod transaction;

pub use events::{EVENTS_MAX, WatchEvent};
pub use transaction::{TRANSACTION_ATTEMPTS_MAX, Transaction};

use crate::error::{Error, Result};
use crate::transport::{SendError, Stream};
use crate::wire::{Decoder, Kind, Packet, error_from_name};
use events::EventQueue;
use libgnt::{DomId, Platform};
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a request waits for its answer, unless [`Client::set_deadline`] says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A connection to xenstore. Clones share it, its transactions and its event queue.
///
/// Requests block, up to the deadline. Watch events that arrive meanwhile are queued. With an
/// edge-triggered loop, call [`Client::next_watch_event`] until it says `None` after each wake-up
/// *and* after any request: the request may have read the event that the edge was about
/// ([`Client::has_watch_events`]).
///
/// Paths are absolute, or relative to the client's own home, `/local/domain/N`.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
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
struct About<'a> {
    operation: &'static str,
    path: &'a str,
}

impl Client {
    /// Connects with the platform's own domain's rights ([`Platform::open_xenstore`]).
    ///
    /// # Errors
    /// [`Error::Platform`], [`Error::Io`].
    pub fn connect(platform: &dyn Platform) -> Result<Client> {
        Client::from_stream(platform.open_xenstore()?)
    }

    /// Takes a connected Unix socket, or an open `/dev/xen/xenbus`. It becomes non-blocking.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn from_stream(fd: OwnedFd) -> Result<Client> {
        let state = State {
            decoder: Decoder::new(),
            events: EventQueue::default(),
            last_request: 0,
            deadline: DEFAULT_DEADLINE,
            broken: None,
        };
        Ok(Client(Arc::new(Shared {
            stream: Stream::new(fd)?,
            state: Mutex::new(state),
        })))
    }

    /// Connects to a daemon's socket (what `XENSTORED_PATH` names for Xen's own tools).
    ///
    /// # Errors
    /// [`Error::Disconnected`] if nobody listens there; [`Error::Io`].
    pub fn from_socket_path(path: impl AsRef<std::path::Path>) -> Result<Client> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path).map_err(|error| Error::Disconnected {
            cause: format!("cannot connect to {}: {error}", path.display()),
        })?;
        Client::from_stream(stream.into())
    }

    /// Changes how long requests wait for their answers.
    pub fn set_deadline(&self, deadline: Duration) {
        self.state().deadline = deadline;
    }

    /// Watches a node and all below it. An event comes at once, whether the node is there or not.
    ///
    /// # Errors
    /// EEXIST: watched with this token already. E2BIG: the domain's quota of watches.
    pub fn watch(&self, path: &str, token: &str) -> Result<()> {
        let about = About {
            operation: "watch",
            path,
        };
        self.call(
            about,
            Kind::Watch,
            0,
            &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"],
        )?;
        Ok(())
    }

    /// Stops a watch. Events already queued still come.
    ///
    /// # Errors
    /// ENOENT: no such watch.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<()> {
        let about = About {
            operation: "unwatch",
            path,
        };
        self.call(
            about,
            Kind::Unwatch,
            0,
            &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"],
        )?;
        Ok(())
    }

    /// A domain's home directory, `/local/domain/N`.
    ///
    /// # Errors
    /// [`Error::Refused`] and the connection's.
    pub fn domain_path(&self, domid: DomId) -> Result<String> {
        let text = domid.0.to_string();
        let about = About {
            operation: "get-domain-path",
            path: &text,
        };
        let path = self.call(about, Kind::GetDomainPath, 0, &[text.as_bytes(), b"\0"])?;
        text_of(about, path)
    }

    /// Does xenstore know the domain? xenstored lets only dom0 ask.
    ///
    /// # Errors
    /// [`Error::Refused`] and the connection's.
    pub fn is_domain_introduced(&self, domid: DomId) -> Result<bool> {
        let text = domid.0.to_string();
        let about = About {
            operation: "is-domain-introduced",
            path: &text,
        };
        let answer = self.call(
            about,
            Kind::IsDomainIntroduced,
            0,
            &[text.as_bytes(), b"\0"],
        )?;
        Ok(answer.starts_with(b"T"))
    }

    /// The next watch event, without waiting. `None`: nothing more has come so far.
    ///
    /// # Errors
    /// [`Error::EventsLost`], once each time it happens; [`Error::Disconnected`].
    pub fn next_watch_event(&self) -> Result<Option<WatchEvent>> {
        let mut state = self.state();
        if let Some(event) = state.events.pop()? {
            return Ok(Some(event));
        }
        state.check()?;
        loop {
            let received = self.0.stream.receive(&mut state.decoder);
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
            if state.decoder.buffered() < crate::wire::HEADER_BYTES + crate::wire::PAYLOAD_MAX_BYTES
            {
                return Ok(None);
            }
        }
    }

    /// The next watch event; waits for it. `None`: the time is over.
    ///
    /// # Errors
    /// As [`Client::next_watch_event`].
    pub fn wait_watch_event(&self, timeout: Duration) -> Result<Option<WatchEvent>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.next_watch_event()? {
                return Ok(Some(event));
            }
            if !self.0.stream.wait_readable(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits for an event of one watch, and takes it; leaves others' events where they are.
    /// False: the time is over.
    pub(crate) fn wait_token(&self, token: &str, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            {
                let mut state = self.state();
                state.check()?;
                let received = self.0.stream.receive(&mut state.decoder);
                state.take_packets(None)?;
                if state.events.remove(token) {
                    return Ok(true);
                }
                received.inspect_err(|error| state.breaks(error))?;
            }
            if !self.0.stream.wait_readable(deadline)? {
                return Ok(false);
            }
        }
    }

    /// Forgets the queued events of a watch that is no more.
    pub(crate) fn drop_events(&self, token: &str) {
        self.state().events.remove(token);
    }

    /// Are there events that a request has read already?
    pub fn has_watch_events(&self) -> bool {
        !self.state().events.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, one answer.
    fn call(&self, about: About<'_>, kind: Kind, tx_id: u32, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let About { operation, path } = about;
        let payload = parts.concat();
        let limit = self.0.stream.payload_max();
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
            .0
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
            let received = self.0.stream.receive(&mut state.decoder);
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
            if !self.0.stream.wait_readable(deadline)? {
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

fn text_of(about: About<'_>, bytes: Vec<u8>) -> Result<String> {
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

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.stream.as_fd()
    }
}

/// Readable when watch events may have come.
impl Source for Client {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
    }
}
