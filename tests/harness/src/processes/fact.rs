//! What a process tells its run, for the scenario to wait for, or for its judge.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that a scenario waits for, or judges by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// Front end: the whole input is written, and flushed.
    Sent {
        /// SHA-256 of the input as it was read, in hexadecimal.
        digest: String,
    },
    /// Front end: everything is read back.
    ReadBack {
        /// SHA-256 of what came, in hexadecimal.
        digest: String,
    },
    /// Front end: its device is closed.
    EventReads {
        /// How often it read its event channel while the device was open.
        count: u64,
    },
    /// Front end: its back end is gone.
    BackEndGone {
        /// How it knows.
        how: String,
        /// Requests without an answer.
        unanswered: u32,
    },
    /// Back end: its device is closed.
    Closed {
        /// How many unmaps were still under way.
        zombies: usize,
    },
    /// An end: it stands still, and waits to be killed.
    Frozen {
        /// Where.
        at: Point,
    },
    /// Consumer: it has the pages of one more request.
    Taken {
        /// How many requests' pages it has taken over so far.
        holds: u64,
    },
}

/// Where, in the work of an end, it can stand still to be killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// Back end: a request's pages are mapped, its data in place, its unmap not begun.
    Mapped,
    /// Back end: the unmap was called.
    Unmapping,
    /// Back end: the hypervisor has unmapped, and the answer is not written.
    Released,
    /// Back end: the answer is written.
    Answered,
    /// Front end: the request is on the ring.
    Submitted,
    /// Front end: the answer is off the ring, and nobody was told.
    Taken,
}

impl Point {
    /// A back end's.
    pub const BACK: [Point; 4] = [
        Point::Mapped,
        Point::Unmapping,
        Point::Released,
        Point::Answered,
    ];
    /// A front end's.
    pub const FRONT: [Point; 2] = [Point::Submitted, Point::Taken];
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Point::Mapped => "mapped",
            Point::Unmapping => "unmapping",
            Point::Released => "released",
            Point::Answered => "answered",
            Point::Submitted => "submitted",
            Point::Taken => "taken",
        })
    }
}
