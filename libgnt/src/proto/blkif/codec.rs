//! Slots to requests and responses, in both of x86's layouts.

use super::{
    MAX_SEGMENTS, Malformed, Operation, Request, Response, SECTORS_PER_PAGE, Segment, Segments,
    Status,
};
use crate::ring::SlotCodec;

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
            type Response = Response;
            const SLOT_BYTES: usize = <$abi as Layout>::SLOT;
            const RESPONSE_BYTES: usize = <$abi as Layout>::RESPONSE;

            #[inline]
            fn encode_request(&self, request: &Request, slot: &mut [u8]) -> usize {
                encode_request::<$abi>(request, slot)
            }
            #[inline]
            fn decode_request(&self, slot: &[u8]) -> Result<Request, &'static str> {
                decode_request::<$abi>(slot)
            }
            #[inline]
            fn encode_response(&self, response: &Response, slot: &mut [u8]) {
                encode_response::<$abi>(response, slot);
            }
            #[inline]
            fn decode_response(&self, slot: &[u8]) -> Result<Response, &'static str> {
                decode_response::<$abi>(slot)
            }
        }
    };
}

slot_codec!(X86_64);
slot_codec!(X86_32);

#[inline]
fn get<const N: usize>(slot: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&slot[at..at + N]);
    bytes
}

#[inline]
fn put<const N: usize>(slot: &mut [u8], at: usize, bytes: [u8; N]) {
    slot[at..at + N].copy_from_slice(&bytes);
}

#[inline]
fn encode_request<L: Layout>(request: &Request, slot: &mut [u8]) -> usize {
    let slot = &mut slot[..L::SLOT];
    // Few and wide stores: the copy to the ring reads them back in words at once.
    let first = u64::from(request.operation.number())
        | u64::from(request.segments.count()) << 8
        | u64::from(request.handle) << 16;
    slot[..L::ID].copy_from_slice(&first.to_le_bytes()[..L::ID]);
    put(slot, L::ID, request.id.to_le_bytes());
    put(slot, L::SECTOR, request.sector.to_le_bytes());
    let places = slot[L::SEGMENTS..].chunks_exact_mut(SEGMENT_BYTES);
    for (segment, place) in request.segments.iter().zip(places) {
        let sectors = u16::from_le_bytes([segment.first_sector, segment.last_sector]);
        let word = u64::from(segment.gref) | u64::from(sectors) << 32;
        put(place, 0, word.to_le_bytes());
    }
    L::SEGMENTS + request.segments.len() * SEGMENT_BYTES
}

#[inline]
fn decode_request<L: Layout>(slot: &[u8]) -> Result<Request, &'static str> {
    let Some(slot) = slot.get(..L::SLOT) else {
        return Err("the slot is too short");
    };
    let (number, count) = (slot[0], slot[1]);
    let (operation, segments) = match number {
        0 | 1 => match decode_segments::<L>(slot, count) {
            Ok(segments) if number == 0 => (Operation::Read, segments),
            Ok(segments) => (Operation::Write, segments),
            Err(why) => (Operation::Malformed { number, why }, Segments::default()),
        },
        3 if count == 0 => (Operation::Flush, Segments::default()),
        3 => {
            let why = Malformed::FlushWithData(count);
            (Operation::Malformed { number, why }, Segments::default())
        }
        other => (Operation::Other(other), Segments::default()),
    };
    // An indirect request has its handle elsewhere; for what is refused anyway it is not needed.
    Ok(Request {
        operation,
        handle: u16::from_le_bytes(get(slot, 2)),
        id: u64::from_le_bytes(get(slot, L::ID)),
        sector: u64::from_le_bytes(get(slot, L::SECTOR)),
        segments,
    })
}

#[inline]
fn decode_segments<L: Layout>(slot: &[u8], count: u8) -> Result<Segments, Malformed> {
    if count == 0 || usize::from(count) > MAX_SEGMENTS {
        return Err(Malformed::SegmentCount(count));
    }
    let places = slot[L::SEGMENTS..]
        .chunks_exact(SEGMENT_BYTES)
        .take(usize::from(count));
    // Two branches that are not taken cost less than one on both conditions.
    for place in places.clone() {
        if place[5] >= SECTORS_PER_PAGE {
            return Err(bad_segment::<L>(slot));
        }
        if place[4] > place[5] {
            return Err(bad_segment::<L>(slot));
        }
    }
    Ok(places
        .map(|place| Segment {
            gref: u32::from_le_bytes(get(place, 0)),
            first_sector: place[4],
            last_sector: place[5],
        })
        .collect())
}

/// Names the first segment that is wrong, of a request that has one.
#[cold]
fn bad_segment<L: Layout>(slot: &[u8]) -> Malformed {
    let places = slot[L::SEGMENTS..].chunks_exact(SEGMENT_BYTES);
    let wrong = |place: &[u8]| place[4] > place[5] || place[5] >= SECTORS_PER_PAGE;
    match (0..).zip(places).find(|(_, place)| wrong(place)) {
        Some((segment, place)) => Malformed::SegmentRange {
            segment,
            first: place[4],
            last: place[5],
        },
        None => Malformed::SegmentCount(slot[1]),
    }
}

#[inline]
fn encode_response<L: Layout>(response: &Response, slot: &mut [u8]) {
    let slot = &mut slot[..L::RESPONSE];
    let status: i16 = match response.status {
        Status::Okay => 0,
        Status::Error => -1,
        Status::NotSupported => -2,
    };
    let rest = u64::from(response.operation) | u64::from(status.cast_unsigned()) << 16;
    put(slot, 0, response.id.to_le_bytes());
    slot[8..].copy_from_slice(&rest.to_le_bytes()[..L::RESPONSE - 8]);
}

#[inline]
fn decode_response<L: Layout>(slot: &[u8]) -> Result<Response, &'static str> {
    let Some(slot) = slot.get(..L::RESPONSE) else {
        return Err("the slot is too short");
    };
    let status = match i16::from_le_bytes(get(slot, 10)) {
        0 => Status::Okay,
        -2 => Status::NotSupported,
        _ => Status::Error,
    };
    Ok(Response {
        id: u64::from_le_bytes(get(slot, 0)),
        operation: slot[8],
        status,
    })
}
