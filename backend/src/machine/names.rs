//! What requests and mappings are called.

use std::num::NonZeroU32;

/// Our own name for a request. Reused, but never while anything of the request is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u32);

impl Tag {
    /// Small: below the ring's size plus the zombies of earlier connections.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn from_index(index: usize) -> Tag {
        // An index counts requests of a ring: it never comes near.
        Tag(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// To be carried through something that knows no tags.
    pub fn token(self) -> u64 {
        self.0.into()
    }

    /// Back from [`Tag::token`].
    pub fn from_token(token: u64) -> Option<Tag> {
        u32::try_from(token).ok().map(Tag)
    }
}

/// A place in the cache. Reused only after the page's mapping was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(
    /// One more than the index, so that an `Option` of it is no larger.
    NonZeroU32,
);

impl Slot {
    /// Small: below the cache's size plus the unmaps outstanding.
    pub fn index(self) -> usize {
        (self.0.get() - 1) as usize
    }

    pub(super) fn from_index(index: usize) -> Slot {
        // An index counts pages of a ring and of the cache: it never comes near.
        Slot(NonZeroU32::MIN.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)))
    }
}

/// Names a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapKey {
    /// All pages of one request, in the segments' order.
    Request(Tag),
    /// One page in the cache of persistent grants.
    Cached(Slot),
}
