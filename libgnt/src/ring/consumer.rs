//! The consuming half that front and back have in common: the peer's producer index, checked.

use super::memory::RingMemory;
use super::{RingError, notify};

/// How many slots ahead lines of cache are asked for: as many as a processor fetches at once.
/// Measured with `benches/ring.rs`.
const PREFETCH: u32 = 12;

/// Our place in what the peer produces.
#[derive(Debug)]
pub(super) struct Consumer {
    /// Names the index in errors.
    index: &'static str,
    producer_at: usize,
    event_at: usize,
    size: u32,
    /// Next to read. Private: the shared page has no consumer index to be lied to about.
    next: u32,
    /// The last claim of the peer that passed the check; never more than `size` after `next`.
    checked: u32,
    /// A violation is remembered: the ring is never read again.
    fatal: Option<RingError>,
}

impl Consumer {
    pub(super) fn new(
        index: &'static str,
        (producer_at, event_at): (usize, usize),
        size: u32,
        start: u32,
    ) -> Self {
        Consumer {
            index,
            producer_at,
            event_at,
            size,
            next: start,
            checked: start,
            fatal: None,
        }
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// The index of the slot to read now, if there is one. `allowed` is how many there can be.
    ///
    /// `prefetch` is given slots some way ahead, each once: the peer is done with them.
    #[inline]
    pub(super) fn take<M: RingMemory>(
        &mut self,
        memory: &M,
        allowed: u32,
        prefetch: impl Fn(&M, u32),
    ) -> Result<Option<u32>, RingError> {
        if self.available(memory, allowed, &prefetch)? == 0 {
            return Ok(None);
        }
        let slot = self.next;
        self.next = slot.wrapping_add(1);
        if self.checked.wrapping_sub(slot) > PREFETCH {
            prefetch(memory, slot.wrapping_add(PREFETCH));
        }
        Ok(Some(slot))
    }

    /// How many can be taken without another look; looks if that is none.
    #[inline]
    pub(super) fn available<M: RingMemory>(
        &mut self,
        memory: &M,
        allowed: u32,
        prefetch: impl Fn(&M, u32),
    ) -> Result<u32, RingError> {
        if self.next == self.checked {
            self.refill(memory, allowed, prefetch)?;
        }
        Ok(self.checked.wrapping_sub(self.next))
    }

    /// Once in a batch, and apart: the rest of `take` is once in a slot.
    #[inline(never)]
    fn refill<M: RingMemory>(
        &mut self,
        memory: &M,
        allowed: u32,
        prefetch: impl Fn(&M, u32),
    ) -> Result<(), RingError> {
        if self.look(memory, allowed)? {
            let some = self.checked.wrapping_sub(self.next).min(PREFETCH);
            (0..some).for_each(|n| prefetch(memory, self.next.wrapping_add(n)));
        }
        Ok(())
    }

    /// Reads the peer's index; true if something is there.
    fn look<M: RingMemory>(&mut self, memory: &M, allowed: u32) -> Result<bool, RingError> {
        if let Some(fatal) = self.fatal {
            return Err(fatal);
        }
        let claimed = notify::claimed(memory, self.producer_at);
        let ahead = claimed.wrapping_sub(self.next);
        if ahead > allowed {
            return Err(self.fail(RingError::IndexOutOfRange {
                index: self.index,
                claimed,
                ours: self.next,
                ahead,
                allowed,
                size: self.size,
            }));
        }
        self.checked = claimed;
        Ok(ahead > 0)
    }

    /// False if it is safe to sleep: the next thing produced will give an event.
    pub(super) fn final_check<M: RingMemory>(
        &mut self,
        memory: &M,
        allowed: u32,
    ) -> Result<bool, RingError> {
        if self.next != self.checked || self.look(memory, allowed)? {
            return Ok(true);
        }
        notify::arm(memory, self.event_at, self.next);
        self.look(memory, allowed)
    }

    /// Remembers a violation. What was claimed is forgotten, so that every later call finds it.
    #[cold]
    pub(super) fn fail(&mut self, error: RingError) -> RingError {
        self.checked = self.next;
        *self.fatal.get_or_insert(error)
    }
}
