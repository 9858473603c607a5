//! The block protocol's slots (`xen/include/public/io/blkif.h`).
//!
//! Any bytes decode: a request that makes no sense keeps its id and its operation's number and
//! becomes [`Operation::Malformed`] or [`Operation::Other`], so that it is answered with an error
//! as xen-blkback does, and other requests go on. Only broken ring indices cost the device.

mod codec;

pub use codec::{X86_32, X86_64};

use crate::types::GrantRef;

/// Bytes of the protocol's sector, whatever `sector-size` says.
pub const SECTOR_SIZE: usize = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Segments of a direct request (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const MAX_SEGMENTS: usize = 11;

/// One page's part of a request (`struct blkif_request_segment`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Segment {
    /// The page.
    pub gref: u32,
    /// First 512-byte sector in the page, 0 to 7.
    pub first_sector: u8,
    /// Last sector, included; not below `first_sector`, at most 7.
    pub last_sector: u8,
}

impl Segment {
    /// The page's reference.
    pub fn grant(&self) -> GrantRef {
        GrantRef(self.gref)
    }
    /// Byte offset in the page.
    pub fn offset(&self) -> usize {
        usize::from(self.first_sector) * SECTOR_SIZE
    }
    /// Bytes; of a decoded segment, never 0.
    pub fn len(&self) -> usize {
        (usize::from(self.last_sector) + 1).saturating_sub(usize::from(self.first_sector))
            * SECTOR_SIZE
    }
    /// Whether last is before first, which the codec refuses.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A request's operation (`BLKIF_OP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// 0
    Read,
    /// 1
    Write,
    /// 3: everything acknowledged before this must be durable.
    Flush,
    /// Any other number (2 write barrier, 5 discard, 6 indirect and the unknown ones): answered
    /// with [`Status::NotSupported`], never fatal. Of the slot only the id is meaningful.
    Other(u8),
    /// A known operation with arguments that no honest front sends: answered with
    /// [`Status::Error`], never fatal. Comes without segments.
    Malformed {
        /// The operation's number, for the response.
        number: u8,
        /// What is wrong.
        why: Malformed,
    },
}

impl Operation {
    /// `BLKIF_OP_*`, which a response echoes.
    pub fn number(self) -> u8 {
        match self {
            Operation::Read => 0,
            Operation::Write => 1,
            Operation::Flush => 3,
            Operation::Other(number) | Operation::Malformed { number, .. } => number,
        }
    }
}

/// What is wrong with a request (XSA-423).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// A read or write has 1 to 11 segments.
    #[error("{0} segments; a read or write has 1 to 11")]
    SegmentCount(u8),
    /// `last_sect` is before `first_sect`, or outside the page.
    #[error("segment {segment} has sectors {first} to {last}; a page has 0 to 7")]
    SegmentRange {
        /// Which one.
        segment: u8,
        /// `first_sect`
        first: u8,
        /// `last_sect`
        last: u8,
    },
    /// A flush that carries data, as the header does not forbid: acknowledging it without writing
    /// the data would lose a write.
    #[error("a flush with {0} segments; send a write, then a flush")]
    FlushWithData(u8),
}

/// The segments of a request, inline: a slot has at most eleven.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Segments {
    len: u8,
    all: [Segment; MAX_SEGMENTS],
}

impl Segments {
    /// How many, as `nr_segments` says it.
    pub fn count(&self) -> u8 {
        self.len
    }

    /// Adds one; `false` if there are eleven.
    #[must_use]
    pub fn push(&mut self, segment: Segment) -> bool {
        let Some(place) = self.all.get_mut(usize::from(self.len)) else {
            return false;
        };
        *place = segment;
        self.len += 1;
        true
    }
}

impl std::ops::Deref for Segments {
    type Target = [Segment];
    #[inline]
    fn deref(&self) -> &[Segment] {
        &self.all[..usize::from(self.len)]
    }
}

impl Extend<Segment> for Segments {
    /// Adds as many as fit.
    #[inline]
    fn extend<I: IntoIterator<Item = Segment>>(&mut self, iter: I) {
        // Counted apart: a length that goes through memory for each segment is slow.
        let mut len = self.len;
        for (place, segment) in self.all[usize::from(len)..].iter_mut().zip(iter) {
            *place = segment;
            len += 1;
        }
        self.len = len;
    }
}

impl FromIterator<Segment> for Segments {
    /// Takes the first eleven.
    #[inline]
    fn from_iter<I: IntoIterator<Item = Segment>>(iter: I) -> Self {
        let mut segments = Segments::default();
        segments.extend(iter);
        segments
    }
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A request, validated as far as a slot alone can be: segment geometry and count (XSA-423).
///
/// In C's order, because it decides the speed of the encoder: were `handle` at a multiple of four,
/// the compiler would load it as four bytes, and the processor would wait until all four, stored
/// one by one just before, have left its store buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// What.
    pub operation: Operation,
    /// `handle`: the device number, an echo of `virtual-device`.
    pub handle: u16,
    /// The front's own name for it, echoed in the response.
    pub id: u64,
    /// In units of 512 bytes.
    pub sector: u64,
    /// Pages; none for a flush.
    pub segments: Segments,
}

impl Request {
    /// Bytes of data.
    pub fn data_len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// The answer to this request.
    pub fn response(&self, status: Status) -> Response {
        Response {
            id: self.id,
            operation: self.operation.number(),
            status,
        }
    }
}

/// A response's status (`BLKIF_RSP_*`). Numbers that the protocol does not have decode as
/// [`Status::Error`], as blkfront takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// 0
    Okay,
    /// −1
    Error,
    /// −2
    NotSupported,
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The request's operation number.
    pub operation: u8,
    /// How it went.
    pub status: Status,
}
