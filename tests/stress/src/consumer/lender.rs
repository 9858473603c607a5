//! The mapper's side: takes references to pages and sends them to the consumer.

use super::wire::{self, Answer, ToConsumer};
use libgnt::SharedPages;
use libgnt::types::ForeignGrant;
use pv_harness::error::{Error, Result};
use pv_harness::holder::Holder;
use pv_harness::timeline::{Event, Timeline};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with,
};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Which requests' pages are lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LendPolicy {
    /// No more holds at once than this, so that other requests go on. A back end stops taking
    /// requests when too many of its unmaps are deferred.
    pub at_once: usize,
    /// And no more in all.
    pub in_all: u64,
    /// Only pages that are mapped for writing: those of the front end's reads.
    pub writable_only: bool,
}

/// Lends pages to the consumer that listens on a socket.
pub struct Lender {
    shared: Arc<Shared>,
    policy: LendPolicy,
    lent: u64,
    /// Why the first hold of all could not be had.
    failure: Option<String>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    holder: Mutex<Box<dyn Holder>>,
    socket: OwnedFd,
    state: Mutex<State>,
    timeline: Timeline,
}

#[derive(Default)]
struct State {
    /// Sent, and not known to have arrived: ours to drop should the consumer die.
    unanswered: HashMap<u64, Vec<u64>>,
    /// In the consumer's hands.
    taken: HashSet<u64>,
    /// The consumer is gone.
    closed: bool,
    /// This side is ending, so the socket's end is no news.
    ending: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abandon(&self, hold: u64, words: &[u64]) {
        if let Err(error) = self.holder().abandon(words) {
            // Taken in the very moment that the consumer died, say: then it is gone already.
            tracing::debug!(hold, %error, "abandoning a hold");
        }
    }

    fn taken(&self, hold: u64) {
        let words = {
            let mut state = self.state();
            state.taken.insert(hold);
            state.unanswered.remove(&hold)
        };
        if let Some(words) = words {
            self.holder().taken(&words);
        }
    }

    fn holder(&self) -> MutexGuard<'_, Box<dyn Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes answers until the consumer is gone, then drops what it never took.
    fn read_answers(&self) {
        loop {
            match wire::receive::<Answer>(&self.socket) {
                Ok((Answer::Taken(hold), _)) => self.taken(hold),
                Ok((Answer::Released(hold), _)) => {
                    self.state().taken.remove(&hold);
                }
                Ok((Answer::Refused(hold), _)) => {
                    let words = self.state().unanswered.remove(&hold);
                    if let Some(words) = words {
                        self.abandon(hold, &words);
                    }
                }
                Err(error) => {
                    self.lost(&error);
                    return;
                }
            }
        }
    }

    fn lost(&self, error: &io::Error) {
        let unanswered = {
            let mut state = self.state();
            if state.closed {
                return;
            }
            state.closed = true;
            state.taken.clear();
            std::mem::take(&mut state.unanswered)
        };
        self.timeline.log(Event::PeerLost {
            how: format!("the consumer's socket: {error}"),
        });
        for (hold, words) in unanswered {
            self.abandon(hold, &words);
        }
    }
}

/// Unique in this process; the pid makes it so among processes.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Lender {
    /// Connects to the consumer.
    ///
    /// # Errors
    /// [`Error::Environment`]: nobody listens there.
    pub fn connect(
        socket: &Path,
        holder: Box<dyn Holder>,
        policy: LendPolicy,
        timeline: Timeline,
    ) -> Result<Lender> {
        let path: PathBuf = socket.to_owned();
        let link =
            open(socket).map_err(|error| Error::file(&path, error, "start the consumer first"))?;
        let shared = Arc::new(Shared {
            holder: Mutex::new(holder),
            socket: link,
            state: Mutex::default(),
            timeline,
        });
        let reads = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name("lender".into())
            .spawn(move || reads.read_answers())
            .map_err(|error| Error::environment("a thread", error, "raise ulimit -u"))?;
        Ok(Lender {
            shared,
            policy,
            lent: 0,
            failure: None,
            reader: Some(reader),
        })
    }

    /// Lends a request's pages if the policy has room and the consumer lives. A hold that cannot be
    /// had is no failure of the request: it goes on unheld. Returns the hold.
    pub fn offer(
        &mut self,
        pages: &SharedPages,
        grants: &[ForeignGrant],
        request: u64,
    ) -> Option<u64> {
        let unsuitable = self.policy.writable_only && !pages.access().writable();
        if unsuitable || self.failure.is_some() {
            return None;
        }
        {
            let state = self.shared.state();
            let out = state.taken.len() + state.unanswered.len();
            if state.closed || out >= self.policy.at_once || self.lent >= self.policy.in_all {
                return None;
            }
        }
        let hold = u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = self.lend(pages, grants, request, hold) {
            tracing::warn!(request, "lending its pages: {why}");
            let text = format!("request {request} was not lent: {why}");
            self.shared.timeline.log(Event::Note { text });
            if self.lent == 0 {
                self.failure.get_or_insert(why);
            }
            return None;
        }
        Some(hold)
    }

    /// Why this holder does not work here: not even the first hold could be had.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Tells the consumer that the call that unmaps a hold's pages has returned.
    pub fn unmap_returned(&self, hold: u64) {
        let told = wire::send(&self.shared.socket, &ToConsumer::UnmapReturned(hold), &[]);
        if let Err(error) = told {
            // It is gone, and its holds with it.
            tracing::debug!(hold, %error, "telling of an unmap");
        }
    }

    fn lend(
        &mut self,
        pages: &SharedPages,
        grants: &[ForeignGrant],
        request: u64,
        hold: u64,
    ) -> std::result::Result<(), String> {
        let export = self
            .shared
            .holder()
            .hold(pages, 0, pages.pages())
            .map_err(|error| error.to_string())?;
        // Before it is sent: the answer may come at once, and so may the consumer's own record.
        self.shared
            .state()
            .unanswered
            .insert(hold, export.words.clone());
        self.shared.timeline.log(Event::Lent {
            request,
            hold,
            grants: grants.to_vec(),
        });
        match wire::send_offer(&self.shared.socket, hold, &export) {
            Ok(()) => {
                self.lent += 1;
                Ok(())
            }
            Err(error) => {
                let words = self.shared.state().unanswered.remove(&hold);
                if let Some(words) = words {
                    self.shared.abandon(hold, &words);
                }
                Err(format!("the consumer: {error}"))
            }
        }
    }
}

#[cfg(test)]
impl Lender {
    pub(super) fn shared_taken(&self) -> usize {
        self.shared.state().taken.len()
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &address)?;
    Ok(socket)
}

impl Drop for Lender {
    /// The consumer keeps what it has; what is still under way comes back to nobody, and is dropped.
    fn drop(&mut self) {
        self.shared.state().ending = true;
        if let Err(errno) = shutdown(&self.shared.socket, Shutdown::Both) {
            tracing::debug!(%errno, "the consumer's socket");
        }
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("the lender's thread panicked");
        }
    }
}
