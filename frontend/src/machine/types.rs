//! What goes into the machine and what comes out of it.

use super::io::{DeviceError, DiskInfo, IoError, IoKey, IoRequest, ProtocolError};
use super::pages::PageList;
use libgnt::GrantRef;
use libgnt::proto::blkif;
use libgnt::ring::RingError;
use std::time::Duration;

/// The machine's bounds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// I/Os accepted and not completed.
    pub queue: usize,
    /// How long an I/O may take while a back end is connected.
    pub deadline: Duration,
}

impl Limits {
    /// These bounds.
    pub fn new(queue: usize, deadline: Duration) -> Limits {
        Limits { queue, deadline }
    }
}

/// A connection to a back end: what was negotiated, and fresh pages.
#[derive(Clone, Debug)]
pub struct Session {
    /// The disk.
    pub disk: DiskInfo,
    /// Slots of the ring.
    pub ring_slots: u32,
    /// `virtual-device`, which requests echo.
    pub handle: u16,
    /// Granted writable: the back end fills them.
    pub read_pages: Vec<GrantRef>,
    /// Granted read-only; `None` where persistent grants were asked for: every page serves both
    /// ways.
    pub write_pages: Option<Vec<GrantRef>>,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum Input {
    /// A caller asks for an I/O. It is accepted, unless [`Action::Refuse`] follows, and goes on the
    /// ring with an [`Input::Push`].
    Submit {
        /// The driver's name for it.
        io: IoKey,
        /// What is asked.
        request: IoRequest,
    },
    /// There may be room on the ring: puts there what fits, oldest first. Reads and writes pass each
    /// other where one of them lacks pages; nothing passes a flush.
    Push,
    /// The back end has put a response on the ring.
    Response {
        /// A copy of it.
        response: blkif::Response,
        /// One of the request's grants (`FrontMachine::grants_of`) that the back end is seen to map
        /// still, where that can be seen and grants are not persistent.
        still_mapped: Option<GrantRef>,
    },
    /// Time has passed: I/Os may be overdue. `FrontMachine::next_deadline` says when to look.
    Tick,
    /// A back end is connected, on a fresh ring and fresh pages. Deadlines start anew.
    Connected(Box<Session>),
    /// The back end says that the disk has another size now. Requests on the ring are for it to
    /// answer; what is not there yet, and reaches past the new end, fails.
    Resized {
        /// In units of 512 bytes.
        sectors: u64,
    },
    /// The back end died or closed. What it had not answered is kept for the next one; the driver
    /// does not use pages and ring of this connection again.
    BackGone,
    /// The ring itself is broken.
    RingBroken(RingError),
    /// No more waiting for a back end, or the caller closes: everything pending ends with this
    /// error, and nothing more is accepted.
    GiveUp(DeviceError),
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// For a write, copy `len` bytes of the I/O's data from byte `start` on into the pages, each
    /// full but the last; then push the request.
    Push {
        /// Whose.
        io: IoKey,
        /// What.
        request: blkif::Request,
        /// Its pages, in the order of the segments.
        pages: PageList,
        /// Byte of the I/O's data.
        start: usize,
        /// Bytes.
        len: usize,
    },
    /// Copy `len` bytes out of the pages to the I/O's data from byte `start` on. The pages may be
    /// used again by a later action.
    CopyOut {
        /// Whose.
        io: IoKey,
        /// From.
        pages: PageList,
        /// Byte of the I/O's data.
        start: usize,
        /// Bytes.
        len: usize,
    },
    /// The back end is done with this request: its pages are free.
    Released {
        /// The request's id.
        id: u64,
        /// Its pages.
        pages: PageList,
    },
    /// The I/O is over; the key is free.
    Complete {
        /// Which.
        io: IoKey,
        /// How.
        result: Result<(), IoError>,
    },
    /// The I/O was not accepted; the key is free.
    Refuse {
        /// Which.
        io: IoKey,
        /// [`IoError::QueueFull`], [`IoError::Device`], or one of [`IoRequest::check`].
        error: IoError,
    },
    /// Close the device, and say why. Everything was completed before this.
    Fatal(ProtocolError),
}
