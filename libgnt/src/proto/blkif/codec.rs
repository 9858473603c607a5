//! Slots to requests and responses, in both of x86's layouts.

use super::{
    MAX_SEGMENTS, Malformed, Operation, Request, RequestRef, Response, SECTORS_PER_PAGE, Segment,
    Status,
};
use crate::ring::{SlotCodec, SlotCopy, SlotWriter};
use zerocopy::FromBytes;

/// Where the fields are. The 32-bit ABI aligns 64-bit fields to four bytes.
trait Layout {
    const SLOT: usize;
    const RESPONSE: usize;
    const ID: usize;
    const SECTOR: usize = Self::ID + 8;
    const SEGMENTS: usize = Self::ID + 16;
}

const SEGMENT_BYTES: usize = 8;

/// The slots of `x86_64-abi` (node `protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct X86_64;

impl Layout for X86_64 {
    const SLOT: usize = 112;
    const RESPONSE: usize = 16;
    const ID: usize = 8;
}

/// The slots of `x86_32-abi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct X86_32;

impl Layout for X86_32 {
    const SLOT: usize = 108;
    const RESPONSE: usize = 12;
    const ID: usize = 4;
}

macro_rules! slot_codec {
    ($abi:ty) => {
        impl SlotCodec for $abi {
            type Request = Request;
            type RequestRef<'a> = RequestRef<'a>;
            type Response = Response;
            const SLOT_BYTES: usize = <$abi as Layout>::SLOT;
            const RESPONSE_BYTES: usize = <$abi as Layout>::RESPONSE;

            #[inline]
            fn encode_request<W: SlotWriter + ?Sized>(
                &self,
                request: &Request,
                slot: &mut W,
            ) -> usize {
                encode_request::<$abi, W>(request, slot)
            }
            #[inline]
            fn decode_request<'a>(
                &self,
                slot: &'a SlotCopy,
            ) -> Result<RequestRef<'a>, &'static str> {
                decode_request::<$abi>(slot)
            }
            #[inline]
            fn encode_response<W: SlotWriter + ?Sized>(&self, response: &Response, slot: &mut W) {
                encode_response::<$abi, W>(response, slot);
            }
            #[inline]
            fn decode_response(&self, slot: &SlotCopy) -> Result<Response, &'static str> {
                decode_response(slot)
            }
        }
    };
}

/// For [`push_with`](crate::ring::FrontRing::push_with): requests whose segments are not
/// collected anywhere before they are in the slot.
macro_rules! write_request {
    ($abi:ty) => {
        impl $abi {
            /// Writes a request into its slot, with the first eleven of its segments, and returns
            /// its length.
            #[inline]
            pub fn write_request<W, S>(self, request: Request<S>, slot: &mut W) -> usize
            where
                W: SlotWriter + ?Sized,
                S: IntoIterator<Item = Segment>,
            {
                let Request {
                    operation,
                    handle,
                    id,
                    sector,
                    segments,
                } = request;
                let request = Request {
                    operation,
                    handle,
                    id,
                    sector,
                    segments: (),
                };
                let words = segments.into_iter().map(Segment::word);
                write::<$abi, W, ()>(&request, words, slot)
            }
        }
    };
}

write_request!(X86_64);
write_request!(X86_32);
slot_codec!(X86_64);
slot_codec!(X86_32);

#[inline]
fn encode_request<L: Layout, W: SlotWriter + ?Sized>(request: &Request, slot: &mut W) -> usize {
    let words = request.segments.words().iter().copied();
    write::<L, W, _>(request, words, slot)
}

/// The segments first, because they are counted on the way.
#[inline]
fn write<L: Layout, W: SlotWriter + ?Sized, S>(
    request: &Request<S>,
    segments: impl Iterator<Item = u64>,
    slot: &mut W,
) -> usize {
    let mut count = 0;
    for word in segments.take(MAX_SEGMENTS) {
        slot.put(L::SEGMENTS + count * SEGMENT_BYTES, word.to_le_bytes());
        count += 1;
    }
    let first = u64::from(request.operation.number())
        | (count as u64) << 8
        | u64::from(request.handle) << 16;
    if L::ID == 8 {
        slot.put(0, first.to_le_bytes());
    } else {
        slot.put(0, (first as u32).to_le_bytes());
    }
    slot.put(L::ID, request.id.to_le_bytes());
    slot.put(L::SECTOR, request.sector.to_le_bytes());
    L::SEGMENTS + count * SEGMENT_BYTES
}

#[inline]
fn decode_request<L: Layout>(slot: &SlotCopy) -> Result<RequestRef<'_>, &'static str> {
    let [number, count] = slot.get(0);
    let (operation, segments): (_, &[Segment]) = match number {
        0 | 1 => match segments::<L>(slot, count) {
            Ok(segments) if number == 0 => (Operation::Read, segments),
            Ok(segments) => (Operation::Write, segments),
            Err(why) => (Operation::Malformed { number, why }, &[]),
        },
        3 if count == 0 => (Operation::Flush, &[]),
        3 => {
            let why = Malformed::FlushWithData(count);
            (Operation::Malformed { number, why }, &[])
        }
        other => (Operation::Other(other), &[]),
    };
    // An indirect request has its handle elsewhere; for what is refused anyway it is not needed.
    Ok(Request {
        operation,
        handle: u16::from_le_bytes(slot.get(2)),
        id: u64::from_le_bytes(slot.get(L::ID)),
        sector: u64::from_le_bytes(slot.get(L::SECTOR)),
        segments,
    })
}

/// The segments of a read or write, checked.
#[inline]
fn segments<L: Layout>(slot: &SlotCopy, count: u8) -> Result<&[Segment], Malformed> {
    let refused = Malformed::SegmentCount(count);
    if count == 0 || usize::from(count) > MAX_SEGMENTS {
        return Err(refused);
    }
    let bytes = &slot.bytes()[L::SEGMENTS..];
    // A copy is aligned, and eleven fit.
    let (segments, _) =
        <[Segment]>::ref_from_prefix_with_elems(bytes, usize::from(count)).map_err(|_| refused)?;
    let good = if segments.len() < FEW {
        segments.iter().all(fits_a_page)
    } else {
        all_fit_a_page::<L>(slot, segments.len())
    };
    if !good {
        return Err(bad_segment(segments, refused));
    }
    Ok(segments)
}

#[inline]
fn fits_a_page(segment: &Segment) -> bool {
    segment.first_sector <= segment.last_sector && segment.last_sector < SECTORS_PER_PAGE
}

/// From so many segments on, all at once is faster than one after the other.
const FEW: usize = 4;

/// For each count, where `first_sect` is in the word before the segments, which is none, and in
/// the words of the segments that are meant.
const FIRST_SECTOR: [[u64; MAX_SEGMENTS + 1]; MAX_SEGMENTS + 1] = {
    let mut all = [[0; MAX_SEGMENTS + 1]; MAX_SEGMENTS + 1];
    let mut count = 0;
    while count <= MAX_SEGMENTS {
        let mut n = 1;
        while n <= count {
            all[count][n] = 0xff << 32;
            n += 1;
        }
        count += 1;
    }
    all
};

/// [`fits_a_page`] of all, without a branch. Begins at a multiple of 16 bytes in the slots of
/// `x86_64-abi`, as the copy did: what it wrote is then read in the same pieces.
#[inline]
fn all_fit_a_page<L: Layout>(slot: &SlotCopy, count: usize) -> bool {
    let words = slot.bytes()[L::SEGMENTS - SEGMENT_BYTES..].as_chunks().0;
    let mut high = 0;
    for (&word, first_sector) in words.iter().zip(&FIRST_SECTOR[count]) {
        let word = u64::from_le_bytes(word);
        let (first, last) = (word & first_sector, word >> 8 & first_sector);
        // What is negative has its highest bit set.
        high |= last | last.wrapping_sub(first);
    }
    high < u64::from(SECTORS_PER_PAGE) << 32
}

/// Names the first segment that is wrong, of a request that has one.
#[cold]
#[inline(never)]
fn bad_segment(segments: &[Segment], none: Malformed) -> Malformed {
    match (0..)
        .zip(segments)
        .find(|(_, segment)| !fits_a_page(segment))
    {
        Some((n, segment)) => Malformed::SegmentRange {
            segment: n,
            first: segment.first_sector,
            last: segment.last_sector,
        },
        None => none,
    }
}

#[inline]
fn encode_response<L: Layout, W: SlotWriter + ?Sized>(response: &Response, slot: &mut W) {
    let status: i16 = match response.status {
        Status::Okay => 0,
        Status::Error => -1,
        Status::NotSupported => -2,
    };
    let rest = u64::from(response.operation) | u64::from(status.cast_unsigned()) << 16;
    slot.put(0, response.id.to_le_bytes());
    if L::RESPONSE == 16 {
        slot.put(8, rest.to_le_bytes());
    } else {
        slot.put(8, (rest as u32).to_le_bytes());
    }
}

#[inline]
fn decode_response(slot: &SlotCopy) -> Result<Response, &'static str> {
    let status = match i16::from_le_bytes(slot.get(10)) {
        0 => Status::Okay,
        -2 => Status::NotSupported,
        _ => Status::Error,
    };
    let [operation] = slot.get(8);
    Ok(Response {
        id: u64::from_le_bytes(slot.get(0)),
        operation,
        status,
    })
}
