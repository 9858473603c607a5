//! What the loop and the thread of xenstore tell each other.

use crate::machine::DiskInfo;
use libgnt::DomId;
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::DriverBound;
use std::fmt;

/// What the loop has to do or know.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// A back end waits for a ring: make a fresh one, then `Bus::ring_ready`.
    Share { back: DomId },
    /// It uses that ring now.
    Connected {
        disk: DiskInfo,
        handle: u16,
        liveness: bool,
    },
    /// The disk has another size now, in units of 512 bytes.
    Resized { sectors: u64 },
    /// Put nothing more on the ring. With `drain`, say `Bus::quiet` when all is answered.
    Stop { why: String, drain: bool },
    /// Give up the ring, then `Bus::freed`.
    Free,
    /// The device is gone for good; nothing follows.
    Removed { why: String },
    /// The kernel's own driver has taken the device; nothing follows.
    Taken(DriverBound),
}

/// What the loop has done, or learned.
#[derive(Debug)]
pub(super) enum Report {
    /// To [`BusEvent::Share`]: what the ring is to be announced with.
    RingReady(Vec<(&'static str, String)>),
    /// To [`BusEvent::Share`]: there is none.
    RingFailed(String),
    /// After [`BusEvent::Stop`]: every request is answered.
    Quiet,
    /// To [`BusEvent::Free`]: done.
    Freed,
    /// The back end's process is dead, whatever its node says.
    PeerDied,
    /// Leave the reason where tools look for it, and close.
    Fail(String),
    /// Close.
    Close,
    /// No more waiting for the back end.
    Abandon,
}

/// Who is in which state, for messages.
#[derive(Debug)]
pub(super) struct Situation {
    /// The back end's directory.
    pub back: String,
    pub back_domid: DomId,
    pub peer: Option<XenbusState>,
    pub peer_dead: bool,
    pub own: XenbusState,
    /// Something is being asked of xenstore.
    pub asking: bool,
}

impl Situation {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Situation {
            back: String::new(),
            back_domid: DomId::DOM0,
            peer: None,
            peer_dead: false,
            own: XenbusState::Unknown,
            asking: false,
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the back end in {} ", self.back_domid)?;
        match self.peer {
            Some(state) => write!(f, "is {state}")?,
            None => write!(f, "has no {}/state", self.back)?,
        }
        if self.peer_dead {
            f.write_str(" and its process is dead")?;
        }
        write!(f, ", this front end is {}", self.own)?;
        if self.asking {
            f.write_str("; xenstored has not answered yet")?;
        }
        Ok(())
    }
}
