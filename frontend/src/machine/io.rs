//! What callers ask of a disk, and how it can end.

use libgnt::GrantRef;
use libgnt::proto::blkif::{self, Operation, SECTOR_SIZE};
use libgnt::ring::RingError;
use std::fmt;
use std::time::Duration;

pub use libgnt::proto::blkif::nodes::DiskInfo;

/// The driver's name for an I/O: a number below `Limits::queue`, in use from its
/// `Input::Submit` to its `Action::Complete` or `Action::Refuse`; then it may name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoKey(pub usize);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOp {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make every write that was submitted before durable.
    Flush,
}

impl IoOp {
    /// The operation on the ring.
    pub fn operation(self) -> Operation {
        match self {
            IoOp::Read => Operation::Read,
            IoOp::Write => Operation::Write,
            IoOp::Flush => Operation::Flush,
        }
    }

    /// `BLKIF_OP_*`, which the response echoes.
    pub fn number(self) -> u8 {
        self.operation().number()
    }
}

/// One I/O of a caller; it may take several requests on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoRequest {
    /// What.
    pub op: IoOp,
    /// First sector, in units of 512 bytes; 0 for a flush.
    pub sector: u64,
    /// How many units of 512 bytes; 0 for a flush.
    pub sectors: u32,
}

impl IoRequest {
    /// A read.
    pub fn read(sector: u64, sectors: u32) -> Self {
        IoRequest {
            op: IoOp::Read,
            sector,
            sectors,
        }
    }
    /// A write.
    pub fn write(sector: u64, sectors: u32) -> Self {
        IoRequest {
            op: IoOp::Write,
            sector,
            sectors,
        }
    }
    /// A flush.
    pub fn flush() -> Self {
        IoRequest {
            op: IoOp::Flush,
            sector: 0,
            sectors: 0,
        }
    }

    /// Checks it against the disk.
    ///
    /// # Errors
    /// [`IoError::Empty`], [`IoError::Misaligned`], [`IoError::OutOfRange`], [`IoError::ReadOnly`],
    /// [`IoError::FlushNotSupported`].
    pub fn check(&self, disk: &DiskInfo) -> Result<(), IoError> {
        if self.op == IoOp::Flush {
            return if disk.flush {
                Ok(())
            } else {
                Err(IoError::FlushNotSupported)
            };
        }
        let unit = u64::from(disk.sector_size / SECTOR_SIZE as u32).max(1);
        if self.sectors == 0 {
            return Err(IoError::Empty);
        }
        if !self.sector.is_multiple_of(unit) || !u64::from(self.sectors).is_multiple_of(unit) {
            return Err(IoError::Misaligned {
                io: *self,
                sector_size: disk.sector_size,
            });
        }
        match self.sector.checked_add(u64::from(self.sectors)) {
            Some(end) if end <= disk.sectors => {}
            _ => {
                return Err(IoError::OutOfRange {
                    io: *self,
                    sectors: disk.sectors,
                });
            }
        }
        if self.op == IoOp::Write && disk.read_only {
            return Err(IoError::ReadOnly);
        }
        Ok(())
    }
}

impl fmt::Display for IoRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.op {
            IoOp::Read => "read",
            IoOp::Write => "write",
            IoOp::Flush => return f.write_str("flush"),
        };
        write!(
            f,
            "{what} of {} sectors at sector {}",
            self.sectors, self.sector
        )
    }
}

/// What an I/O without an answer waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The back end has it and has not answered.
    Response {
        /// The oldest request of it on the ring.
        id: u64,
        /// The pages that request grants.
        grants: Vec<GrantRef>,
    },
    /// Nothing of it is on the ring: no slot, no page, or an earlier write that a flush needs.
    Room {
        /// Requests on the ring.
        in_flight: u32,
        /// The oldest of them.
        oldest: Option<u64>,
    },
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitsFor::Response { id, grants } => {
                write!(f, "the back end's response to request {id:#x}")?;
                if let (Some(first), Some(last)) = (grants.first(), grants.last()) {
                    write!(f, " ({} pages, {first} to {last})", grants.len())?;
                }
                Ok(())
            }
            WaitsFor::Room {
                in_flight,
                oldest: Some(oldest),
            } => {
                write!(
                    f,
                    "earlier requests: {in_flight} on the ring, the oldest is {oldest:#x}"
                )
            }
            WaitsFor::Room {
                in_flight,
                oldest: None,
            } => {
                write!(f, "room on the ring, with {in_flight} requests there")
            }
        }
    }
}

/// How an I/O can fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The back end answered `BLKIF_RSP_ERROR`.
    #[error("the back end failed the {0}: see its log for the disk's error")]
    Backend(IoRequest),
    /// The back end answered `BLKIF_RSP_EOPNOTSUPP`.
    #[error("the back end does not support the {0}")]
    NotSupported(IoRequest),
    /// The back end offers no `feature-flush-cache`, or answered so.
    #[error("the back end performs no flushes: it says nothing about durability")]
    FlushNotSupported,
    /// No answer in time. The back end may still perform it.
    #[error("{io}: no answer after {waited:?}; it waits for {waits_for}")]
    TimedOut {
        /// Which.
        io: IoRequest,
        /// How long.
        waited: Duration,
        /// What for.
        waits_for: WaitsFor,
    },
    /// No sectors.
    #[error("an I/O of no sectors")]
    Empty,
    /// Not in whole sectors of the disk.
    #[error("{io}: not in whole sectors of {sector_size} bytes")]
    Misaligned {
        /// Which.
        io: IoRequest,
        /// The disk's.
        sector_size: u32,
    },
    /// Past the end.
    #[error("{io}: the disk has {sectors} sectors of 512 bytes")]
    OutOfRange {
        /// Which.
        io: IoRequest,
        /// The disk's size.
        sectors: u64,
    },
    /// A write to a read-only disk.
    #[error("the disk is read-only: attach it with mode w")]
    ReadOnly,
    /// Too many I/Os at once.
    #[error("{limit} I/Os are queued already: wait for completions before submitting more")]
    QueueFull {
        /// `Limits::queue`.
        limit: usize,
    },
    /// The device is closed for good.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why a device takes no more I/O.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The back end broke the protocol.
    #[error("the back end broke the block protocol, and the device is closed: {0}")]
    Protocol(#[from] ProtocolError),
    /// The back end went and did not come back, or was removed.
    #[error("{0}")]
    Gone(String),
    /// Closed from this side.
    #[error("the device was closed")]
    Closed,
}

/// What a hostile or broken back end did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An answer to nothing that was asked, or a second answer.
    #[error("response to request {id:#x}, which is not in flight")]
    UnknownId {
        /// The response's.
        id: u64,
    },
    /// An answer of another kind.
    #[error("response to request {id:#x} has operation {got}, the request had {asked}")]
    WrongOperation {
        /// Which.
        id: u64,
        /// Ours.
        asked: u8,
        /// Theirs.
        got: u8,
    },
    /// Answered before the grant was given back (XSA-396).
    #[error("response to request {id:#x} while the back end still maps {grant}")]
    StillMapped {
        /// Which.
        id: u64,
        /// One of its pages.
        grant: GrantRef,
    },
    /// Indices or slots that cannot be.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// The status of a response as a result.
pub(super) fn outcome(io: &IoRequest, status: blkif::Status) -> Result<(), IoError> {
    match status {
        blkif::Status::Okay => Ok(()),
        blkif::Status::Error => Err(IoError::Backend(*io)),
        blkif::Status::NotSupported if io.op == IoOp::Flush => Err(IoError::FlushNotSupported),
        blkif::Status::NotSupported => Err(IoError::NotSupported(*io)),
    }
}
