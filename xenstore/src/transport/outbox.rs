//! Messages that wait to be sent.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Whole messages, in order, of the first of which a part may be gone already. Its limit is kept by
/// who puts something in ([`Outbox::bytes`]).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// A request's id, and its bytes.
    messages: VecDeque<(u32, Vec<u8>)>,
    /// Bytes of the first message that are gone.
    gone: usize,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn push(&mut self, id: u32, message: Vec<u8>) {
        self.bytes += message.len();
        self.messages.push_back((id, message));
    }

    /// Bytes that are still to go.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages that are still to go, with one that is partly gone.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Outbox::default();
    }

    /// What is left of the first message, and has a part of it gone?
    pub(super) fn first(&self) -> Option<(&[u8], bool)> {
        let (_, message) = self.messages.front()?;
        Some((&message[self.gone..], self.gone > 0))
    }

    /// The first of what is left, in as many pieces as one call takes.
    pub(super) fn slices(&self, most: usize) -> Vec<IoSlice<'_>> {
        let parts = self.messages.iter().take(most).enumerate();
        parts
            .map(|(n, (_, message))| IoSlice::new(&message[if n == 0 { self.gone } else { 0 }..]))
            .collect()
    }

    /// So many bytes have gone.
    pub(super) fn went(&mut self, bytes: usize) {
        self.gone += bytes;
        self.bytes = self.bytes.saturating_sub(bytes);
        while let Some((_, message)) = self.messages.front()
            && message.len() <= self.gone
        {
            self.gone -= message.len();
            self.messages.pop_front();
        }
    }

    /// The first message will not go: its id.
    pub(super) fn drop_first(&mut self) -> Option<u32> {
        let (id, message) = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(message.len() - self.gone);
        self.gone = 0;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_has_not_gone() {
        let mut outbox = Outbox::default();
        outbox.push(1, b"abc".to_vec());
        outbox.push(2, b"defg".to_vec());
        outbox.went(2);
        assert_eq!(
            (outbox.first(), outbox.bytes(), outbox.len()),
            (Some((&b"c"[..], true)), 5, 2)
        );
        let left: Vec<u8> = outbox.slices(8).iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(left, b"cdefg");
        outbox.went(3);
        assert_eq!(outbox.first(), Some((&b"fg"[..], true)));
        assert_eq!(outbox.drop_first(), Some(2));
        assert!(outbox.is_empty() && outbox.bytes() == 0);
    }
}
