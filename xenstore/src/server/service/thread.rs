//! The thread: a mio loop that performs what the machine says.

use super::super::machine::{Action, Input, Server};
use super::super::queue::{OutQueue, QueueLimits};
use super::super::requests::{domain_requests, remove_request};
use super::super::watch::ConnId;
use super::error::ServiceError;
use super::socket::Listener;
use crate::path::home;
use crate::wire::{Decoder, Packet};
use crossbeam::channel::{Receiver, Sender};
use libgnt::DomId;
use libgnt::machine::{Machine, monotonic};
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
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
/// Requests of one connection before the others' turn.
const REQUESTS_A_TURN: usize = 32;
/// How soon to try again to accept, when file descriptors ran out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a handle asks of the thread.
pub(super) enum Message {
    Attach(std::os::unix::net::UnixStream, DomId),
    Introduce(DomId, String, Sender<()>),
    Release(DomId, Sender<()>),
    Stop,
}

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    queue: OutQueue,
    /// Nothing said yet that the socket is empty: edges come once.
    readable: bool,
}

pub(super) struct Service {
    poll: Poll,
    listeners: Vec<Listener>,
    inbox: Receiver<Message>,
    server: Server,
    /// A connection of dom0 without a socket, for the nodes that the service itself writes.
    toolstack: ConnId,
    queue_limits: QueueLimits,
    last_connection: u64,
    connections: BTreeMap<ConnId, Connection>,
    /// Connections that have something to do without a new edge.
    ready: BTreeSet<ConnId>,
    accept_again: bool,
    /// Keeps the eventfd open: closing it takes it out of the poll, with the last handle's wake-up.
    _waker: Arc<Waker>,
}

/// What the thread works with, as the handle has opened it.
pub(super) struct Opened {
    pub poll: Poll,
    pub waker: Arc<Waker>,
    pub listeners: Vec<Listener>,
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
            accept_again: false,
            _waker: opened.waker,
        };
        service.toolstack = service.connect(DomId::DOM0, false);
        service.write_domain(DomId::DOM0, "Domain-0");
        service
    }

    /// Tells the machine what has happened, and performs what it says.
    fn step(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.server.step(monotonic(), input, &mut actions);
        self.perform(actions);
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
            let timeout = if !self.ready.is_empty() {
                Some(Duration::ZERO)
            } else if self.accept_again {
                Some(ACCEPT_AGAIN)
            } else {
                None
            };
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
                            connection.readable |= event.is_readable() || event.is_read_closed();
                            self.ready.insert(id);
                        }
                    }
                }
            }
            if !self.take_messages() {
                return Ok(());
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
                    let conn = self.connect(domid, true);
                    self.add(UnixStream::from_std(stream), conn, domid);
                }
                Message::Introduce(domid, name, done) => {
                    self.write_domain(domid, &name);
                    self.step(Input::Introduce(domid));
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

    fn add(&mut self, mut stream: UnixStream, id: ConnId, domid: DomId) {
        let token = connection_token(id);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            tracing::warn!(%error, %domid, "cannot serve a connection");
            self.step(Input::Disconnected(id));
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
        self.step(Input::Disconnected(id));
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
                    self.step(Input::Request(id, packet));
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

    fn perform(&mut self, actions: Vec<Action>) {
        let now = monotonic();
        for action in actions {
            let (id, result) = match action {
                Action::Reply(id, packet) => match self.connections.get_mut(&id) {
                    Some(connection) => {
                        connection.queue.push_reply(&packet);
                        (id, Ok(()))
                    }
                    None => continue,
                },
                Action::Event(id, packet) => match self.connections.get_mut(&id) {
                    Some(connection) => (id, connection.queue.push_event(&packet, now)),
                    None => continue,
                },
                Action::Close(id) => {
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
