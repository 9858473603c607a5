//! Xen's shared rings (`xen/include/public/io/ring.h`): front and back, over any slot codec, and a
//! byte-stream ring ([`stream`]) beside them.
//!
//! No I/O here: memory in, memory out. The caller owns the event channel, notifies when `publish`
//! returns true, and sleeps only after `final_check` returned false.

mod back;
mod consumer;
mod front;
pub mod layout;
mod memory;
mod notify;
pub mod stream;

pub use back::BackRing;
pub use front::FrontRing;
pub use layout::SlotCopy;
pub use memory::{RingMemory, SlotWriter, Through};

#[cfg(all(test, loom))]
mod loom_model;

/// How a peer broke the ring's rules. Fatal for the device: close it, say so, carry on with the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The peer's producer index is further ahead than the ring is long.
    #[error(
        "the peer's {index} is {claimed}, {ahead} ahead of our {ours} where at most {allowed} can be, \
         in a ring of {size}; close the device"
    )]
    IndexOutOfRange {
        /// `req_prod` or `rsp_prod`; in a stream, `prod` or `cons`.
        index: &'static str,
        /// What the shared page says.
        claimed: u32,
        /// Our private index.
        ours: u32,
        /// Their difference.
        ahead: u32,
        /// The most that it can be: what is in flight, or what has room.
        allowed: u32,
        /// Slots; in a stream, bytes.
        size: u32,
    },
    /// A stream whose buffers cannot be: an order is 10 to 20, the two small ones (10 and 11,
    /// which live in the control page) are used once, and the grants fit before them.
    #[error(
        "stream buffers of orders {left_order} and {right_order} are not possible; an order is \
         10 to 20, 10 and 11 only once, with the pages that were offered"
    )]
    BadOffer {
        /// From client to server.
        left_order: u16,
        /// From server to client.
        right_order: u16,
    },
    /// A slot's bytes are no request or response of the protocol.
    #[error("slot {slot}: {what}")]
    Malformed {
        /// The free-running index of the slot.
        slot: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Every slot is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {size} slots of the ring are in flight; wait for a response")]
pub struct RingFull {
    /// Slots.
    pub size: u32,
}

/// Turns slots into requests and responses. A slot was copied to private memory before `decode`
/// sees it, so what it checks is what is used (XSA-155).
pub trait SlotCodec {
    /// What the front sends.
    type Request;
    /// What the back receives: a request that borrows from the private copy of its slot.
    type RequestRef<'a>: Into<Self::Request>;
    /// What the back answers.
    type Response;
    /// Bytes of a slot: the larger of request and response, padded as the C union is.
    /// At most [`layout::MAX_SLOT_BYTES`].
    const SLOT_BYTES: usize;
    /// Bytes of a response, padding included. What follows it in the slot is the front's own
    /// request, and stays.
    const RESPONSE_BYTES: usize = Self::SLOT_BYTES;

    /// Writes a request at the start of a slot, padding zeroed (XSA-216), and returns its length.
    /// What follows stays as the ring left it; a line of cache that is not written need not
    /// travel.
    fn encode_request<W: SlotWriter + ?Sized>(
        &self,
        request: &Self::Request,
        slot: &mut W,
    ) -> usize;
    /// Reads a private copy of a slot.
    ///
    /// # Errors
    /// What is wrong, in a few words. Fatal for the ring: a request that merely deserves a
    /// refusal is to be decoded as such, so that it can be answered.
    fn decode_request<'a>(&self, slot: &'a SlotCopy) -> Result<Self::RequestRef<'a>, &'static str>;
    /// Writes all `RESPONSE_BYTES`, padding zeroed (XSA-216).
    fn encode_response<W: SlotWriter + ?Sized>(&self, response: &Self::Response, slot: &mut W);
    /// Reads a private copy of `RESPONSE_BYTES`.
    ///
    /// # Errors
    /// What is wrong, in a few words. Fatal for the ring.
    fn decode_response(&self, slot: &SlotCopy) -> Result<Self::Response, &'static str>;
}
