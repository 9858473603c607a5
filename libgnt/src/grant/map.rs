//! Grants of other domains, mapped here, and letting them go without waiting.

use super::mapping::Mapping;
use super::perform::{Begun, Refusal, begin, begin_untold};
use super::shared::Shared;
use super::unmapping::Unmapping;
use crate::error::{Error, Result};
use crate::shm::SharedPages;
use crate::types::{EvtchnPort, ForeignGrant, Grants, PAGE_SIZE, UnmapNotify};
use std::fmt;
use std::sync::Arc;

/// Grants of other domains, mapped here. Unmapped on drop, without waiting.
pub struct Map {
    /// `None` once an unmap has begun.
    mapping: Option<Mapping>,
    shared: Arc<Shared>,
}

impl Map {
    pub(super) fn new(mapping: Mapping, shared: Arc<Shared>) -> Map {
        Map {
            mapping: Some(mapping),
            shared,
        }
    }

    fn mapping(&self) -> &Mapping {
        // Only the beginning of the unmap takes it, and that consumes the map.
        self.mapping
            .as_ref()
            .expect("a map that was not unmapped has its pages")
    }

    /// For the beginning of the unmap.
    fn take(&mut self) -> Mapping {
        let mapping = self.mapping.take();
        // As in `mapping`.
        mapping.expect("a map that was not unmapped has its pages")
    }

    /// The pages. A clone of the `Arc` keeps them mapped: [`Map::unmap`] refuses meanwhile.
    pub fn pages(&self) -> &Arc<SharedPages> {
        &self.mapping().pages
    }

    /// What is mapped, page by page.
    pub fn grants(&self) -> &[ForeignGrant] {
        &self.mapping().grants
    }

    /// Arms the kernel's notice to the *peer*, for when this mapping goes, death included: a byte
    /// in the pages to be cleared when the unmap begins, an event when it is over. A mapping has one
    /// event only: with `event`, [`Map::unmap`] cannot learn of its own release, and the ledger lists
    /// the pages as [`EntryKind::Untold`](super::EntryKind::Untold) from then on. Who unmaps in good order calls this once more
    /// without `event`, and notifies the peer himself.
    ///
    /// # Errors
    /// EINVAL: a byte of a read-only map, or a port that is not open here.
    ///
    /// # Panics
    /// If the byte is outside the pages.
    pub fn set_unmap_notify(&self, byte: Option<usize>, event: Option<EvtchnPort>) -> Result<()> {
        let mapping = self.mapping();
        let place = byte.unwrap_or(0);
        assert!(
            place < mapping.grants.len() * PAGE_SIZE,
            "byte {place} is outside the pages"
        );
        let notify = UnmapNotify {
            clear_byte: byte.is_some(),
            send_event: event,
        };
        self.shared
            .gntdev
            .set_unmap_notify(mapping.index + place as u64, notify)?;
        mapping.set_armed(place, notify);
        Ok(())
    }

    /// Unmaps: gone from this address space on return, given back by the hypervisor when nobody
    /// holds the pages any more. Never waits for those who do (Linux 5.19 and later; before, and on
    /// the simulator's `sync` mode, munmap itself waits).
    ///
    /// # Errors
    /// [`UnmapError`] gives the map back where nothing was done.
    pub fn unmap(self) -> Result<Unmapping, Box<UnmapError>> {
        let mut map = self.unless_in_use()?;
        match begin(map.take(), &map.shared) {
            Ok(begun) => followed(begun),
            Err(refused) => {
                let (reason, mapping) = *refused;
                map.mapping = Some(mapping);
                Err(UnmapError::Refused { reason, map }.into())
            }
        }
    }

    /// The same without the news of its end, for a map whose notice cannot be armed. The
    /// [`Unmapping`] never gets beyond [`UnmapState::Unmapping`](super::UnmapState), and the ledger
    /// lists the pages as [`EntryKind::Untold`](super::EntryKind::Untold): they may be mapped still, and their owner must not be
    /// told otherwise.
    ///
    /// # Errors
    /// [`UnmapError::Refused`] with [`Refusal::InUse`]; [`UnmapError::Failed`].
    pub fn unmap_untold(self) -> Result<Unmapping, Box<UnmapError>> {
        let mut map = self.unless_in_use()?;
        followed(begin_untold(map.take(), &map.shared))
    }

    fn unless_in_use(self) -> Result<Map, Box<UnmapError>> {
        match Arc::strong_count(&self.mapping().pages) - 1 {
            0 => Ok(self),
            uses => {
                let reason = Refusal::InUse { uses };
                Err(UnmapError::Refused { reason, map: self }.into())
            }
        }
    }
}

/// What the caller of an unmap gets.
fn followed(begun: Begun) -> Result<Unmapping, Box<UnmapError>> {
    let Begun { unmapping, result } = begun;
    match result {
        Ok(()) => Ok(unmapping),
        Err(error) => Err(UnmapError::Failed { error, unmapping }.into()),
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let Some(mapping) = self.mapping.take() else {
            return;
        };
        let result = match begin(mapping, &self.shared).map_err(|refused| *refused) {
            Ok(begun) => begun.result,
            // It stays mapped, and in the ledger, until a pair comes back.
            Err((Refusal::TooMany, mapping)) => {
                self.shared.wait_for_a_pair(mapping);
                Ok(())
            }
            Err((refusal, mapping)) => {
                tracing::debug!(%refusal, "unmap in drop, untold");
                begin_untold(mapping, &self.shared).result
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "unmap in drop");
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grants = self.mapping.as_ref().map(|mapping| &*mapping.grants);
        write!(f, "Map({})", Grants(grants.unwrap_or_default()))
    }
}

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
