//! What a front end does, told as it happens: for tests, which judge it from outside.

use libgnt::observe::{self, Happened};
use libgnt::{DomId, GrantRef};

/// Something that happened.
pub type FrontEvent = Happened<FrontEventKind>;
pub(crate) type Tell = observe::Tell<FrontEventKind>;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum FrontEventKind {
    /// A back end is connected.
    Connected {
        /// Its domain.
        back: DomId,
        /// The ring page's grant.
        ring: GrantRef,
        /// Data pages granted.
        pages: usize,
        /// Persistent grants on both sides.
        persistent: bool,
        /// Not the first time.
        again: bool,
    },
    /// The back end has changed the disk's size, in units of 512 bytes, while it serves.
    Resized {
        /// Before.
        from: u64,
        /// Now.
        to: u64,
    },
    /// A request is on the ring.
    Submitted {
        /// Its id.
        id: u64,
        /// The caller's tag of its I/O.
        tag: u64,
        /// `BLKIF_OP_*`.
        operation: u8,
        /// In units of 512 bytes.
        sector: u64,
        /// Its pages.
        grants: Vec<GrantRef>,
    },
    /// A page that has carried a request before carries another.
    PageReused {
        /// The page.
        grant: GrantRef,
        /// The new request.
        id: u64,
    },
    /// The back end answered a request: its pages are free.
    Answered {
        /// Its id.
        id: u64,
        /// Its pages.
        grants: Vec<GrantRef>,
    },
    /// An I/O is over.
    Completed {
        /// The caller's tag.
        tag: u64,
        /// The error, if it failed.
        error: Option<String>,
    },
    /// The back end died, closed or was removed. Unanswered requests wait for another one.
    BackendGone {
        /// How that showed.
        why: String,
        /// Requests without an answer.
        unanswered: u32,
    },
    /// The connection is over, but its back end still maps these: set aside, not reused.
    StillInUse {
        /// Which.
        grants: Vec<GrantRef>,
    },
    /// A back end waits for a ring, and there are too few pages for one. Told once for each such
    /// wait, which goes on.
    NoRoom {
        /// Who has them.
        why: String,
    },
    /// The back end let go of grants that were set aside.
    LetGo {
        /// Which.
        grants: Vec<GrantRef>,
    },
    /// The device takes no more I/O.
    Failed {
        /// Why.
        why: String,
    },
    /// Closed from this side; nothing is left.
    Closed,
}

impl FrontEventKind {
    /// True for what happens once in a connection, not once in a request.
    pub fn is_rare(&self) -> bool {
        !matches!(
            self,
            FrontEventKind::Submitted { .. }
                | FrontEventKind::PageReused { .. }
                | FrontEventKind::Answered { .. }
                | FrontEventKind::Completed { .. }
        )
    }
}
