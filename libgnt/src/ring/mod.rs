//! Xen's shared rings (`xen/include/public/io/ring.h`): front and back, over any slot codec.

/// How a peer broke the ring's rules. Fatal for the device: close it, say so, carry on with the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The peer's producer index is further ahead than the ring is long.
    #[error(
        "the peer's {index} is {claimed}, {ahead} ahead of our {ours}, in a ring of {size} slots"
    )]
    IndexOutOfRange {
        /// `req_prod` or `rsp_prod`.
        index: &'static str,
        /// What the shared page says.
        claimed: u32,
        /// Our private consumer index.
        ours: u32,
        /// Their difference.
        ahead: u32,
        /// Slots.
        size: u32,
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

/// Turns slots into requests and responses. A slot was copied to private memory before `decode`
/// sees it, so what it checks is what is used (XSA-155).
pub trait SlotCodec {
    /// What the front sends.
    type Request;
    /// What the back answers.
    type Response;
    /// Bytes of a slot: the larger of request and response, padded as the C union is.
    const SLOT_BYTES: usize;

    /// Writes a whole slot, padding zeroed (XSA-216).
    fn encode_request(&self, request: &Self::Request, slot: &mut [u8]);
    /// Reads a private copy of a slot.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    fn decode_request(&self, slot: &[u8]) -> Result<Self::Request, &'static str>;
    /// Writes a whole slot, padding zeroed (XSA-216).
    fn encode_response(&self, response: &Self::Response, slot: &mut [u8]);
    /// Reads a private copy of a slot.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    fn decode_response(&self, slot: &[u8]) -> Result<Self::Response, &'static str>;
}
