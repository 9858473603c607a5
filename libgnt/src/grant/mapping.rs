//! One mapping of other domains' pages.

use super::ledger::EntryId;
use crate::shm::SharedPages;
use crate::types::{ForeignGrant, UnmapNotify};
use std::sync::{Arc, Mutex, PoisonError};

/// The mapping itself: what exists as long as it does.
#[derive(Debug)]
pub(super) struct Mapping {
    pub pages: Arc<SharedPages>,
    pub index: u64,
    /// What is mapped, page by page.
    pub grants: Arc<[ForeignGrant]>,
    pub entry: EntryId,
    /// What the owner armed, and the byte's place.
    notify: Mutex<Option<(usize, UnmapNotify)>>,
}

impl Mapping {
    pub fn new(
        pages: SharedPages,
        index: u64,
        grants: Arc<[ForeignGrant]>,
        entry: EntryId,
    ) -> Mapping {
        Mapping {
            pages: Arc::new(pages),
            index,
            grants,
            entry,
            notify: Mutex::default(),
        }
    }

    /// The notice that its owner armed, if any.
    pub fn armed(&self) -> Option<(usize, UnmapNotify)> {
        *self.notify.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner has armed this one.
    pub fn set_armed(&self, place: usize, notify: UnmapNotify) {
        let mut armed = self.notify.lock().unwrap_or_else(PoisonError::into_inner);
        *armed = Some((place, notify));
    }
}
