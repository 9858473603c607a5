//! The handle on a connection.

use super::about::About;
use super::connection::Connection;
use super::events::WatchEvent;
use crate::error::{Error, Result};
use crate::transport::{Ring, RingParts, Stream};
use crate::wire::Kind;
use libgnt::Platform;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request waits for its answer, unless [`Client::set_deadline`] says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A connection to xenstore. Clones share it, its transactions and its event queue.
///
/// Requests block, up to the deadline; any number of threads may have one in flight, and none waits for
/// another's answer. [`Client::submit`] blocks nobody. Watch events that arrive meanwhile are queued.
///
/// With an edge-triggered loop, call [`Client::next_watch_event`] until it says `None` after each wake-up
/// *and* after any request: the request may have read the event that the edge was about
/// ([`Client::has_watch_events`]). A connection whose descriptor is polled belongs to that loop alone:
/// another thread's request would take in what the descriptor became readable for.
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
        Client::over(Stream::of_descriptor(fd)?)
    }

    /// Takes a ring page that the daemon has mapped, too: the way of a domain that has no kernel for it, a
    /// stub domain say (`struct xenstore_domain_interface`, `io/xs_wire.h`). A ring that was used before is
    /// begun anew, which ends its watches and transactions, if the daemon can do that; if not, what was left
    /// unread in it is dropped.
    ///
    /// # Errors
    /// [`Error::Disconnected`]: the daemon does not begin anew before the deadline, or its indices make no
    /// sense. [`Error::Invalid`], [`Error::Platform`], [`Error::Io`].
    pub fn from_ring(parts: RingParts, deadline: Duration) -> Result<Client> {
        Client::over(Stream::Ring(Ring::start(parts, deadline)?))
    }

    fn over(stream: Stream) -> Result<Client> {
        let connection = Connection::new(stream, DEFAULT_DEADLINE)?;
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

    /// How long requests wait for their answers.
    pub fn deadline(&self) -> Duration {
        self.0.deadline()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }

    /// The next watch event, without waiting. `None`: nothing more has come so far. Events of a
    /// [`Watch`](super::Watch) are its own, and not among these.
    ///
    /// # Errors
    /// [`Error::EventsLost`], once each time it happens; [`Error::Disconnected`].
    pub fn next_watch_event(&self) -> Result<Option<WatchEvent>> {
        self.0.next_event(None)
    }

    /// The next watch event; waits for it. `None`: the time is over.
    ///
    /// # Errors
    /// As [`Client::next_watch_event`].
    pub fn wait_watch_event(&self, timeout: Duration) -> Result<Option<WatchEvent>> {
        self.0.wait_event(None, Instant::now() + timeout)
    }

    /// May there be events that a request has read already?
    pub fn has_watch_events(&self) -> bool {
        self.0.has_events(None) || self.0.has_more()
    }

    /// Sends and takes in what can be without waiting: for a loop whose poll says that the descriptor is
    /// readable or writable. Answers are then in their [`Ticket`](super::Ticket)s, events in their queues.
    ///
    /// # Errors
    /// [`Error::Disconnected`].
    pub fn drive(&self) -> Result<()> {
        self.0.drive()
    }

    /// Is something waiting for room in the stream? The descriptor becomes writable then, and whoever
    /// polls it should ask for that. (A ring's descriptor becomes readable for it, and the device's takes
    /// everything at once.)
    pub fn wants_room(&self) -> bool {
        self.0.wants_room()
    }

    /// One request, one answer.
    pub(super) fn call(
        &self,
        about: About<'_>,
        kind: Kind,
        tx_id: u32,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>> {
        self.0.call(about, kind, tx_id, parts.concat())
    }
}

/// Whoever can make a request: outside of a transaction, or inside.
pub(super) trait Call {
    fn client(&self) -> &Client;

    fn tx_id(&self) -> u32;

    fn request(&self, about: About<'_>, kind: Kind, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.client().call(about, kind, self.tx_id(), parts)
    }
}

impl Call for Client {
    fn client(&self) -> &Client {
        self
    }

    fn tx_id(&self) -> u32 {
        0
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Readable when answers or watch events may have come; writable when there is room ([`Client::wants_room`]).
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
