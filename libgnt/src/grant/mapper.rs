//! The device, opened: what maps, and what hears when unmaps are over.

use super::ledger::{EntryKind, Ledger, LedgerEntry};
use super::map::{Map, Mapping};
use super::probe::name_bad_grants;
use super::releases::Releases;
use super::retry::Retry;
use super::unmapping::{Grants, UnmapId};
use crate::error::{Error, Result};
use crate::platform::{Gntdev, GuestType, Platform};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, ForeignGrant};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// One open `/dev/xen/gntdev`, with the event channels that tell when unmaps are over.
///
/// A handle: clones share the file. Registers with mio as a [`Source`]: readable when an unmap
/// may be over; then call [`Mapper::process_releases`].
#[derive(Clone, Debug)]
pub struct Mapper {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub platform: Arc<dyn Platform>,
    pub gntdev: Box<dyn Gntdev>,
    pub retry: Retry,
    pub releases: Arc<Releases>,
    pub ledger: Ledger,
    /// Dropped maps that could have no pair of event channels, and so are mapped still.
    waiting: Mutex<Vec<(Mapping, Arc<[ForeignGrant]>)>>,
    /// This process's domain, whose grants are refused.
    own: OnceLock<DomId>,
}

impl Mapper {
    /// Opens the devices, and binds two event channels: with them, unmaps can go on one after the
    /// other, however few the domain has later.
    ///
    /// # Errors
    /// [`Error::NotAvailable`]: a device, or two event channels.
    pub fn open(platform: Arc<dyn Platform>, ledger: Ledger) -> Result<Self> {
        Self::with_retry(platform, ledger, Retry::default())
    }

    /// The same, with another patience for grants that are paged out for now.
    ///
    /// # Errors
    /// As [`Mapper::open`].
    pub fn with_retry(platform: Arc<dyn Platform>, ledger: Ledger, retry: Retry) -> Result<Self> {
        let gntdev = platform.open_gntdev()?;
        let releases = Arc::new(Releases::open(&*platform, ledger.clone())?);
        Ok(Mapper {
            shared: Arc::new(Shared {
                platform,
                gntdev,
                retry,
                releases,
                ledger,
                waiting: Mutex::default(),
                own: OnceLock::new(),
            }),
        })
    }

    /// Tells the mapper which domain it runs in: that domain's grants are refused from then on.
    /// A PVH or HVM guest that maps a grant of its own loses the page, because Xen moves the frame
    /// to the mapping's place in the guest's physical memory (`guest_physmap_add_entry`,
    /// `xen/arch/x86/mm/p2m.c`), and its kernel soon crashes. PV guests may do it, so nothing is
    /// refused where the kernel says that it is one. The number is the node `domid` in xenstore.
    pub fn refuse_grants_of(&self, own: DomId) {
        match self.shared.platform.guest_type() {
            Ok(GuestType::Pv) => return,
            Ok(_) => {}
            // In a container, say. The guess that crashes nobody.
            Err(error) => tracing::debug!(%error, "this domain's own grants are refused"),
        }
        // A domain's number stays while the process lives: the first answer is as good.
        self.shared.own.get_or_init(|| own);
    }

    /// The ledger that this mapper writes.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// The ledger's entries, and who holds the pages that are still unmapping, where the platform
    /// can say.
    ///
    /// # Errors
    /// As [`Platform::holders`].
    pub fn ledger_with_holders(&self) -> Result<Vec<LedgerEntry>> {
        self.shared
            .ledger
            .snapshot_with_holders(&*self.shared.platform)
    }

    /// Maps grants, of one domain or of several, next to each other. All or nothing.
    ///
    /// # Errors
    /// [`Error::BadGrants`] names the bad ones, with Xen's reason where a probe could get it, and
    /// leaves nothing mapped. [`Error::Timeout`] if the device kept asking to try again. EINVAL
    /// for no grants, or more than the driver's limit. [`Error::Invalid`] for a grant of this domain
    /// itself, after [`Mapper::refuse_grants_of`].
    pub fn map(&self, grants: &[ForeignGrant], access: Access) -> Result<Map> {
        self.let_go_of_dropped();
        let what = || format!("map {}", Grants(grants));
        // EAGAIN: Linux 5.19 to 6.0.3 while an earlier unmap of the same range is deferred.
        let mapped = self.shared.retry.run(what, &[Errno::AGAIN], || {
            self.shared.map_pages(grants, access)
        });
        match mapped {
            Ok(mapped) => Ok(self.mapped(mapped, grants)),
            Err(error) => Err(self.explain(grants, access, error)),
        }
    }

    /// The same for an event loop: one attempt, nothing slept on, nothing probed.
    ///
    /// # Errors
    /// EAGAIN: try again later. EINVAL: a grant is bad, and [`Mapper::explain`] says which; or as
    /// [`Mapper::map`].
    pub fn try_map(&self, grants: &[ForeignGrant], access: Access) -> Result<Map> {
        let mapped = self.shared.map_pages(grants, access)?;
        Ok(self.mapped(mapped, grants))
    }

    /// Turns the bare EINVAL of [`Mapper::try_map`] into [`Error::BadGrants`], by probing: some dozens
    /// of system calls at most, so not for each of a peer's bad requests. Other errors stay.
    pub fn explain(&self, grants: &[ForeignGrant], access: Access, error: Error) -> Error {
        if error.errno() != Some(Errno::INVAL) {
            return error;
        }
        name_bad_grants(&self.shared, grants, access, error)
    }

    /// Whoever only maps and drops has nobody who processes releases.
    fn let_go_of_dropped(&self) {
        if !self.shared.dropped().is_empty() {
            self.shared.let_go_of_dropped();
        }
    }

    fn mapped(&self, (index, pages): (u64, SharedPages), grants: &[ForeignGrant]) -> Map {
        let grants: Arc<[ForeignGrant]> = grants.into();
        let entry = self
            .shared
            .ledger
            .add(EntryKind::Mapped, Arc::clone(&grants));
        let mapping = Mapping::new(pages, index, entry);
        Map::new(mapping, grants, Arc::clone(&self.shared))
    }

    /// Takes in release events, and says which unmaps are over. Never waits.
    ///
    /// # Errors
    /// What the event channel's device says.
    pub fn process_releases(&self) -> Result<Vec<UnmapId>> {
        let finished = self.shared.releases.finished()?;
        self.shared.let_go_of_dropped();
        Ok(finished)
    }

    /// How many unmaps may be in progress at once, at least one; [`MAX_UNMAPPING`] unless this is
    /// called. Each has two event channels for as long as somebody holds its pages.
    ///
    /// [`MAX_UNMAPPING`]: super::MAX_UNMAPPING
    pub fn limit_unmapping(&self, unmaps: usize) {
        self.shared.releases.limit(unmaps);
    }

    /// How many unmaps are in progress and will be told.
    pub fn unmapping(&self) -> usize {
        self.shared.releases.in_progress()
    }
}

impl Shared {
    /// `MAP_GRANT_REF` and mmap, undone on error.
    fn map_pages(&self, grants: &[ForeignGrant], access: Access) -> Result<(u64, SharedPages)> {
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

    /// A map was dropped, and its unmap cannot begin yet.
    pub fn wait_for_a_pair(&self, mapping: Mapping, grants: Arc<[ForeignGrant]>) {
        self.dropped().push((mapping, grants));
    }

    fn dropped(&self) -> std::sync::MutexGuard<'_, Vec<(Mapping, Arc<[ForeignGrant]>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the unmaps of dropped maps, as far as there are pairs for them.
    pub fn let_go_of_dropped(self: &Arc<Self>) {
        let mut waiting = std::mem::take(&mut *self.dropped()).into_iter();
        while let Some((mapping, grants)) = waiting.next() {
            // Its drop begins the unmap, or comes back here.
            drop(Map::new(mapping, grants, Arc::clone(self)));
            let mut still = self.dropped();
            if !still.is_empty() {
                still.extend(waiting);
                return;
            }
        }
    }

    /// Maps for a moment, to see whether it can be done. `Ok(false)`: a grant is bad.
    pub fn can_map(&self, grants: &[ForeignGrant], access: Access) -> Result<bool> {
        let index = self.gntdev.map_grant_ref(grants)?;
        let mapped = self.gntdev.mmap(index, grants.len(), access);
        let result = match mapped {
            Ok(pages) => pages.unmap().map(|()| true),
            Err(error) if error.errno() == Some(Errno::INVAL) => Ok(false),
            Err(error) => Err(error),
        };
        self.gntdev.unmap_grant_ref(index, grants.len())?;
        result
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The file closes, and the unmaps begin; nobody is left to hear when they end.
        for (mapping, _) in std::mem::take(&mut *self.dropped()) {
            self.ledger.change(mapping.entry, EntryKind::Untold);
        }
    }
}

impl AsFd for Mapper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.releases.events().as_fd()
    }
}

impl Source for Mapper {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.shared.releases.collect();
        self.shared
            .releases
            .events()
            .clone()
            .register(registry, token, interest)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.shared
            .releases
            .events()
            .clone()
            .reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.shared.releases.events().clone().deregister(registry)
    }
}
