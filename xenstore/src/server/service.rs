//! The server's sockets: a thread with a mio loop around [`Server`].
//!
//! Connections through the Unix socket have dom0's rights, as with xenstored; a domain's
//! connection is a socket that somebody who knows the domain attaches.

use super::queue::{OutQueue, QueueLimits};
use super::{ConnId, Output, Sabotage, Server};
use crate::quota::Quotas;
use crate::toolstack;
use crate::wire::{Decoder, Packet};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use libgnt::DomId;
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// A connection's token is its id plus this.
const FIRST_CONNECTION: usize = 2;
/// Requests of one connection before the others' turn.
const REQUESTS_A_TURN: usize = 32;
/// How long a handle waits for the thread. It does nothing that takes long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How soon to try again to accept, when file descriptors ran out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How to run it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where to listen for dom0; nowhere if `None`.
    pub socket: Option<PathBuf>,
    /// Limits on domains.
    pub quotas: Quotas,
    /// Limits on each connection's queue.
    pub queue: QueueLimits,
    /// Broken on purpose, to see that tests notice.
    pub sabotage: Option<Sabotage>,
}

/// Why the service does not start, or no longer answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Another server answers on the socket.
    #[error("another xenstore server listens on {0}; stop it, or use another directory")]
    InUse(PathBuf),
    /// The path is taken by something that is no socket.
    #[error("{0} is there and is no socket; remove it, or use another directory")]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("{operation} for the xenstore server{}: {source}", At(.path))]
    Io {
        /// Which.
        operation: &'static str,
        /// On what file.
        path: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
    /// The thread has ended.
    #[error("the xenstore server has stopped")]
    Stopped,
}

struct At<'a>(&'a Option<PathBuf>);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |path| write!(f, " on {}", path.display()))
    }
}

enum Message {
    Attach(std::os::unix::net::UnixStream, DomId),
    Introduce(DomId, String, Sender<()>),
    Release(DomId, Sender<()>),
    Stop,
}

struct Shared {
    messages: Sender<Message>,
    waker: Arc<Waker>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last handle: nobody can use the thread any more. It ends by itself.
        let _ = self.messages.send(Message::Stop);
        let _ = self.waker.wake();
    }
}

/// Talks to the server's thread, which ends with the last handle, or with [`ServerHandle::stop`].
#[derive(Clone)]
pub struct ServerHandle(Arc<Shared>);

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerHandle")
    }
}

impl ServerHandle {
    /// Starts the thread. dom0's own nodes are there when this returns.
    ///
    /// # Errors
    /// [`ServiceError`]. A socket file that a dead server left is replaced.
    pub fn start(config: Config) -> Result<ServerHandle, ServiceError> {
        let io = |operation, path: &Option<PathBuf>| {
            let path = path.clone();
            move |source| ServiceError::Io {
                operation,
                path,
                source,
            }
        };
        let poll = Poll::new().map_err(io("epoll_create", &None))?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(io("eventfd", &None))?);
        let mut listener = config.socket.as_deref().map(listen).transpose()?;
        if let Some(listener) = &mut listener {
            poll.registry()
                .register(listener, LISTENER, Interest::READABLE)
                .map_err(io("epoll_ctl", &config.socket))?;
        }
        let (messages, inbox) = unbounded();
        let mut server = Server::new(config.quotas);
        server.sabotage = config.sabotage;
        let toolstack = server.connect(DomId::DOM0);
        let mut service = Service {
            poll,
            listener,
            inbox,
            server,
            toolstack,
            queue_limits: config.queue,
            connections: BTreeMap::new(),
            ready: BTreeSet::new(),
            accept_again: false,
            _waker: Arc::clone(&waker),
            _socket: config.socket.clone().map(SocketFile),
        };
        service.write_domain(DomId::DOM0, "Domain-0");
        let thread = std::thread::Builder::new()
            .name("xenstore".into())
            .spawn(move || service.run())
            .map_err(io("clone", &None))?;
        let thread = Mutex::new(Some(thread));
        Ok(ServerHandle(Arc::new(Shared {
            messages,
            waker,
            thread,
        })))
    }

    /// Serves a socket as an open `/dev/xen/xenbus` of a domain's ([`Server::open_device`]).
    ///
    /// # Errors
    /// [`ServiceError::Stopped`].
    pub fn attach(
        &self,
        domid: DomId,
        stream: std::os::unix::net::UnixStream,
    ) -> Result<(), ServiceError> {
        self.send(Message::Attach(stream, domid))
    }

    /// A domain exists from now on: writes the nodes that a toolstack gives every domain
    /// ([`toolstack::domain_nodes`]), then fires `@introduceDomain`. Done when this returns.
    ///
    /// # Errors
    /// [`ServiceError::Stopped`].
    pub fn introduce(&self, domid: DomId, name: &str) -> Result<(), ServiceError> {
        self.ask(|done| Message::Introduce(domid, name.to_owned(), done))
    }

    /// A domain is gone: cuts its connections, removes what it owned, fires `@releaseDomain`, and
    /// removes its home directory. Done when this returns.
    ///
    /// # Errors
    /// [`ServiceError::Stopped`].
    pub fn release(&self, domid: DomId) -> Result<(), ServiceError> {
        self.ask(|done| Message::Release(domid, done))
    }

    /// Ends the thread, closes all connections and removes the socket. Done when this returns.
    /// Again is harmless.
    pub fn stop(&self) {
        let _ = self.send(Message::Stop);
        let thread = self
            .0
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the xenstore server's thread panicked");
        }
    }

    fn send(&self, message: Message) -> Result<(), ServiceError> {
        self.0
            .messages
            .send(message)
            .map_err(|_| ServiceError::Stopped)?;
        self.0.waker.wake().map_err(|_| ServiceError::Stopped)
    }

    fn ask(&self, message: impl FnOnce(Sender<()>) -> Message) -> Result<(), ServiceError> {
        let (done, answer) = bounded(1);
        self.send(message(done))?;
        answer
            .recv_timeout(ANSWER_DEADLINE)
            .map_err(|_| ServiceError::Stopped)
    }
}

/// Binds the socket; takes over a file that no server listens on any more.
fn listen(path: &Path) -> Result<UnixListener, ServiceError> {
    let io = |operation| {
        move |source| ServiceError::Io {
            operation,
            path: Some(path.to_owned()),
            source,
        }
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let kind = std::fs::symlink_metadata(path)
                .map_err(io("stat"))?
                .file_type();
            if !kind.is_socket() {
                return Err(ServiceError::NotASocket(path.to_owned()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ServiceError::InUse(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(io("unlink"))?;
            UnixListener::bind(path).map_err(io("bind"))
        }
        other => other.map_err(io("bind")),
    }
}

/// Removes the socket's file when the service ends.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    queue: OutQueue,
    /// Nothing said yet that the socket is empty: edges come once.
    readable: bool,
}

struct Service {
    poll: Poll,
    listener: Option<UnixListener>,
    inbox: Receiver<Message>,
    server: Server,
    /// A connection of dom0 without a socket, for the nodes that the service itself writes.
    toolstack: ConnId,
    queue_limits: QueueLimits,
    connections: BTreeMap<ConnId, Connection>,
    /// Connections that have something to do without a new edge.
    ready: BTreeSet<ConnId>,
    accept_again: bool,
    /// Keeps the eventfd open: closing it takes it out of the poll, with the last handle's wake-up.
    _waker: Arc<Waker>,
    _socket: Option<SocketFile>,
}

impl Service {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = if !self.ready.is_empty() {
                Some(Duration::ZERO)
            } else if self.accept_again {
                Some(ACCEPT_AGAIN)
            } else {
                None
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the xenstore server cannot poll");
                    return;
                }
                Ok(()) => {}
            }
            if std::mem::take(&mut self.accept_again) {
                self.accept();
            }
            for event in events.iter() {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    Token(n) => {
                        let id = ConnId((n - FIRST_CONNECTION) as u64);
                        if let Some(connection) = self.connections.get_mut(&id) {
                            connection.readable |= event.is_readable() || event.is_read_closed();
                            self.ready.insert(id);
                        }
                    }
                }
            }
            if !self.take_messages() {
                return;
            }
            for id in std::mem::take(&mut self.ready) {
                self.serve(id);
            }
        }
    }

    /// False: stop.
    fn take_messages(&mut self) -> bool {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Attach(stream, domid) => {
                    if let Err(error) = stream.set_nonblocking(true) {
                        tracing::warn!(%error, %domid, "cannot serve a connection");
                        continue;
                    }
                    let conn = self.server.open_device(domid);
                    self.add(UnixStream::from_std(stream), conn, domid);
                }
                Message::Introduce(domid, name, done) => {
                    self.write_domain(domid, &name);
                    let (_, outputs) = self.server.introduce(domid);
                    self.deliver(outputs);
                    let _ = done.send(());
                }
                Message::Release(domid, done) => {
                    let outputs = self.server.release(domid);
                    self.deliver(outputs);
                    self.as_toolstack(&[toolstack::remove_request(&crate::path::home(domid))]);
                    let _ = done.send(());
                }
                Message::Stop => return false,
            }
        }
        true
    }

    fn write_domain(&mut self, domid: DomId, name: &str) {
        self.as_toolstack(&toolstack::domain_requests(domid, name));
    }

    fn as_toolstack(&mut self, requests: &[Packet]) {
        for request in requests {
            let outputs = self.server.handle(self.toolstack, request);
            self.deliver(outputs);
        }
    }

    fn accept(&mut self) {
        loop {
            let accepted = match &self.listener {
                Some(listener) => listener.accept(),
                None => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let conn = self.server.connect(DomId::DOM0);
                    self.add(stream, conn, DomId::DOM0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a xenstore connection");
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn add(&mut self, mut stream: UnixStream, id: ConnId, domid: DomId) {
        let token = Token(id.0 as usize + FIRST_CONNECTION);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            tracing::warn!(%error, %domid, "cannot serve a connection");
            self.server.disconnect(id);
            return;
        }
        let connection = Connection {
            stream,
            decoder: Decoder::new(),
            queue: OutQueue::new(self.queue_limits),
            readable: true,
        };
        self.connections.insert(id, connection);
        self.ready.insert(id);
    }

    fn cut(&mut self, id: ConnId, why: &dyn std::fmt::Display) {
        tracing::debug!(connection = id.0, %why, "connection closed");
        if let Some(mut connection) = self.connections.remove(&id) {
            let _ = self.poll.registry().deregister(&mut connection.stream);
        }
        self.server.disconnect(id);
    }

    /// One turn: send what waits, answer some requests.
    fn serve(&mut self, id: ConnId) {
        for _ in 0..REQUESTS_A_TURN {
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            if let Err(error) = flush(connection) {
                return self.cut(id, &error);
            }
            if connection.queue.is_congested() {
                // The edge that says "writable again" brings us back.
                return;
            }
            match connection.decoder.next_packet() {
                Ok(Some(packet)) => {
                    let outputs = self.server.handle(id, &packet);
                    self.deliver(outputs);
                }
                Ok(None) if !connection.readable => return,
                Ok(None) => {
                    let mut bytes = [0; 4096];
                    match connection.stream.read(&mut bytes) {
                        Ok(0) => return self.cut(id, &"closed by the client"),
                        Ok(n) => connection.decoder.push(&bytes[..n]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            connection.readable = false;
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return self.cut(id, &error),
                    }
                }
                Err(error) => {
                    tracing::warn!(connection = id.0, %error, "malformed message: connection cut");
                    return self.cut(id, &error);
                }
            }
        }
        self.ready.insert(id);
    }

    fn deliver(&mut self, outputs: Vec<Output>) {
        let now = Instant::now();
        for output in outputs {
            let (id, result) = match output {
                Output::Reply(id, packet) => match self.connections.get_mut(&id) {
                    Some(connection) => {
                        connection.queue.push_reply(&packet);
                        (id, Ok(()))
                    }
                    None => continue,
                },
                Output::Event(id, packet) => match self.connections.get_mut(&id) {
                    Some(connection) => (id, connection.queue.push_event(&packet, now)),
                    None => continue,
                },
                Output::Close(id) => {
                    self.cut(id, &"its domain is gone");
                    continue;
                }
            };
            match result {
                Ok(()) => {
                    self.ready.insert(id);
                }
                Err(error) => {
                    tracing::warn!(connection = id.0, %error, "a client that does not read: connection cut");
                    self.cut(id, &error);
                }
            }
        }
    }
}

fn flush(connection: &mut Connection) -> io::Result<()> {
    while !connection.queue.is_empty() {
        match connection.stream.write(connection.queue.front()) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => connection.queue.advance(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
