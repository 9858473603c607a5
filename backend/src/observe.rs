//! What a back end does, told as it happens: for tests, which judge it from outside.

use crate::machine::DataMode;
use libgnt::grant::UnmapId;
use libgnt::observe::{self, Happened};
use libgnt::proto::blkif::Status;
use std::time::Duration;

/// Something that happened.
pub type BackEvent = Happened<BackEventKind>;
pub(crate) type Tell = observe::Tell<BackEventKind>;

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
