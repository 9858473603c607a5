//! What is said when pages are not taken away as asked: in one shape, for a mapping of ours and for
//! pages that we share. What was left untouched is given back.

use super::map::Map;
use super::share::Share;
use super::unmapping::Unmapping;
use crate::error::Error;
use crate::types::GrantRef;

/// [`Map::unmap`] did not go as asked. There are two ways, and no third: nothing was done, or all was.
#[derive(Debug, thiserror::Error)]
pub enum UnmapError {
    /// Nothing was done.
    #[error("{map:?}: {reason}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// The map, untouched.
        map: Map,
    },
    /// A step failed: the rest was done, and `unmapping` follows it. On the simulator's `sync` mode
    /// the error is [`Error::Deadlock`].
    #[error("unmap of {unmapping:?}: {error}")]
    Failed {
        /// What failed.
        error: Error,
        /// The unmap, which goes on.
        unmapping: Unmapping,
    },
}

impl UnmapError {
    /// The map, if nothing was done.
    pub fn into_map(self) -> Option<Map> {
        match self {
            UnmapError::Refused { map, .. } => Some(map),
            UnmapError::Failed { .. } => None,
        }
    }
}

/// Why an unmap did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This process still uses the pages: a ring, a request at the disk.
    #[error("it has {uses} more users in this process; end them first")]
    InUse {
        /// How many other owners the pages have.
        uses: usize,
    },
    /// As many unmaps are in progress as may be ([`Mapper::limit_unmapping`]), or the domain has no
    /// more event channels. Try again when one is released. A dropped map is let go of then by itself.
    ///
    /// [`Mapper::limit_unmapping`]: super::Mapper::limit_unmapping
    #[error(
        "no two event channels are left for the notice of its release; wait for another unmap to be released, or give the domain more (max_event_channels)"
    )]
    TooMany,
    /// The notice of the release cannot be armed. [`Map::unmap_untold`], and a drop, let go without a
    /// notice.
    #[error("no notice of its release: {0}")]
    NoNotice(Error),
}

/// [`Share::end_access`] did not end it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndAccessError {
    /// The peer still has the pages: nothing was ended, nothing may be reused. Try again when the peer
    /// has said that it let go.
    #[error("{share:?}: the peer still maps {} of its pages; try again when it has let go", .grefs.len())]
    InUse {
        /// The share, untouched.
        share: Share,
        /// What the peer still maps.
        grefs: Vec<GrantRef>,
    },
    /// The device failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl EndAccessError {
    /// The share, if nothing was ended.
    pub fn into_share(self) -> Option<Share> {
        match self {
            EndAccessError::InUse { share, .. } => Some(share),
            EndAccessError::Failed(_) => None,
        }
    }
}
