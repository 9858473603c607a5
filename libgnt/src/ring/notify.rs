//! Notification hold-off: who must be woken, and when it is safe to sleep.
//!
//! A consumer that sleeps writes into its event index the producer index at which it wants to
//! be woken. A producer notifies only if its new producer index passes that mark. Nobody is
//! notified who is awake: under load a batch costs no event at all.
//!
//! The two sides race: one stores its producer index and then loads the event index; the other
//! stores the event index and then loads the producer index. With a full fence between store and
//! load on both sides, at least one sees the other's store, so a wake-up is never lost.

use super::memory::RingMemory;
use std::sync::atomic::Ordering;

/// Makes everything up to `new` visible to the consumer, and says whether it must be notified
/// (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY` and its twin).
///
/// `old` is our private record of what was published before. The macro reads it back from the
/// shared page, where the peer may have changed it.
#[inline]
pub(super) fn publish<M: RingMemory>(
    memory: &M,
    producer_at: usize,
    event_at: usize,
    old: u32,
    new: u32,
) -> bool {
    // Partner: the acquire fence in `claimed`. Slots before index.
    memory.fence(Ordering::Release);
    memory.store(producer_at, new);
    // Partner: the fence in `arm`. Our index before their mark.
    memory.fence(Ordering::SeqCst);
    // Any value is harmless: a wrong one costs a needless event, or a wake-up that the peer
    // itself did not want.
    let event = memory.load(event_at);
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// The producer index that the peer claims; what lies before it may be read after this.
#[inline]
pub(super) fn claimed<M: RingMemory>(memory: &M, producer_at: usize) -> u32 {
    let index = memory.load(producer_at);
    // Partner: the release fence in `publish`.
    memory.fence(Ordering::Acquire);
    index
}

/// Asks for an event at the next thing produced. The producer index must be read once more
/// afterwards: what came before the mark was seen gives no event.
#[inline]
pub(super) fn arm<M: RingMemory>(memory: &M, event_at: usize, consumed: u32) {
    memory.store(event_at, consumed.wrapping_add(1));
    // Partner: the SeqCst fence in `publish`. Our mark before their index.
    memory.fence(Ordering::SeqCst);
}
