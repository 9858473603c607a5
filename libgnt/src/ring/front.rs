//! The front end's half: requests out, responses in.

use super::consumer::Consumer;
use super::layout::{self, CACHE_LINE, SlotCopy};
use super::memory::RingMemory;
use super::{RingError, RingFull, SlotCodec, notify};
use crate::shm::SharedPages;
use std::fmt;
use std::sync::Arc;

/// The front end of a ring (`XEN_FRONT_RING_INIT` and the macros on a `NAME_front_ring`).
///
/// Size and indices are private; of the shared page only `rsp_prod`, `req_event` and the slots
/// are read, and only the front's own fields are written. No I/O: the caller sends the event when
/// [`publish`](FrontRing::publish) says so, and sleeps when [`final_check`](FrontRing::final_check)
/// says that it may.
///
/// A response's id is the peer's word: look it up in a table of what is in flight (XSA-405).
pub struct FrontRing<C: SlotCodec, M: RingMemory = Arc<SharedPages>> {
    memory: M,
    codec: C,
    size: u32,
    /// Requests written, published or not.
    written: u32,
    /// Requests the back end was shown.
    published: u32,
    responses: Consumer,
    /// Bytes of the last request.
    last_len: usize,
    /// How much of a slot is asked for when its response is read: it will be filled with a
    /// request like the last one that was published.
    span: usize,
    copy: SlotCopy,
}

impl<C: SlotCodec, M: RingMemory> FrontRing<C, M> {
    /// Initialises the shared header (`SHARED_RING_INIT`) of a page that was zeroed and is not
    /// yet in use by a peer.
    ///
    /// # Panics
    /// If the memory has no room for one slot.
    pub fn new(memory: M, codec: C) -> Self {
        Self::starting_at(memory, codec, 0)
    }

    /// As [`FrontRing::new`], with indices that begin at `start`: for a ring that goes on where
    /// another left off, and for tests near the wrap. [`BackRing::attach`](super::BackRing::attach)
    /// begins where the page says.
    ///
    /// # Panics
    /// As [`FrontRing::new`].
    pub fn starting_at(memory: M, codec: C, start: u32) -> Self {
        let size = layout::slot_count(memory.size(), C::SLOT_BYTES);
        memory.store(layout::REQ_PROD, start);
        memory.store(layout::RSP_PROD, start);
        memory.store(layout::REQ_EVENT, start.wrapping_add(1));
        memory.store(layout::RSP_EVENT, start.wrapping_add(1));
        memory.write(
            layout::RESERVED,
            &[0; layout::HEADER_BYTES - layout::RESERVED],
        );
        FrontRing {
            memory,
            codec,
            size,
            written: start,
            published: start,
            last_len: C::RESPONSE_BYTES,
            span: C::RESPONSE_BYTES,
            copy: SlotCopy::new(),
            responses: Consumer::new(
                "rsp_prod",
                (layout::RSP_PROD, layout::RSP_EVENT),
                size,
                start,
            ),
        }
    }

    /// Slots, a power of two.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Requests without a response, unpublished ones included.
    pub fn in_flight(&self) -> u32 {
        self.written.wrapping_sub(self.responses.next())
    }

    /// Requests that still fit.
    pub fn free_slots(&self) -> u32 {
        self.size - self.in_flight()
    }

    /// Writes a request into the next slot. The back end sees it after
    /// [`publish`](FrontRing::publish).
    ///
    /// # Errors
    /// [`RingFull`]: pop responses first.
    #[inline]
    pub fn push(&mut self, request: &C::Request) -> Result<(), RingFull> {
        self.push_with(|codec, slot| codec.encode_request(request, slot))
    }

    /// As [`push`](FrontRing::push), by whoever can write a request into its slot without
    /// having it in one piece. `write` returns the length, as
    /// [`encode_request`](SlotCodec::encode_request) does.
    ///
    /// # Errors
    /// [`RingFull`]; then `write` was not called.
    #[inline]
    pub fn push_with(
        &mut self,
        write: impl FnOnce(&C, &mut M::Slot<'_>) -> usize,
    ) -> Result<(), RingFull> {
        if self.free_slots() == 0 {
            return Err(RingFull { size: self.size });
        }
        let offset = layout::slot_offset(self.written, self.size, C::SLOT_BYTES);
        let mut slot = self.memory.slot(offset, C::SLOT_BYTES);
        self.last_len = write(&self.codec, &mut slot);
        self.written = self.written.wrapping_add(1);
        Ok(())
    }

    /// Shows the back end what was pushed (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`). True: send the
    /// event, the back end may be asleep.
    #[must_use = "true means that the peer sleeps until it is notified"]
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.written {
            return false;
        }
        self.span = self.last_len.clamp(1, CACHE_LINE + 1);
        let old = std::mem::replace(&mut self.published, self.written);
        notify::publish(
            &self.memory,
            layout::REQ_PROD,
            layout::REQ_EVENT,
            old,
            self.written,
        )
    }

    /// How many responses there can be: one for each request that was shown.
    #[inline]
    fn answerable(&self) -> u32 {
        self.published.wrapping_sub(self.responses.next())
    }

    /// Asks the cache for a slot; after its response a request of the usual length is written.
    #[inline]
    fn prefetch(&self) -> impl Fn(&M, u32) + use<C, M> {
        let (size, len) = (self.size, self.span);
        move |memory, index| {
            let offset = layout::slot_offset(index, size, C::SLOT_BYTES);
            memory.prefetch(offset, len, true);
        }
    }

    /// How many responses can be popped before the peer's index is read again; reads it if none
    /// can. A batch of this many is bounded whatever the peer does meanwhile (XSA-391), and what
    /// it leads to is published while the peer prepares the next one.
    ///
    /// # Errors
    /// [`RingError::IndexOutOfRange`]; final.
    #[inline]
    pub fn available(&mut self) -> Result<u32, RingError> {
        let answerable = self.answerable();
        let prefetch = self.prefetch();
        self.responses.available(&self.memory, answerable, prefetch)
    }

    /// The next response, copied once and then decoded. A peer can keep this returning `Some`
    /// at most as often as requests are published, so a loop over it ends; bound it nevertheless
    /// if it publishes new requests as it goes (XSA-391).
    ///
    /// # Errors
    /// [`RingError::IndexOutOfRange`] if the peer claims more responses than there are requests,
    /// [`RingError::Malformed`] from the codec. Both are final: every later call returns them.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<C::Response>, RingError> {
        let answerable = self.answerable();
        let prefetch = self.prefetch();
        let Some(index) = self.responses.take(&self.memory, answerable, prefetch)? else {
            return Ok(None);
        };
        self.memory.read(
            layout::slot_offset(index, self.size, C::SLOT_BYTES),
            &mut self.copy.0[..C::RESPONSE_BYTES],
        );
        match self.codec.decode_response(&self.copy) {
            Ok(response) => Ok(Some(response)),
            Err(what) => Err(self
                .responses
                .fail(RingError::Malformed { slot: index, what })),
        }
    }

    /// To be called before sleeping (`RING_FINAL_CHECK_FOR_RESPONSES`): asks for an event at the
    /// next response, then looks once more. True: responses are there, do not sleep.
    ///
    /// # Errors
    /// As [`FrontRing::pop`].
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        let answerable = self.answerable();
        self.responses.final_check(&self.memory, answerable)
    }
}

impl<C: SlotCodec, M: RingMemory> fmt::Debug for FrontRing<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontRing")
            .field("size", &self.size)
            .field("written", &self.written)
            .field("published", &self.published)
            .field("responses", &self.responses)
            .finish_non_exhaustive()
    }
}
