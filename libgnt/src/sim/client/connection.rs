//! The connection to the host: requests with tags out, replies with descriptors in.
//!
//! One thread reads all replies and hands each to the caller that waits for its tag, so a caller
//! that the simulated kernel blocks stops nobody else. Sending never blocks: what the socket does
//! not take at once is queued, and that thread sends it on. The queue is bounded by what the
//! process has open: news without a reply is only ever about something that a reply gave, and
//! every other request is waited for by its caller.

use super::answer::{Answer, Delivery};
use super::mappings::Mappings;
use super::names::SIM;
use crate::error::{Error, Result};
use crate::platform::GuestType;
use crate::sim::events::EventPage;
use crate::sim::frame::{Filled, FrameReader, MAX_DESCRIPTORS, Outgoing, decode};
use crate::sim::hazard::{HAZARD_PAGES, HazardPage};
use crate::sim::memory;
use crate::sim::wire::{HOST_SOCKET, Reply, ReplyFrame, Request, RequestFrame, UnmapMode};
use crate::types::{Access, DomId};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How long a request may take: the host answers in microseconds unless the machine is overloaded
/// or the host is stopped.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);

/// Nothing here is left half-changed by a panic, so a poisoned lock is as good as another.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u64, Sender<Delivery>>,
    /// Why nothing will come any more.
    gone: Option<String>,
}

/// The socket, shared by callers and the reading thread.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
    /// Tells the reading thread that `queue` is no longer empty.
    queued: OwnedFd,
    queue: Mutex<VecDeque<Outgoing>>,
    waiting: Mutex<Waiting>,
    next_tag: AtomicU64,
    deadline: Duration,
}

impl Link {
    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// The errno of the simulated call as [`Error::Device`]; [`Error::Deadlock`];
    /// [`Error::HostGone`], also for a host that does not answer.
    pub fn call(
        &self,
        device: &'static str,
        operation: &'static str,
        request: Request,
    ) -> Result<Answer> {
        let (tag, reply) = self.ask(operation, request)?;
        match reply.recv_timeout(self.deadline) {
            Ok(delivery) => Answer::to(device, operation, delivery),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
            Err(RecvTimeoutError::Timeout) => {
                // Whatever the late reply gives would be nobody's: end it here.
                lock(&self.waiting).calls.remove(&tag);
                self.fail(format!(
                    "did not answer {operation} for {:?}",
                    self.deadline
                ));
                Err(self.gone())
            }
        }
    }

    /// [`Link::call`] without a deadline, for what a kernel before 5.19 may block on. The host
    /// ends it: with the reply, or because it finds that the reply can never come, or by dying.
    ///
    /// # Errors
    /// As [`Link::call`].
    fn call_blocking(
        &self,
        device: &'static str,
        operation: &'static str,
        request: Request,
    ) -> Result<Answer> {
        let (_, reply) = self.ask(operation, request)?;
        match reply.recv() {
            Ok(delivery) => Answer::to(device, operation, delivery),
            Err(_) => Err(self.gone()),
        }
    }

    /// News that nobody waits for, from a `Drop`. Never blocks.
    pub fn tell(&self, request: Request) {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let frame = RequestFrame {
            tag,
            wants_reply: false,
            request,
        };
        match Outgoing::new(&frame, Vec::new()) {
            Ok(frame) => self.send(frame),
            Err(error) => tracing::error!(%error, "news for the simulated Xen's host"),
        }
    }

    fn ask(&self, operation: &'static str, request: Request) -> Result<(u64, Receiver<Delivery>)> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let frame = RequestFrame {
            tag,
            wants_reply: true,
            request,
        };
        let frame = Outgoing::new(&frame, Vec::new())
            .map_err(|e| Error::Invalid(format!("{operation}: {e}")))?;
        let (sender, reply) = bounded(1);
        {
            let mut waiting = lock(&self.waiting);
            if waiting.gone.is_some() {
                drop(waiting);
                return Err(self.gone());
            }
            waiting.calls.insert(tag, sender);
        }
        self.send(frame);
        Ok((tag, reply))
    }

    fn send(&self, mut frame: Outgoing) {
        let mut queue = lock(&self.queue);
        // Behind others: order is part of the protocol.
        if queue.is_empty() {
            match frame.send(self.socket.as_fd()) {
                Ok(true) => return,
                Ok(false) => {}
                // The reading thread finds the end of the stream and says why.
                Err(errno) => return tracing::debug!(%errno, "the simulated Xen's host"),
            }
        }
        queue.push_back(frame);
        // A full counter is readable too.
        let _ = rustix::io::write(&self.queued, &1u64.to_ne_bytes());
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut queue = lock(&self.queue);
        while let Some(frame) = queue.front_mut() {
            if !frame.send(self.socket.as_fd())? {
                break;
            }
            queue.pop_front();
        }
        Ok(())
    }

    fn gone(&self) -> Error {
        let what = lock(&self.waiting).gone.clone();
        Error::HostGone {
            what: what.unwrap_or_else(|| "went away".into()),
        }
    }

    /// Ends the connection; everyone who waits learns it. The first reason stands.
    fn fail(&self, why: String) {
        let mut waiting = lock(&self.waiting);
        waiting.gone.get_or_insert(why);
        waiting.calls.clear();
        drop(waiting);
        // ENOTCONN if the host was first.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// The reading thread.
    fn serve(&self) {
        let mut reader = FrameReader::new(MAX_DESCRIPTORS);
        let why = loop {
            let interest = if lock(&self.queue).is_empty() {
                PollFlags::IN
            } else {
                PollFlags::IN | PollFlags::OUT
            };
            let mut fds = [
                PollFd::new(&self.socket, interest),
                PollFd::new(&self.queued, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => break format!("cannot be waited for: {errno}"),
            }
            let [socket, queued] = fds.map(|fd| fd.revents());
            if !queued.is_empty() {
                let mut counter = [0; 8];
                let _ = rustix::io::read(&self.queued, &mut counter);
            }
            if socket.contains(PollFlags::OUT)
                && let Err(errno) = self.flush()
            {
                tracing::debug!(%errno, "the simulated Xen's host");
            }
            if socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && let Err(why) = self.receive(&mut reader)
            {
                break why;
            }
        };
        self.fail(why);
    }

    fn receive(&self, reader: &mut FrameReader) -> Result<(), String> {
        let nonsense = |e| format!("speaks nonsense: {e}");
        match reader.fill(self.socket.as_fd()).map_err(nonsense)? {
            Filled::Closed => return Err("went away, or cut this process off".into()),
            Filled::WouldBlock => return Ok(()),
            Filled::Bytes => {}
        }
        while let Some(frame) = reader.next_frame().map_err(nonsense)? {
            let reply: ReplyFrame = decode(&frame.payload).map_err(nonsense)?;
            let caller = lock(&self.waiting).calls.remove(&reply.tag);
            if let Some(caller) = caller {
                // A caller that gave up has dropped its end.
                let _ = caller.send((reply.result, frame.descriptors));
            }
        }
        Ok(())
    }
}

/// Ends the connection, and with it the reading thread.
#[derive(Debug)]
struct Leave(Arc<Link>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fail("was left".into());
    }
}

/// This process on the simulated Xen. Devices and mappings keep it alive.
#[derive(Debug)]
pub struct Client {
    link: Leave,
    unmap: UnmapMode,
    guest: GuestType,
    /// This process's hazard slots.
    pub hazards: HazardPage,
    /// What is mapped where.
    pub mappings: Mutex<Mappings>,
    /// Event pages of peers, by their memfd: many ports may lead to one.
    pub peers: Mutex<HashMap<u64, Weak<EventPage>>>,
}

impl Client {
    /// Connects, and joins a domain.
    ///
    /// # Errors
    /// [`Error::NotAvailable`]: no host there. What the host says to the join.
    pub fn connect(dir: &Path, join: Request) -> Result<(Client, DomId)> {
        Self::connect_with(dir, join, REPLY_DEADLINE)
    }

    fn connect_with(dir: &Path, join: Request, deadline: Duration) -> Result<(Client, DomId)> {
        let failed = |operation, errno| Error::device(SIM, operation, errno, "");
        let socket = UnixStream::connect(dir.join(HOST_SOCKET)).map_err(|e| no_host(dir, e))?;
        let queued = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("eventfd", errno))?;
        let link = Leave(Arc::new(Link {
            socket,
            queued,
            queue: Mutex::default(),
            waiting: Mutex::default(),
            next_tag: AtomicU64::new(1),
            deadline,
        }));
        let reading = Arc::clone(&link.0);
        std::thread::Builder::new()
            .name("sim-client".into())
            .spawn(move || reading.serve())
            .map_err(|e| failed("start a thread", crate::shm::errno_of(&e)))?;
        let mut answer = link.0.call(SIM, "join", join)?;
        let Reply::Joined {
            domid,
            unmap,
            guest,
        } = answer.reply
        else {
            return Err(answer.unexpected());
        };
        let hazards = memory::map_whole(answer.take_fd()?, HAZARD_PAGES, Access::ReadWrite)?;
        let client = Client {
            link,
            unmap,
            guest,
            hazards: HazardPage::new(hazards),
            mappings: Mutex::default(),
            peers: Mutex::default(),
        };
        Ok((client, domid))
    }

    /// How this Xen's kernels unmap.
    pub fn unmap_mode(&self) -> UnmapMode {
        self.unmap
    }

    /// What kind of guest the process's domain is.
    pub fn guest_type(&self) -> GuestType {
        self.guest
    }

    /// For calls that wait for page references or for an invalidation in the `sync` mode. In the
    /// `async` mode no such call waits, so none gets more time than others.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub fn call_memory_manager(
        &self,
        device: &'static str,
        operation: &'static str,
        request: Request,
    ) -> Result<Answer> {
        match self.unmap {
            UnmapMode::Async => self.call(device, operation, request),
            UnmapMode::Sync => self.call_blocking(device, operation, request),
        }
    }
}

impl std::ops::Deref for Client {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link.0
    }
}

/// Nobody serves the directory.
fn no_host(dir: &Path, cause: impl std::fmt::Display) -> Error {
    Error::not_available(
        "the simulated Xen",
        format!("no host serves {}: {cause}", dir.display()),
        &format!(
            "start the simulated Xen's host that serves {}",
            dir.display()
        ),
    )
}

#[cfg(test)]
mod tests;
