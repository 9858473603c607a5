//! The server's sockets: a thread with a mio loop around [`Server`].
//!
//! Connections through the Unix socket have dom0's rights, as with xenstored; a domain's
//! connection is a socket that somebody who knows the domain attaches.

mod error;

mod connection;
mod saver;
mod socket;

mod thread;
mod turn;

pub use error::ServiceError;
pub use socket::DomainSocket;

use super::daemon::Daemon;
use super::machine::{Server, Settings, StoreSabotage};
use super::queue::QueueLimits;
use super::quota::Quotas;
use super::rate::WriteRate;
use crossbeam::channel::{Receiver, Sender, bounded};
use libgnt::DomId;
use mio::{Interest, Poll, Waker};
use saver::Saver;
use socket::Listener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thread::{Message, Opened, Service, WAKER, listener_token};

/// Messages of handles that may wait. With more, a handle waits: the thread takes them all whenever it
/// is woken, and waits for nobody itself. Whoever has put one in wakes it, so a full queue is taken.
const MESSAGES: usize = 64;
/// How long a handle waits for the thread. It does nothing that takes long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How to run it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen for dom0; nowhere if `None`.
    pub socket: Option<PathBuf>,
    /// Where to listen for domains.
    pub domain_sockets: Vec<DomainSocket>,
    /// Whose answers it gives.
    pub daemon: Daemon,
    /// Where to keep the tree, so that the next server goes on with it; nowhere if `None`. It is written
    /// soon after each change, at most five times a second, and at the end. Where it cannot be written it is
    /// tried again every second; what cannot be written at the end is the error of [`ServerHandle::wait`].
    pub state: Option<PathBuf>,
    /// Limits on domains.
    pub quotas: Quotas,
    /// How fast domains may write into others' transactions; `None`: as fast as they like.
    pub write_rate: Option<WriteRate>,
    /// Limits on each connection's queue.
    pub queue: QueueLimits,
    /// Broken on purpose, to see that tests notice.
    pub sabotage: Option<StoreSabotage>,
}

struct Shared {
    messages: Sender<Message>,
    waker: Arc<Waker>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Says why the thread has ended by itself; is cut off when it has ended.
    ended: Receiver<ServiceError>,
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
    pub fn start(config: ServerConfig) -> Result<ServerHandle, ServiceError> {
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
        let mut listeners = Vec::new();
        let dom0 = config.socket.iter().map(|path| (DomId::DOM0, path));
        let domains = config.domain_sockets.iter().map(|s| (s.domid, &s.path));
        for (n, (domid, path)) in dom0.chain(domains).enumerate() {
            let mut listener = Listener::bind(domid, path)?;
            poll.registry()
                .register(&mut listener.socket, listener_token(n), Interest::READABLE)
                .map_err(io("epoll_ctl", &Some(path.clone())))?;
            listeners.push(listener);
        }
        // Only who has the socket reads and writes the state.
        let kept = config
            .state
            .as_deref()
            .map(saver::read)
            .transpose()?
            .flatten();
        let saver = config
            .state
            .clone()
            .map(|path| Saver::start(path, Arc::clone(&waker)))
            .transpose()
            .map_err(io("clone", &None))?;
        let (messages, inbox) = bounded(MESSAGES);
        // Room for the one error, so that the thread never waits with it.
        let (end, ended) = bounded(1);
        let opened = Opened {
            poll,
            waker: Arc::clone(&waker),
            listeners,
            saver,
            inbox,
        };
        let settings = Settings {
            daemon: config.daemon,
            quotas: config.quotas,
            write_rate: config.write_rate,
            sabotage: config.sabotage,
        };
        let server = match &kept {
            Some(state) => Server::restored(settings, state),
            None => Server::new(settings),
        };
        let service = Service::new(opened, server, config.queue);
        let thread = std::thread::Builder::new()
            .name("xenstore".into())
            .spawn(move || {
                if let Err(error) = service.run() {
                    let _ = end.try_send(error);
                }
            })
            .map_err(io("clone", &None))?;
        let thread = Mutex::new(Some(thread));
        Ok(ServerHandle(Arc::new(Shared {
            messages,
            waker,
            thread,
            ended,
        })))
    }

    /// Serves a socket as an open `/dev/xen/xenbus` of a domain's ([`Input::Connected`](super::machine::Input::Connected), a device).
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
    /// ([`domain_nodes`](crate::domain::domain_nodes)), then fires `@introduceDomain`. Done when this returns.
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

    /// Waits until the thread has ended, by [`ServerHandle::stop`] or by itself.
    ///
    /// # Errors
    /// Why it has ended by itself. Only the first who asks is told.
    pub fn wait(&self) -> Result<(), ServiceError> {
        self.0.ended.recv().map_or(Ok(()), Err)
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
