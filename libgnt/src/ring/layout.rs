//! The shared page of a ring (`struct NAME_sring` in `xen/include/public/io/ring.h`).
//!
//! A 64-byte header of four free-running 32-bit indices, then the slots:
//!
//! ```text
//!  0 req_prod   written by the front: requests up to here are there
//!  4 req_event  written by the back: notify me when req_prod reaches this
//!  8 rsp_prod   written by the back: responses up to here are there
//! 12 rsp_event  written by the front: notify me when rsp_prod reaches this
//! 16 reserved, zero
//! 64 slots; a slot is the union of a request and the response that replaces it
//! ```

/// Bytes before the first slot.
pub const HEADER_BYTES: usize = 64;
/// Offset of `req_prod`.
pub const REQ_PROD: usize = 0;
/// Offset of `req_event`.
pub const REQ_EVENT: usize = 4;
/// Offset of `rsp_prod`.
pub const RSP_PROD: usize = 8;
/// Offset of `rsp_event`.
pub const RSP_EVENT: usize = 12;
/// Offset of the header's reserved bytes, which reach to [`HEADER_BYTES`].
pub const RESERVED: usize = 16;

/// The largest slot that a ring copies, in bytes: the buffer for the private copy is this long.
/// The protocols in Xen's `io/` have slots of at most 112 bytes.
pub const MAX_SLOT_BYTES: usize = 128;

/// Bytes that travel together between processors.
pub(super) const CACHE_LINE: usize = 64;

/// Slots in a ring of `ring_bytes`: the largest power of two that fits (`__RING_SIZE`).
///
/// # Panics
/// If not one slot fits.
pub const fn slot_count(ring_bytes: usize, slot_bytes: usize) -> u32 {
    assert!(
        slot_bytes > 0 && slot_bytes <= MAX_SLOT_BYTES,
        "no slot of a ring"
    );
    let fit = ring_bytes.saturating_sub(HEADER_BYTES) / slot_bytes;
    assert!(fit > 0 && fit < 1 << 31, "no ring of this size");
    1 << fit.ilog2()
}

/// Byte offset of the slot that a free-running index names.
pub(super) const fn slot_offset(index: u32, size: u32, slot_bytes: usize) -> usize {
    HEADER_BYTES + (index & (size - 1)) as usize * slot_bytes
}

/// A private copy of one slot: what a codec decodes. Its length is fixed, so that a field at a
/// known offset is one load without a check; aligned, so that the copy goes by wide words.
#[derive(Clone, Debug)]
#[repr(align(16))]
pub struct SlotCopy(pub(super) [u8; MAX_SLOT_BYTES]);

impl SlotCopy {
    pub(super) const fn new() -> Self {
        SlotCopy([0; MAX_SLOT_BYTES])
    }

    /// The bytes. Those past the slot's length are zero, or left from another slot.
    #[inline]
    pub fn bytes(&self) -> &[u8; MAX_SLOT_BYTES] {
        &self.0
    }

    /// `N` bytes at an offset.
    ///
    /// # Panics
    /// If they reach past [`MAX_SLOT_BYTES`]. Offsets are a codec's own.
    #[inline]
    pub fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }
}

/// Private bytes as a slot; what is longer than any slot is cut off.
impl From<&[u8]> for SlotCopy {
    fn from(bytes: &[u8]) -> Self {
        let mut copy = SlotCopy::new();
        let len = bytes.len().min(MAX_SLOT_BYTES);
        copy.0[..len].copy_from_slice(&bytes[..len]);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_holds_32_block_slots() {
        assert_eq!(slot_count(4096, 112), 32);
        assert_eq!(slot_count(4096, 108), 32);
        assert_eq!(slot_count(16 * 4096, 112), 512);
        assert_eq!(slot_count(64 + 7, 7), 1);
        assert_eq!(slot_count(64 + 16 * 8, 16), 8);
        assert_eq!(slot_count(64 + 16 * 8 - 1, 16), 4);
    }

    #[test]
    fn slots_wrap_and_never_leave_the_page() {
        for index in [0, 1, 31, 32, u32::MAX, u32::MAX - 31] {
            let offset = slot_offset(index, 32, 112);
            assert!(
                offset >= HEADER_BYTES && offset + 112 <= 4096,
                "{index} is at {offset}"
            );
        }
        assert_eq!(slot_offset(u32::MAX, 32, 112), slot_offset(31, 32, 112));
    }
}
