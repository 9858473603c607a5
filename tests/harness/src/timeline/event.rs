//! What can happen in a run.

use super::kernel::KernelEvent;
use crate::settings::HoldName;
use libgnt::inspect::Deadlock;
use libgnt::types::{ForeignGrant, GrantRef};
use serde::{Deserialize, Serialize};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoKind {
    /// From the device.
    Read,
    /// To the device.
    Write,
    /// Make what was written durable.
    Flush,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The process began its work.
    Started {
        /// As what.
        role: String,
    },
    /// It is about to wait; the last one of these explains a process that hangs.
    Waiting {
        /// For what.
        what: String,
    },
    /// Something for a person to read.
    Note {
        /// The text.
        text: String,
    },
    /// The file is full: nothing after this was recorded.
    Truncated,
    /// The process ended its work by itself.
    Finished,

    /// Front end: the device is connected.
    Connected {
        /// How often so far, this time included.
        epoch: u32,
    },
    /// An end noticed that the other is gone.
    PeerLost {
        /// How it knows.
        how: String,
    },
    /// Front end: a request went on the ring. Using a page for the next request is reusing it.
    Submitted {
        /// The request's number, never reused in a process.
        request: u64,
        /// What it does.
        kind: IoKind,
        /// First 512-byte sector.
        sector: u64,
        /// Bytes.
        bytes: u64,
        /// The granted pages it uses.
        grefs: Vec<GrantRef>,
        /// SHA-256 of the data, for writes.
        sha: Option<String>,
    },
    /// Front end: took a response off the ring: from here on it may use the pages again.
    AnswerTaken {
        /// Which.
        request: u64,
    },
    /// Front end: an I/O succeeded. For a write, the data must never be lost from here on.
    Acknowledged {
        /// Which.
        request: u64,
    },
    /// Front end: an I/O failed.
    Refused {
        /// Which.
        request: u64,
        /// The reason.
        why: String,
    },
    /// Front end, after taking a response: does the hypervisor show the pages as in use?
    InUseAfterAnswer {
        /// The request whose pages these were.
        request: u64,
        /// Those still mapped by the peer.
        in_use: Vec<GrantRef>,
    },

    /// Back end: a request's pages are mapped, and its data is in place.
    Mapped {
        /// The back end's number for it, never reused in a process.
        request: u64,
        /// The front end's number for it.
        id: u64,
        /// The pages.
        grants: Vec<ForeignGrant>,
    },
    /// Back end: references to a request's mapped pages went to the third consumer.
    Lent {
        /// The back end's number.
        request: u64,
        /// Names the hold in all processes.
        hold: u64,
        /// The pages.
        grants: Vec<ForeignGrant>,
    },
    /// Back end: about to unmap.
    UnmapBegan {
        /// The back end's number.
        request: u64,
        /// The pages.
        grants: Vec<ForeignGrant>,
    },
    /// Back end: the unmap call returned.
    UnmapReturned {
        /// The back end's number.
        request: u64,
        /// How long the call took.
        took_us: u64,
        /// Its error, if it had one.
        error: Option<String>,
    },
    /// Back end: an unmap failed outside of a request's call, when it was tried again, say.
    UnmapFailed {
        /// Its error.
        error: String,
    },
    /// Back end: the unmap's event came: the hypervisor has unmapped.
    Released {
        /// The back end's number.
        request: u64,
    },
    /// Back end: the response went on the ring.
    Answered {
        /// The back end's number.
        request: u64,
        /// With status okay?
        ok: bool,
    },

    /// Consumer: has the pages.
    Held {
        /// Which hold.
        hold: u64,
        /// How.
        kind: HoldName,
        /// How many.
        pages: u32,
    },
    /// Consumer: read the live pages through its own reference.
    Checksum {
        /// Which hold.
        hold: u64,
        /// SHA-256, or `None` where this kind of holder cannot look.
        sha: Option<String>,
    },
    /// Consumer: would let go, and may not before the call that unmaps the pages has returned.
    AwaitsUnmap {
        /// Which hold.
        hold: u64,
    },
    /// Consumer: about to release.
    HoldReleasing {
        /// Which hold.
        hold: u64,
    },
    /// Consumer: the release returned.
    HoldReleased {
        /// Which hold.
        hold: u64,
        /// Its error, if it had one.
        error: Option<String>,
    },

    /// The run: a process is about to be killed on purpose.
    Killed {
        /// Which.
        who: String,
    },

    /// Observer: what the domain's kernel did.
    Kernel(KernelEvent),

    /// Host: a wait-for cycle was found and broken.
    Deadlock {
        /// The cycle.
        deadlock: Deadlock,
    },
}
