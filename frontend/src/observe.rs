//! What a front end does, told as it happens: for tests, which judge it from outside.

use libgnt::machine::monotonic;
use libgnt::{DomId, GrantRef};
use std::time::Duration;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FrontEvent {
    /// `CLOCK_MONOTONIC`: comparable between the processes of one machine.
    pub at: Duration,
    /// What.
    pub kind: FrontEventKind,
}

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

/// Gets every event, in order, on the front end's thread: be quick.
pub trait Observer: Send {
    /// One event.
    fn event(&mut self, event: FrontEvent);

    /// False: only events for which [`FrontEventKind::is_rare`] holds are wanted. Asked once.
    fn each_request(&self) -> bool {
        true
    }
}

impl<F: FnMut(FrontEvent) + Send> Observer for F {
    fn event(&mut self, event: FrontEvent) {
        self(event);
    }
}

impl std::fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// Tells the observer, if there is one.
#[derive(Debug)]
pub(crate) struct Tell {
    observer: Option<Box<dyn Observer>>,
    each_request: bool,
}

impl Tell {
    pub(crate) fn new(observer: Option<Box<dyn Observer>>) -> Self {
        let each_request = observer.as_ref().is_some_and(|o| o.each_request());
        Tell {
            observer,
            each_request,
        }
    }

    /// Does anybody want to hear of each request?
    pub(crate) fn is_each_wanted(&self) -> bool {
        self.each_request
    }

    /// Tells what happens once in a connection. `kind` is built only if somebody listens.
    pub(crate) fn tell(&mut self, kind: impl FnOnce() -> FrontEventKind) {
        if let Some(observer) = &mut self.observer {
            observer.event(FrontEvent {
                at: monotonic(),
                kind: kind(),
            });
        }
    }

    /// The same for what happens once in a request.
    pub(crate) fn tell_each(&mut self, kind: impl FnOnce() -> FrontEventKind) {
        if self.each_request {
            self.tell(kind);
        }
    }
}
