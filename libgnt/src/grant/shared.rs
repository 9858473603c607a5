//! What a mapper's clones and its maps share: the open device, and who hears when unmaps are over.

use super::ledger::{EntryKind, Ledger};
use super::mapping::Mapping;
use super::releases::Releases;
use super::retry::Retry;
use crate::error::{Error, Result};
use crate::platform::{Gntdev, Platform};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, ForeignGrant};
use rustix::io::Errno;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// One open gntdev, until the last of them is dropped.
#[derive(Debug)]
pub(super) struct Shared {
    pub platform: Arc<dyn Platform>,
    pub gntdev: Box<dyn Gntdev>,
    pub retry: Retry,
    pub releases: Arc<Releases>,
    pub ledger: Ledger,
    /// Dropped maps that could have no pair of event channels, and so are mapped still.
    waiting: Mutex<Vec<Mapping>>,
    /// This process's domain, whose grants are refused.
    own: OnceLock<DomId>,
}

impl Shared {
    pub fn open(platform: Arc<dyn Platform>, ledger: Ledger, retry: Retry) -> Result<Shared> {
        let gntdev = platform.open_gntdev()?;
        let releases = Arc::new(Releases::open(&*platform, ledger.clone())?);
        Ok(Shared {
            platform,
            gntdev,
            retry,
            releases,
            ledger,
            waiting: Mutex::default(),
            own: OnceLock::new(),
        })
    }

    /// From now on this domain's grants are refused.
    pub fn refuse_grants_of(&self, own: DomId) {
        // A domain's number stays while the process lives: the first answer is as good.
        self.own.get_or_init(|| own);
    }

    /// `MAP_GRANT_REF` and mmap, undone on error.
    pub fn map_pages(&self, grants: &[ForeignGrant], access: Access) -> Result<(u64, SharedPages)> {
        if let Some(own) = self.own.get()
            && let Some(grant) = grants
                .iter()
                .find(|grant| [*own, DomId::SELF].contains(&grant.domid))
        {
            return Err(Error::Invalid(format!(
                "{grant} is a grant of this domain, {own}, itself: to map it crashes the kernel of a PVH or HVM guest; map it in another domain, or copy it"
            )));
        }
        let index = self.gntdev.map_grant_ref(grants)?;
        match self.gntdev.mmap(index, grants.len(), access) {
            Ok(pages) => Ok((index, pages)),
            Err(error) => {
                self.gntdev.unmap_grant_ref(index, grants.len())?;
                Err(error)
            }
        }
    }

    /// Maps for a moment, to see whether it can be done. `Ok(false)`: a grant is bad.
    pub fn can_map(&self, grants: &[ForeignGrant], access: Access) -> Result<bool> {
        let index = self.gntdev.map_grant_ref(grants)?;
        let mapped = self.gntdev.mmap(index, grants.len(), access);
        let result = match mapped {
            Ok(pages) => {
                self.ledger.count_probe(grants.len());
                pages.unmap().map(|()| true)
            }
            Err(error) if error.errno() == Some(Errno::INVAL) => Ok(false),
            Err(error) => Err(error),
        };
        self.gntdev.unmap_grant_ref(index, grants.len())?;
        result
    }

    /// A map was dropped, and its unmap cannot begin yet.
    pub fn wait_for_a_pair(&self, mapping: Mapping) {
        self.dropped().push(mapping);
    }

    /// The dropped maps whose unmaps have not begun.
    pub fn dropped(&self) -> MutexGuard<'_, Vec<Mapping>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The file closes, and the unmaps begin; nobody is left to hear when they end.
        for mapping in std::mem::take(&mut *self.dropped()) {
            self.ledger.change(mapping.entry, EntryKind::Untold);
        }
    }
}
