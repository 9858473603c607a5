//! The thread: a mio loop that performs what the machine says.

use super::super::machine::{Action, Input, Server};
use super::super::queue::QueueLimits;
use super::super::requests::{domain_requests, remove_request};
use super::super::watch::ConnId;
use super::connection::Connection;
use super::error::ServiceError;
use super::saver::Saver;
use super::socket::Listener;
use crate::path::home;
use crate::wire::Packet;
use crossbeam::channel::{Receiver, Sender};
use libgnt::DomId;
use libgnt::machine::{Now, monotonic};
use mio::net::UnixStream;
use mio::{Events, Poll, Token, Waker};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

pub(super) const WAKER: Token = Token(0);
/// A connection's token is its id, which is at least 1.
fn connection_token(conn: ConnId) -> Token {
    Token(conn.0 as usize)
}
/// Listeners count down from the highest that mio leaves free.
pub(super) fn listener_token(n: usize) -> Token {
    Token(usize::MAX - 1 - n)
}
/// Bytes that are read from one connection at a time.
const READ_BYTES: usize = 32 << 10;
/// How soon to try again to accept, when file descriptors ran out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a handle asks of the thread.
pub(super) enum Message {
    Attach(std::os::unix::net::UnixStream, DomId),
    Introduce(DomId, String, Sender<()>),
    Release(DomId, Sender<()>),
    Stop,
}

pub(super) struct Service {
    pub(super) poll: Poll,
    listeners: Vec<Listener>,
    inbox: Receiver<Message>,
    pub(super) server: Server,
    /// A connection of dom0 without a socket, for the nodes that the service itself writes.
    toolstack: ConnId,
    queue_limits: QueueLimits,
    last_connection: u64,
    pub(super) connections: BTreeMap<ConnId, Connection>,
    /// Connections that have something to do without a new edge.
    pub(super) ready: BTreeSet<ConnId>,
    /// Connections for which something waits, that the socket may take.
    pub(super) unsent: BTreeSet<ConnId>,
    /// Requests that were answered since all was sent.
    pub(super) answered: usize,
    accept_again: bool,
    /// Connections whose domains write too fast, and until when they wait.
    pub(super) held: BTreeMap<ConnId, Now>,
    saver: Option<Saver>,
    pub(super) buffer: Box<[u8]>,
    pub(super) actions: Vec<Action>,
    /// Keeps the eventfd open: closing it takes it out of the poll, with the last handle's wake-up.
    _waker: Arc<Waker>,
}

/// What the thread works with, as the handle has opened it.
pub(super) struct Opened {
    pub poll: Poll,
    pub waker: Arc<Waker>,
    pub listeners: Vec<Listener>,
    pub saver: Option<Saver>,
    pub inbox: Receiver<Message>,
}

impl Service {
    /// dom0's own nodes are there when this returns.
    pub(super) fn new(opened: Opened, server: Server, queue_limits: QueueLimits) -> Service {
        let mut service = Service {
            poll: opened.poll,
            listeners: opened.listeners,
            inbox: opened.inbox,
            server,
            toolstack: ConnId(0),
            queue_limits,
            last_connection: 0,
            connections: BTreeMap::new(),
            ready: BTreeSet::new(),
            unsent: BTreeSet::new(),
            answered: 0,
            accept_again: false,
            held: BTreeMap::new(),
            saver: opened.saver,
            buffer: vec![0; READ_BYTES].into(),
            actions: Vec::new(),
            _waker: opened.waker,
        };
        service.toolstack = service.connect(DomId::DOM0, false);
        if service.server.tree().get(&home(DomId::DOM0)).is_none() {
            service.write_domain(DomId::DOM0, "Domain-0");
        }
        service
    }

    /// A connection of which the machine knows. [`Service::add`] gives it a socket.
    fn connect(&mut self, domid: DomId, device: bool) -> ConnId {
        self.last_connection += 1;
        let conn = ConnId(self.last_connection);
        self.step(Input::Connected {
            conn,
            domid,
            device,
        });
        conn
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) -> Result<(), ServiceError> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => {
                    tracing::error!(error = %source, "the xenstore server cannot poll");
                    return Err(ServiceError::Io {
                        operation: "epoll_wait",
                        path: None,
                        source,
                    });
                }
                Ok(()) => {}
            }
            if std::mem::take(&mut self.accept_again) {
                self.accept_all();
            }
            for event in events.iter() {
                match event.token() {
                    WAKER => {}
                    token if token > listener_token(self.listeners.len()) => self.accept_all(),
                    Token(n) => {
                        let id = ConnId(n as u64);
                        if let Some(connection) = self.connections.get_mut(&id) {
                            connection.note(event);
                            self.ready.insert(id);
                        }
                    }
                }
            }
            if !self.take_messages() {
                let saver = self.saver.as_mut();
                return saver.map_or(Ok(()), |saver| saver.finish(&self.server.snapshot()));
            }
            for id in std::mem::take(&mut self.ready) {
                self.serve(id);
            }
            self.send_all();
        }
    }

    /// How long to sleep, if nothing happens.
    fn timeout(&mut self) -> Option<Duration> {
        let is_busy = !self.ready.is_empty();
        let mut soonest = self.accept_again.then_some(ACCEPT_AGAIN);
        let mut by = |wait: Duration| soonest = Some(soonest.map_or(wait, |it| it.min(wait)));
        if is_busy {
            by(Duration::ZERO);
        }
        if self.held.is_empty() && self.saver.is_none() {
            return soonest;
        }
        // However busy it is: nobody's file or turn waits for others to be quiet.
        let now = monotonic();
        if let Some(saver) = &mut self.saver {
            let (version, server) = (self.server.version(), &self.server);
            saver.turn(now, version, || server.snapshot()).map(&mut by);
        }
        self.held.retain(|id, until| {
            let is_over = *until <= now;
            if is_over {
                self.ready.insert(*id);
                by(Duration::ZERO);
            } else {
                by(*until - now);
            }
            !is_over
        });
        soonest
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
                    let conn = self.connect(domid, true);
                    self.add(UnixStream::from_std(stream), conn, domid);
                }
                Message::Introduce(domid, name, done) => {
                    // One that an earlier server has left is there already, with all it has become.
                    if !self.server.is_introduced(domid) {
                        self.write_domain(domid, &name);
                        self.step(Input::Introduce(domid));
                    }
                    let _ = done.send(());
                }
                Message::Release(domid, done) => {
                    self.step(Input::Release(domid));
                    self.as_toolstack(vec![remove_request(&home(domid))]);
                    let _ = done.send(());
                }
                Message::Stop => return false,
            }
        }
        true
    }

    fn write_domain(&mut self, domid: DomId, name: &str) {
        self.as_toolstack(domain_requests(domid, name));
    }

    fn as_toolstack(&mut self, requests: Vec<Packet>) {
        for request in requests {
            self.step(Input::Request(self.toolstack, request));
        }
    }

    fn accept_all(&mut self) {
        for n in 0..self.listeners.len() {
            self.accept(n);
        }
    }

    fn accept(&mut self, n: usize) {
        while let Some(listener) = self.listeners.get(n) {
            let domid = listener.domid;
            match listener.socket.accept() {
                // Dropped, which closes it.
                Ok(_) if !self.server.is_introduced(domid) => {
                    tracing::warn!(%domid, "a connection of a domain that is not there: closed");
                }
                Ok((stream, _)) => {
                    let conn = self.connect(domid, false);
                    self.add(stream, conn, domid);
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

    fn add(&mut self, stream: UnixStream, id: ConnId, domid: DomId) {
        let mut limits = self.queue_limits;
        if domid == DomId::DOM0 {
            // xenstored gives its own host's programs all the time they want. The bytes that wait are
            // limited all the same.
            limits.quiet = Duration::MAX;
        }
        let token = connection_token(id);
        match Connection::new(stream, limits, self.poll.registry(), token) {
            Ok(connection) => {
                self.connections.insert(id, connection);
                self.ready.insert(id);
            }
            Err(error) => {
                tracing::warn!(%error, %domid, "cannot serve a connection");
                self.step(Input::Disconnected(id));
            }
        }
    }
}
