//! What a program that embeds the back end may watch and do: a test lends the pages of requests
//! to a third party, and records what happens when.

use crate::machine::DataMode;
pub use crate::machine::RequestInfo;
use libgnt::grant::{Map, UnmapId};
use libgnt::machine::monotonic;
use libgnt::proto::blkif::Status;
use std::time::Duration;

/// Shows the pages of a request to somebody else, as a display server hands them to a GPU driver.
pub trait PageLender: Send {
    /// Called for each request in [`DataMode::Map`] when its data is in place, right before its
    /// unmap begins, on the event loop: return at once, keep no clone of [`Map::pages`] (a hold on
    /// the *pages* is what this is for: a pin, a pipe, a forked child).
    fn lend(&mut self, map: &Map, request: &RequestInfo);
}

/// Sees everything that happens, in order.
pub trait Observer: Send {
    /// Called on the event loop: return at once.
    fn event(&mut self, event: BackEvent);

    /// False: only events for which [`BackEventKind::is_rare`] holds are wanted. Asked once.
    fn each_request(&self) -> bool {
        true
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct BackEvent {
    /// `CLOCK_MONOTONIC`: comparable between the processes of one machine.
    pub at: Duration,
    /// What.
    pub kind: BackEventKind,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BackEventKind {
    /// The device waits for a front.
    Waiting,
    /// A front is connected.
    Connected {
        /// How data travels.
        mode: DataMode,
    },
    /// A request's pages, or one page to keep, were mapped.
    MapDone {
        /// How many.
        pages: usize,
        /// How long it took.
        took: Duration,
    },
    /// A map failed; nothing of it is left.
    MapFailed {
        /// Which grants, and why.
        error: String,
    },
    /// Unmap was called and returned. The pages may be held on.
    UnmapBegun {
        /// The unmap's name.
        unmap: UnmapId,
        /// The request, if it was one's own map.
        request: Option<u64>,
        /// How many pages.
        pages: usize,
        /// How long the call took: milliseconds at most, whoever holds the pages.
        took: Duration,
    },
    /// Unmap said no, or reported an error. In the simulator's `sync` mode, a deadlock is told here.
    UnmapFailed {
        /// What is wrong.
        error: String,
        /// True: it will be tried again; told once, until all that waited went. False: it goes on by
        /// itself.
        retried: bool,
    },
    /// The hypervisor has unmapped.
    Released {
        /// The unmap's name.
        unmap: UnmapId,
        /// The request, if it was one's own map.
        request: Option<u64>,
        /// Time since the unmap began.
        after: Duration,
    },
    /// A response was put on the ring.
    Responded {
        /// The front's name for the request.
        id: u64,
        /// How it went.
        status: Status,
    },
    /// Too many unmaps are outstanding: no requests are taken (`on`), or they are again.
    BackPressure {
        /// Begins or ends.
        on: bool,
        /// Unmaps outstanding.
        zombies: usize,
    },
    /// The disk failed a request; the device goes on. After a failed flush it only reads.
    DiskFailed {
        /// The image, the operation, the cause.
        error: String,
    },
    /// The front died, or its domain did.
    FrontGone {
        /// How that was noticed.
        how: String,
    },
    /// The front broke the protocol; the device closes.
    Fatal {
        /// How.
        reason: String,
    },
    /// The device is closed. It may be opened again.
    Closed {
        /// Unmaps that are still outstanding.
        zombies: usize,
    },
}

impl BackEventKind {
    /// True for what happens once in a connection, not once in a request.
    pub fn is_rare(&self) -> bool {
        !matches!(
            self,
            BackEventKind::MapDone { .. }
                | BackEventKind::UnmapBegun { .. }
                | BackEventKind::Released { .. }
                | BackEventKind::Responded { .. }
                | BackEventKind::BackPressure { .. }
        )
    }
}

/// The hooks of one device; both may be absent.
#[derive(Default)]
pub struct Hooks {
    /// Who is lent pages.
    pub lender: Option<Box<dyn PageLender>>,
    /// Who watches.
    pub observer: Option<Box<dyn Observer>>,
    /// What the observer said to [`Observer::each_request`].
    each: Option<bool>,
}

impl Hooks {
    /// Both, or either.
    pub fn new(lender: Option<Box<dyn PageLender>>, observer: Option<Box<dyn Observer>>) -> Self {
        Hooks {
            lender,
            observer,
            each: None,
        }
    }

    /// Tells of something rare.
    pub(crate) fn tell(&mut self, kind: BackEventKind) {
        if let Some(observer) = &mut self.observer {
            observer.event(BackEvent {
                at: monotonic(),
                kind,
            });
        }
    }

    /// Tells of something that each request does: not even built if nobody wants to know.
    pub(crate) fn tell_each(&mut self, kind: impl FnOnce() -> BackEventKind) {
        let observer = self.observer.as_deref();
        if *self
            .each
            .get_or_insert_with(|| observer.is_some_and(Observer::each_request))
        {
            self.tell(kind());
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("lender", &self.lender.is_some())
            .field("observer", &self.observer.is_some())
            .finish()
    }
}
