//! The handle on a connection.

use super::connection::{About, Call, Connection, text_of};
use super::events::WatchEvent;
use crate::error::{Error, Result};
use crate::wire::Kind;
use libgnt::{DomId, Platform};
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
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
pub struct Client(Arc<Connection>);

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
        let connection = Connection::new(fd, DEFAULT_DEADLINE)?;
        Ok(Client(Arc::new(connection)))
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
        self.0.set_deadline(deadline);
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
        self.0.next_event()
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
            if !self.0.wait_readable(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits for an event of one watch, and takes it; leaves others' events where they are.
    /// False: the time is over.
    pub(crate) fn wait_token(&self, token: &str, timeout: Duration) -> Result<bool> {
        self.0.wait_token(token, timeout)
    }

    /// Forgets the queued events of a watch that is no more.
    pub(crate) fn drop_events(&self, token: &str) {
        self.0.drop_events(token);
    }

    /// Are there events that a request has read already?
    pub fn has_watch_events(&self) -> bool {
        self.0.has_events()
    }

    /// One request, one answer.
    pub(super) fn call(
        &self,
        about: About<'_>,
        kind: Kind,
        tx_id: u32,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>> {
        self.0.call(about, kind, tx_id, parts)
    }
}

impl Call for Client {
    fn request(&self, about: About<'_>, kind: Kind, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.call(about, kind, 0, parts)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
