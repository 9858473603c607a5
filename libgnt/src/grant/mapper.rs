//! The device, opened: what maps, and what hears when unmaps are over.

use super::ledger::{EntryKind, Ledger, LedgerEntry};
use super::map::Map;
use super::mapping::Mapping;
use super::probe::name_bad_grants;
use super::releases::UnmapId;
use super::retry::Retry;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::platform::{GuestType, Platform};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, ForeignGrant, Grants};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// One open `/dev/xen/gntdev`, with the event channels that tell when unmaps are over.
///
/// A handle: clones share the file. Registers with mio as a [`Source`]: readable when an unmap
/// may be over; then call [`Mapper::process_releases`].
#[derive(Clone, Debug)]
pub struct Mapper {
    pub(super) shared: Arc<Shared>,
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
        let shared = Arc::new(Shared::open(platform, ledger, retry)?);
        Ok(Mapper { shared })
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
        self.shared.refuse_grants_of(own);
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
        // Whoever only maps and drops has nobody who processes releases.
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

    /// Begins the unmaps of dropped maps, as far as there are pairs for them.
    fn let_go_of_dropped(&self) {
        let mut waiting = std::mem::take(&mut *self.shared.dropped()).into_iter();
        while let Some(mapping) = waiting.next() {
            // Its drop begins the unmap, or takes it back to those that wait.
            drop(Map::new(mapping, Arc::clone(&self.shared)));
            let mut still = self.shared.dropped();
            if !still.is_empty() {
                still.extend(waiting);
                return;
            }
        }
    }

    fn mapped(&self, (index, pages): (u64, SharedPages), grants: &[ForeignGrant]) -> Map {
        let grants: Arc<[ForeignGrant]> = grants.into();
        let entry = self
            .shared
            .ledger
            .add(EntryKind::Mapped, Arc::clone(&grants));
        let mapping = Mapping::new(pages, index, grants, entry);
        Map::new(mapping, Arc::clone(&self.shared))
    }

    /// Takes in release events, and says which unmaps are over. Never waits.
    ///
    /// # Errors
    /// What the event channel's device says.
    pub fn process_releases(&self) -> Result<Vec<UnmapId>> {
        let finished = self.shared.releases.finished()?;
        self.let_go_of_dropped();
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
