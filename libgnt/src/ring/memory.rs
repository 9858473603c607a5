//! What a ring needs of its shared memory: the seam under which loom can stand instead.

use crate::shm::{SharedPages, Window};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Where a codec writes a slot. Bytes go straight to shared memory: nothing is read back.
pub trait SlotWriter {
    /// Writes at an offset of the slot.
    ///
    /// # Panics
    /// If that is outside the slot. Offsets are a codec's own.
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]);
}

/// Private bytes, for tests.
impl SlotWriter for [u8] {
    #[inline]
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self[at..at + N].copy_from_slice(&bytes);
    }
}

impl SlotWriter for Window<'_> {
    #[inline]
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        Window::put(self, at, bytes);
    }
}

/// A slot of memory that has nothing better than [`RingMemory::write`].
#[derive(Debug)]
pub struct Through<'a, M> {
    memory: &'a M,
    offset: usize,
}

impl<'a, M> Through<'a, M> {
    /// The slot at an offset of the memory.
    pub fn new(memory: &'a M, offset: usize) -> Self {
        Through { memory, offset }
    }
}

impl<M: RingMemory> SlotWriter for Through<'_, M> {
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.memory.write(self.offset + at, &bytes);
    }
}

/// Shared memory as a ring sees it. All single accesses are relaxed; order comes from fences
/// only, each of which names its partner where it is used.
///
/// Offsets are the ring's own, never the peer's.
pub trait RingMemory {
    /// A slot to be written.
    type Slot<'a>: SlotWriter
    where
        Self: 'a;
    /// The slot at this range. [`Through`] does for memory that is not in a hurry.
    fn slot(&self, offset: usize, len: usize) -> Self::Slot<'_>;
    /// Bytes.
    fn size(&self) -> usize;
    /// Loads an aligned 32-bit word.
    fn load(&self, offset: usize) -> u32;
    /// Stores an aligned 32-bit word.
    fn store(&self, offset: usize, value: u32);
    /// Loads a byte.
    fn load_u8(&self, offset: usize) -> u8;
    /// Stores a byte.
    fn store_u8(&self, offset: usize, value: u8);
    /// Sets bits in a byte that both sides write.
    fn set_bits(&self, offset: usize, bits: u8);
    /// Clears bits in a byte that both sides write, and returns what it was.
    fn take_bits(&self, offset: usize, bits: u8) -> u8;
    /// A memory fence.
    fn fence(&self, order: Ordering);
    /// A hint that the lines of cache at both ends of this range will soon be read, and the
    /// first one written, with `write` both.
    fn prefetch(&self, offset: usize, len: usize, write: bool) {
        let _ = (offset, len, write);
    }
    /// Copies bytes out. Tears if the peer writes meanwhile.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, from: &[u8]);
}

impl RingMemory for Arc<SharedPages> {
    type Slot<'a> = Window<'a>;
    #[inline]
    fn slot(&self, offset: usize, len: usize) -> Window<'_> {
        self.window(offset, len)
    }
    #[inline]
    fn size(&self) -> usize {
        SharedPages::len(self)
    }
    #[inline]
    fn load(&self, offset: usize) -> u32 {
        self.load_u32(offset, Ordering::Relaxed)
    }
    #[inline]
    fn store(&self, offset: usize, value: u32) {
        self.store_u32(offset, value, Ordering::Relaxed);
    }
    fn load_u8(&self, offset: usize) -> u8 {
        SharedPages::load_u8(self, offset, Ordering::Relaxed)
    }
    fn store_u8(&self, offset: usize, value: u8) {
        SharedPages::store_u8(self, offset, value, Ordering::Relaxed);
    }
    fn set_bits(&self, offset: usize, bits: u8) {
        self.fetch_or_u8(offset, bits, Ordering::Relaxed);
    }
    fn take_bits(&self, offset: usize, bits: u8) -> u8 {
        self.fetch_and_u8(offset, !bits, Ordering::Relaxed)
    }
    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }
    #[inline]
    fn prefetch(&self, offset: usize, len: usize, write: bool) {
        SharedPages::prefetch(self, offset, len, write);
    }
    #[inline]
    fn read(&self, offset: usize, into: &mut [u8]) {
        SharedPages::read(self, offset, into);
    }
    #[inline]
    fn write(&self, offset: usize, from: &[u8]) {
        SharedPages::write(self, offset, from);
    }
}
