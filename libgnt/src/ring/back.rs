//! The back end's half: requests in, responses out.

use super::consumer::Consumer;
use super::layout::{self, CACHE_LINE, SlotCopy};
use super::memory::RingMemory;
use super::{RingError, SlotCodec, notify};
use crate::shm::SharedPages;
use std::fmt;
use std::sync::Arc;

/// The back end of a ring (`BACK_RING_ATTACH` and the macros on a `NAME_back_ring`).
///
/// Size and indices are private; of the shared page only the front's fields are read, and only
/// the back's own are written. No I/O, as with [`FrontRing`](super::FrontRing).
pub struct BackRing<C: SlotCodec, M: RingMemory = Arc<SharedPages>> {
    memory: M,
    codec: C,
    size: u32,
    /// Responses written, published or not.
    written: u32,
    /// Responses the front end was shown.
    published: u32,
    requests: Consumer,
    copy: SlotCopy,
}

impl<C: SlotCodec, M: RingMemory> BackRing<C, M> {
    /// Attaches to a ring that a front end has initialised, at the response index it shows, as
    /// xen-blkback does. Requests that an earlier back end took and never answered come again.
    ///
    /// Call [`final_check`](BackRing::final_check) before the first sleep.
    ///
    /// # Panics
    /// If the memory has no room for one slot.
    pub fn attach(memory: M, codec: C) -> Self {
        Self::resume(memory, codec, |_| 0)
    }

    /// As [`attach`](BackRing::attach), for a back end that knows which requests an earlier one
    /// took and left unanswered: `taken` says how many, given the response index that the ring
    /// shows. They have been popped already, and may be answered at once.
    ///
    /// The front end may sleep through answers that the earlier back end published last: notify it.
    ///
    /// # Panics
    /// As [`attach`](BackRing::attach), and if more are said to be taken than the ring has slots.
    pub fn resume(memory: M, codec: C, taken: impl FnOnce(u32) -> u32) -> Self {
        let size = layout::slot_count(memory.size(), C::SLOT_BYTES);
        let start = memory.load(layout::RSP_PROD);
        let taken = taken(start);
        assert!(taken <= size, "{taken} requests of a ring of {size}");
        BackRing {
            memory,
            codec,
            size,
            written: start,
            published: start,
            copy: SlotCopy::new(),
            requests: Consumer::new(
                "req_prod",
                (layout::REQ_PROD, layout::REQ_EVENT),
                size,
                start.wrapping_add(taken),
            ),
        }
    }

    /// Slots, a power of two.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Requests popped that have no response yet.
    pub fn unanswered(&self) -> u32 {
        self.requests.next().wrapping_sub(self.written)
    }

    /// The index that the next response gets.
    pub fn next_response(&self) -> u32 {
        self.written
    }

    /// How many more requests there can be: the slots of unanswered ones are not free.
    #[inline]
    fn allowed(&self) -> u32 {
        self.size - self.unanswered()
    }

    /// Asks the cache for a slot; its response will be written where the request begins.
    #[inline]
    fn prefetch(&self) -> impl Fn(&M, u32) + use<C, M> {
        let size = self.size;
        move |memory, index| {
            let offset = layout::slot_offset(index, size, C::SLOT_BYTES);
            memory.prefetch(offset, C::SLOT_BYTES.min(CACHE_LINE + 1), false);
        }
    }

    /// How many requests can be popped before the peer's index is read again; reads it if none
    /// can. A batch of this many is bounded whatever the peer does meanwhile (XSA-391), and what
    /// it leads to is published while the peer prepares the next one.
    ///
    /// # Errors
    /// [`RingError::IndexOutOfRange`]; final.
    #[inline]
    pub fn available(&mut self) -> Result<u32, RingError> {
        let allowed = self.allowed();
        let prefetch = self.prefetch();
        self.requests.available(&self.memory, allowed, prefetch)
    }

    /// The next request, copied once and then decoded.
    ///
    /// A peer that produces as fast as we consume keeps this returning `Some` for as long as it
    /// is answered: bound the requests taken for one wake-up, and then serve the others first
    /// (XSA-391). Whoever stops before `None` must come back without an event.
    ///
    /// # Errors
    /// [`RingError::IndexOutOfRange`] if the peer claims more requests than the ring has slots
    /// for, [`RingError::Malformed`] from the codec. Both are final: every later call returns
    /// them, and the device is to be closed.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<C::Request>, RingError> {
        Ok(self.pop_ref()?.map(Into::into))
    }

    /// As [`pop`](BackRing::pop), without moving the request out of the private copy of its
    /// slot, which the next one overwrites.
    ///
    /// # Errors
    /// As [`pop`](BackRing::pop).
    #[inline]
    pub fn pop_ref(&mut self) -> Result<Option<C::RequestRef<'_>>, RingError> {
        let allowed = self.allowed();
        let prefetch = self.prefetch();
        let Some(index) = self.requests.take(&self.memory, allowed, prefetch)? else {
            return Ok(None);
        };
        self.memory.read(
            layout::slot_offset(index, self.size, C::SLOT_BYTES),
            &mut self.copy.0[..C::SLOT_BYTES],
        );
        match self.codec.decode_request(&self.copy) {
            Ok(request) => Ok(Some(request)),
            Err(what) => Err(self
                .requests
                .fail(RingError::Malformed { slot: index, what })),
        }
    }

    /// Writes a response into the slot of the oldest request without one. Answers may come in
    /// any order; the ids tell. The front end sees it after [`publish`](BackRing::publish).
    ///
    /// # Panics
    /// If every request popped has its response already: the slot may hold a request not yet
    /// read. The caller's count, not the peer's.
    #[inline]
    pub fn push(&mut self, response: &C::Response) {
        assert!(self.unanswered() > 0, "a response without a request");
        let offset = layout::slot_offset(self.written, self.size, C::SLOT_BYTES);
        let mut slot = self.memory.slot(offset, C::SLOT_BYTES);
        self.codec.encode_response(response, &mut slot);
        self.written = self.written.wrapping_add(1);
    }

    /// Shows the front end what was pushed (`RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`). True: send
    /// the event, the front end may be asleep.
    #[must_use = "true means that the peer sleeps until it is notified"]
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.written {
            return false;
        }
        let old = std::mem::replace(&mut self.published, self.written);
        notify::publish(
            &self.memory,
            layout::RSP_PROD,
            layout::RSP_EVENT,
            old,
            self.written,
        )
    }

    /// To be called before sleeping (`RING_FINAL_CHECK_FOR_REQUESTS`): asks for an event at the
    /// next request, then looks once more. True: requests are there, do not sleep.
    ///
    /// # Errors
    /// As [`BackRing::pop`].
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        let allowed = self.allowed();
        self.requests.final_check(&self.memory, allowed)
    }
}

impl<C: SlotCodec, M: RingMemory> fmt::Debug for BackRing<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackRing")
            .field("size", &self.size)
            .field("written", &self.written)
            .field("published", &self.published)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
