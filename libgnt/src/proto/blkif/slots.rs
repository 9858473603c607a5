//! What is in a slot of the block protocol's ring (`xen/include/public/io/blkif.h`).
//!
//! Any bytes decode: a request that makes no sense keeps its id and its operation's number and
//! becomes [`Operation::Malformed`] or [`Operation::Other`], so that it is answered with an error
//! as xen-blkback does, and other requests go on. Only broken ring indices cost the device.

use crate::types::GrantRef;

/// Bytes of the protocol's sector, whatever `sector-size` says.
pub const SECTOR_SIZE: usize = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Segments of a direct request (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const MAX_SEGMENTS: usize = 11;

/// One page's part of a request (`struct blkif_request_segment`).
///
/// Laid out as in a slot, so that the segments of a private copy are used where they are. A slot
/// is little-endian; so must this machine be.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    Hash,
    zerocopy::FromBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    /// The page.
    pub gref: u32,
    /// First 512-byte sector in the page, 0 to 7.
    pub first_sector: u8,
    /// Last sector, included; not below `first_sector`, at most 7.
    pub last_sector: u8,
}

const _: () = assert!(
    cfg!(target_endian = "little") && size_of::<Segment>() == 8,
    "slots are used in place"
);

impl Segment {
    /// The eight bytes in a slot, padding zeroed.
    #[inline]
    pub fn word(self) -> u64 {
        let sectors = u16::from_le_bytes([self.first_sector, self.last_sector]);
        u64::from(self.gref) | u64::from(sectors) << 32
    }

    /// Back from [`Segment::word`].
    pub fn from_word(word: u64) -> Segment {
        let [first_sector, last_sector, ..] = (word >> 32).to_le_bytes();
        Segment {
            gref: word as u32,
            first_sector,
            last_sector,
        }
    }

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
///
/// Those that are carried out have the protocol's numbers, so that a response costs no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// 0
    Read = 0,
    /// 1
    Write = 1,
    /// 3: everything acknowledged before this must be durable.
    Flush = 3,
    /// Any other number (2 write barrier, 5 discard, 6 indirect and the unknown ones): answered
    /// with [`Status::NotSupported`], never fatal. Of the slot only the id is meaningful.
    Other(u8) = 4,
    /// A known operation with arguments that no honest front sends: answered with
    /// [`Status::Error`], never fatal. Comes without segments.
    Malformed {
        /// The operation's number, for the response.
        number: u8,
        /// What is wrong.
        why: Malformed,
    } = 5,
}

impl Operation {
    /// `BLKIF_OP_*`, which a response echoes.
    #[inline]
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
#[derive(Clone, Copy, Default)]
pub struct Segments {
    len: u8,
    /// As in a slot, padding zeroed: encoding is a store for each. Those past `len` mean nothing.
    words: [u64; MAX_SEGMENTS],
}

impl Segments {
    /// How many, as `nr_segments` says it.
    pub fn count(&self) -> u8 {
        self.len
    }

    /// Adds one; `false` if there are eleven.
    #[must_use]
    pub fn push(&mut self, segment: Segment) -> bool {
        let Some(place) = self.words.get_mut(usize::from(self.len)) else {
            return false;
        };
        *place = segment.word();
        self.len += 1;
        true
    }

    /// Removes all.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// As a slot has them.
    #[inline]
    pub(super) fn words(&self) -> &[u64] {
        &self.words[..usize::from(self.len)]
    }
}

impl PartialEq for Segments {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}
impl Eq for Segments {}

impl std::ops::Deref for Segments {
    type Target = [Segment];
    #[inline]
    fn deref(&self) -> &[Segment] {
        let all: &[Segment; MAX_SEGMENTS] = zerocopy::transmute_ref!(&self.words);
        &all[..usize::from(self.len)]
    }
}

impl Extend<Segment> for Segments {
    /// Adds as many as fit.
    #[inline]
    fn extend<I: IntoIterator<Item = Segment>>(&mut self, iter: I) {
        // Counted apart: a length that goes through memory for each segment is slow.
        let mut len = self.len;
        for (place, segment) in self.words[usize::from(len)..].iter_mut().zip(iter) {
            *place = segment.word();
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
pub struct Request<S = Segments> {
    /// What.
    pub operation: Operation,
    /// `handle`: the device number, an echo of `virtual-device`.
    pub handle: u16,
    /// The front's own name for it, echoed in the response.
    pub id: u64,
    /// In units of 512 bytes.
    pub sector: u64,
    /// Pages; none for a flush.
    pub segments: S,
}

/// A request whose segments are in the private copy of its slot.
pub type RequestRef<'a> = Request<&'a [Segment]>;

impl From<RequestRef<'_>> for Request {
    #[inline]
    fn from(request: RequestRef<'_>) -> Self {
        Request {
            operation: request.operation,
            handle: request.handle,
            id: request.id,
            sector: request.sector,
            segments: request.segments.iter().copied().collect(),
        }
    }
}

impl<S: std::ops::Deref<Target = [Segment]>> Request<S> {
    /// Bytes of data.
    pub fn data_len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// The answer to this request.
    #[inline]
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
