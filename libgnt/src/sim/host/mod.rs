//! The host: sockets, memory and timers around the machine of [`super::core`].
//!
//! One thread, one mio loop. Input comes from connections and timers; the machine's actions are
//! performed in order. Nothing here waits for a client: what a client does not read is queued up
//! to a limit, and then the client is cut off.

mod claim;
mod connection;
mod control;
mod services;
mod stock;
mod thread;

pub use control::{Stats, StopHandle};
pub use services::{NoServices, Services};
pub use thread::HostThread;

use super::core::{Action, Config, ConnId, Input, Xen};
use super::memory::raise_file_limit;
use super::wire::{HOST_SOCKET, ReplyFrame, SimError};
use crate::error::{Error, Result};
use crate::machine::{Machine, Now};
use claim::Claim;
use connection::{Connection, Incoming};
use mio::event::Event;
use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use stock::Stock;

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
/// Tokens of connections are their [`ConnId`], which starts here.
const FIRST_CONNECTION: u64 = 2;
/// Requests taken from one connection before the others have their turn.
const TURN: usize = 64;
/// How soon a hazard slot that stood in the way is looked at again: a page copy takes well
/// under a microsecond, so this is for a copier that lost its processor.
const DRAIN_RETRY: Duration = Duration::from_millis(1);
/// Connections at the same time: each costs the host descriptors and a page.
const MAX_CONNECTIONS: usize = 1024;
/// How long new connections wait when the host cannot accept them (no descriptor left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A host, ready to run. Its socket and its lock file go when it is dropped.
pub struct Host {
    claim: Claim,
    listener: UnixListener,
    poll: Poll,
    stop: StopHandle,
    stats: Arc<Stats>,
    started: Instant,
    machine: Xen,
    stock: Stock,
    services: Box<dyn Services>,
    connections: HashMap<ConnId, Connection>,
    next_conn: u64,
    /// Connections that have frames left after their turn.
    unfinished: VecDeque<ConnId>,
    /// News of the host's own making: drained copies, dead connections.
    inputs: VecDeque<Input>,
    /// Set while new connections wait for a descriptor.
    accept_again: Option<Instant>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Host({}, {} connections)",
            self.dir().display(),
            self.connections.len()
        )
    }
}

impl Host {
    /// Serves `dir`, which is created if it is not there: socket [`HOST_SOCKET`], and a lock file
    /// that keeps a second host out. A socket that a killed host left behind is replaced.
    /// Raises this process's limit of open files as far as it goes.
    ///
    /// # Errors
    /// [`Error::NotAvailable`]: another host serves the directory, or it cannot be written.
    pub fn bind(dir: &Path, config: Config, services: Box<dyn Services>) -> Result<Host> {
        let claim = Claim::take(dir)?;
        raise_file_limit();
        let failed = |what: &'static str| {
            let dir = dir.display().to_string();
            move |e: std::io::Error| {
                Error::device("simulated Xen", what, crate::shm::errno_of(&e), dir)
            }
        };
        let mut listener =
            UnixListener::bind(dir.join(HOST_SOCKET)).map_err(failed("bind the socket"))?;
        let poll = Poll::new().map_err(failed("epoll_create"))?;
        let registry = poll.registry();
        registry
            .register(&mut listener, LISTENER, Interest::READABLE)
            .map_err(failed("epoll_ctl"))?;
        let waker = Arc::new(Waker::new(registry, STOP).map_err(failed("eventfd"))?);
        Ok(Host {
            claim,
            listener,
            poll,
            stop: StopHandle {
                stop: Arc::default(),
                waker,
            },
            stats: Arc::default(),
            started: Instant::now(),
            stock: Stock::new(config.grant_entries),
            machine: Xen::new(config),
            services,
            connections: HashMap::new(),
            next_conn: FIRST_CONNECTION,
            unfinished: VecDeque::new(),
            inputs: VecDeque::new(),
            accept_again: None,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.claim.dir()
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.dir().join(HOST_SOCKET)
    }

    /// Something to stop the host with.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The host's counters.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Serves until [`StopHandle::stop`]. Then every connection is closed, and the socket and the
    /// lock file are removed.
    ///
    /// # Errors
    /// `epoll_wait` failed.
    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(256);
        while !self.stop.stop.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let errno = crate::shm::errno_of(&e);
                    return Err(Error::device("simulated Xen", "epoll_wait", errno, ""));
                }
            }
            for event in &events {
                self.on_event(event);
            }
            if self.accept_again.is_some_and(|at| at <= Instant::now()) {
                self.accept();
            }
            // Those that had their turn go behind those that have not.
            for conn in std::mem::take(&mut self.unfinished) {
                self.read(conn);
            }
            self.look_at_copies();
            if self.machine.next_timer().is_some_and(|at| at <= self.now()) {
                self.step(Input::Timer);
            }
        }
        Ok(())
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let timer = self
            .machine
            .next_timer()
            .map(|at| at.saturating_sub(self.now()));
        let drain = self.stock.copies_to_drain().then_some(DRAIN_RETRY);
        let accept = self
            .accept_again
            .map(|at| at.saturating_duration_since(Instant::now()));
        [timer, drain, accept].into_iter().flatten().min()
    }

    fn on_event(&mut self, event: &Event) {
        match event.token() {
            LISTENER => self.accept(),
            STOP => {}
            Token(conn) => {
                let conn = ConnId(conn as u64);
                if event.is_writable() {
                    self.flush(conn);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.read(conn);
                }
            }
        }
    }

    fn accept(&mut self) {
        self.accept_again = None;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    // Edge-triggered: without the timer nobody would come back to the backlog.
                    self.services
                        .log(&format!("cannot accept a connection: {e}; trying again"));
                    self.accept_again = Some(Instant::now() + ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: mio::net::UnixStream) {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.services.log(&format!(
                "a connection was refused: there are {MAX_CONNECTIONS} already"
            ));
            return;
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let token = Token(conn.0 as usize);
        let admitted = Connection::admit(stream, self.poll.registry(), token)
            .and_then(|connection| self.stock.create_hazards(conn).map(|()| connection));
        match admitted {
            Ok(connection) => {
                let pid = connection.pid();
                self.connections.insert(conn, connection);
                self.step(Input::Connected { conn, pid });
                // It may have spoken before it was registered.
                self.read(conn);
            }
            Err(error) => self
                .services
                .log(&format!("a connection was refused: {error}")),
        }
    }

    fn read(&mut self, conn: ConnId) {
        for _ in 0..TURN {
            let Some(connection) = self.connections.get_mut(&conn) else {
                return;
            };
            match connection.next_request() {
                Ok(Incoming::Request(frame)) => {
                    self.stats.requests.fetch_add(1, Ordering::Relaxed);
                    let tag = frame.wants_reply.then_some(frame.tag);
                    self.step(Input::Request {
                        conn,
                        tag,
                        request: frame.request,
                    });
                }
                Ok(Incoming::Nothing) => return,
                Ok(Incoming::Closed) => return self.lose(conn, None),
                Err(error) => return self.lose(conn, Some(error.to_string())),
            }
        }
        self.unfinished.push_back(conn);
    }

    fn flush(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        if let Err(errno) = connection.flush() {
            self.lose(conn, Some(format!("cannot be written to: {errno}")));
        }
    }

    /// A connection ended by itself, or for what it did.
    fn lose(&mut self, conn: ConnId, why: Option<String>) {
        if self.drop_connection(conn, why.as_deref()) {
            self.step(Input::Disconnected { conn });
        }
    }

    fn drop_connection(&mut self, conn: ConnId, why: Option<&str>) -> bool {
        let Some(mut connection) = self.connections.remove(&conn) else {
            return false;
        };
        connection.close(self.poll.registry());
        self.stock.free_hazards(conn);
        if let Some(why) = why {
            self.services
                .log(&format!("process {} is cut off: {why}", connection.pid()));
        }
        true
    }

    /// Feeds the machine, and performs what it says, until nothing more follows.
    fn step(&mut self, input: Input) {
        self.inputs.push_back(input);
        let mut actions = Vec::new();
        while let Some(input) = self.inputs.pop_front() {
            self.machine.step(self.now(), input, &mut actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
        }
    }

    fn look_at_copies(&mut self) {
        for (domid, gref) in self.stock.drained_copies() {
            self.step(Input::CopyDrained { domid, gref });
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Reply {
                conn,
                tag,
                result,
                attach,
            } => {
                let services = &mut *self.services;
                let ready = result.and_then(|reply| {
                    let fds = self
                        .stock
                        .descriptors(conn, &attach, services)
                        .map_err(refusal)?;
                    Ok((reply, fds))
                });
                let (result, fds) = match ready {
                    Ok((reply, fds)) => (Ok(reply), fds),
                    Err(error) => (Err(error), Vec::new()),
                };
                let Some(connection) = self.connections.get_mut(&conn) else {
                    return;
                };
                if let Err(why) = connection.send(&ReplyFrame { tag, result }, fds)
                    && self.drop_connection(conn, Some(&why))
                {
                    self.inputs.push_back(Input::Disconnected { conn });
                }
            }
            Action::RevokeCopy {
                domid,
                gref,
                generation,
            } => {
                if self.stock.revoke_copy(domid, gref, generation) {
                    self.inputs.push_back(Input::CopyDrained { domid, gref });
                }
            }
            Action::Cut { conn, why } => {
                self.drop_connection(conn, Some(&why));
            }
            Action::DomainCreated { domid, name } => self.services.domain_created(domid, &name),
            Action::DomainReleased { domid } => self.services.domain_released(domid),
            Action::Deadlock(deadlock) => self.services.deadlock(&deadlock),
            Action::Log { line } => self.services.log(&line),
            memory => {
                if let Err(error) = self.stock.perform(memory) {
                    self.services
                        .log(&format!("the host is short of something: {error}"));
                }
            }
        }
    }
}

/// A reply whose memory the host could not provide.
fn refusal(error: Error) -> SimError {
    SimError {
        errno: error.errno().unwrap_or(Errno::NOMEM).raw_os_error(),
        detail: error.to_string(),
        cycle: Vec::new(),
    }
}
