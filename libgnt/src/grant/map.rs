//! Mapping another domain's grants, and letting them go without waiting.

use super::ledger::{EntryId, EntryKind, Ledger, LedgerEntry};
use super::probe::name_bad_grants;
use super::releases::{Grants, PairIndex, Releases, UnmapId, Unmapping, lock_machine};
use super::retry::Retry;
use super::unmap::{UnmapMachine, UnmapStep};
use crate::error::{Error, Result};
use crate::platform::{Gntdev, GuestType, Platform};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, PAGE_SIZE, UnmapNotify};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock};

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
    releases: Arc<Releases>,
    ledger: Ledger,
    /// This process's domain, whose grants are refused.
    own: OnceLock<DomId>,
}

impl Mapper {
    /// Opens the devices.
    ///
    /// # Errors
    /// [`Error::NotAvailable`].
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
        let (index, pages) = self.shared.map_pages(grants, access)?;
        let grants: Arc<[ForeignGrant]> = grants.into();
        let entry = self
            .shared
            .ledger
            .add(EntryKind::Mapped, Arc::clone(&grants));
        Ok(Map {
            life: Some(Life {
                pages: Arc::new(pages),
                index,
                entry,
                notify: Mutex::default(),
            }),
            grants,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Takes in release events, and says which unmaps are over. Never waits.
    ///
    /// # Errors
    /// What the event channel's device says.
    pub fn process_releases(&self) -> Result<Vec<UnmapId>> {
        self.shared.releases.finished()
    }

    /// How many unmaps are in progress and will be told.
    pub fn unmapping(&self) -> usize {
        self.shared.releases.in_progress()
    }
}

impl Shared {
    /// `MAP_GRANT_REF` and mmap, undone on error.
    fn map_pages(&self, grants: &[ForeignGrant], access: Access) -> Result<(u64, SharedPages)> {
        let what = || format!("map {}", Grants(grants));
        if let Some(own) = self.own.get()
            && let Some(grant) = grants
                .iter()
                .find(|grant| [*own, DomId::SELF].contains(&grant.domid))
        {
            return Err(Error::Invalid(format!(
                "{grant} is a grant of this domain, {own}, itself: to map it crashes the kernel of a PVH or HVM guest; map it in another domain, or copy it"
            )));
        }
        // EAGAIN: Linux 5.19 to 6.0.3 while an earlier unmap of the same range is deferred.
        self.retry.run(what, &[Errno::AGAIN], || {
            let index = self.gntdev.map_grant_ref(grants)?;
            match self.gntdev.mmap(index, grants.len(), access) {
                Ok(pages) => Ok((index, pages)),
                Err(error) => {
                    self.gntdev.unmap_grant_ref(index, grants.len())?;
                    Err(if error.errno() == Some(Errno::INVAL) {
                        name_bad_grants(self, grants, access, error)
                    } else {
                        error
                    })
                }
            }
        })
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

/// What exists while the mapping does.
#[derive(Debug)]
struct Life {
    pages: Arc<SharedPages>,
    index: u64,
    entry: EntryId,
    /// What the owner armed, and the byte's place.
    notify: Mutex<Option<(usize, UnmapNotify)>>,
}

/// Grants of other domains, mapped here. Unmapped on drop, without waiting.
pub struct Map {
    /// `None` once an unmap has begun.
    life: Option<Life>,
    grants: Arc<[ForeignGrant]>,
    shared: Arc<Shared>,
}

impl Map {
    fn life(&self) -> &Life {
        // Only `begin` takes it, and that consumes the map.
        self.life
            .as_ref()
            .expect("a map that was not unmapped has its pages")
    }

    /// The pages. A clone of the `Arc` keeps them mapped: [`Map::unmap`] refuses meanwhile.
    pub fn pages(&self) -> &Arc<SharedPages> {
        &self.life().pages
    }

    /// What is mapped, page by page.
    pub fn grants(&self) -> &[ForeignGrant] {
        &self.grants
    }

    /// Arms the kernel's notice to the *peer*, for when this mapping goes, death included: a byte
    /// in the pages to be cleared when the unmap begins, an event when it is over. A mapping has one
    /// event only: with `event`, [`Map::unmap`] cannot learn of its own release.
    ///
    /// # Errors
    /// EINVAL: a byte of a read-only map, or a port that is not open here.
    ///
    /// # Panics
    /// If the byte is outside the pages.
    pub fn set_unmap_notify(&self, byte: Option<usize>, event: Option<EvtchnPort>) -> Result<()> {
        let life = self.life();
        let place = byte.unwrap_or(0);
        assert!(
            place < self.grants.len() * PAGE_SIZE,
            "byte {place} is outside the pages"
        );
        let notify = UnmapNotify {
            clear_byte: byte.is_some(),
            send_event: event,
        };
        self.shared
            .gntdev
            .set_unmap_notify(life.index + place as u64, notify)?;
        let mut armed = life
            .notify
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *armed = Some((place, notify));
        Ok(())
    }

    /// Unmaps: gone from this address space on return, given back by the hypervisor when nobody
    /// holds the pages any more. Never waits for those who do (Linux 5.19 and later; before, and on
    /// the simulator's `sync` mode, munmap itself waits).
    ///
    /// # Errors
    /// [`UnmapRefused`] gives the map back where nothing was done.
    pub fn unmap(mut self) -> Result<Unmapping, Box<UnmapRefused>> {
        if Arc::strong_count(&self.life().pages) > 1 {
            let uses = Arc::strong_count(&self.life().pages) - 1;
            return Err(UnmapRefused::InUse { map: self, uses }.into());
        }
        match self.begin() {
            Ok((unmapping, Ok(()))) => Ok(unmapping),
            Ok((unmapping, Err(error))) => Err(UnmapRefused::Failed { error, unmapping }.into()),
            Err(None) => Err(UnmapRefused::TooMany { map: self }.into()),
            Err(Some(error)) => Err(UnmapRefused::NoNotice { error, map: self }.into()),
        }
    }

    /// The steps of [`UnmapMachine`]. `Err`: nothing was done.
    fn begin(&mut self) -> Result<(Unmapping, Result<()>), Option<Error>> {
        let armed = *self
            .life()
            .notify
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let told_elsewhere = armed.is_some_and(|(_, notify)| notify.send_event.is_some());
        let pair = if told_elsewhere {
            None
        } else {
            Some(self.shared.releases.take_pair()?.ok_or(None)?)
        };
        let Some(life) = self.life.take() else {
            return Err(None);
        };
        let machine = Arc::new(Mutex::new(UnmapMachine::new()));
        // Registered before the first step: the event may come while the last one returns.
        let id = match pair {
            Some((pair, _)) => self.shared.releases.expect(pair, &machine, life.entry),
            None => self.shared.releases.untold(),
        };
        self.shared.ledger.change(life.entry, EntryKind::Unmapping);
        let entry = life.entry;
        let result = self.perform(&machine, life, pair, armed);
        if !lock_machine(&machine).is_noticed() {
            // Nobody will tell us, so neither the pair nor the ledger can follow it.
            if let Some((pair, _)) = pair {
                self.shared.releases.forget(pair);
            }
            self.shared.ledger.remove(entry);
        }
        let (releases, grants) = (Arc::clone(&self.shared.releases), Arc::clone(&self.grants));
        Ok((
            Unmapping {
                id,
                machine,
                releases,
                grants,
            },
            result,
        ))
    }

    fn perform(
        &self,
        machine: &Mutex<UnmapMachine>,
        life: Life,
        pair: Option<(PairIndex, EvtchnPort)>,
        armed: Option<(usize, UnmapNotify)>,
    ) -> Result<()> {
        let Life { pages, index, .. } = life;
        let mut pages = Some(pages);
        let mut result = Ok(());
        // Held throughout: the release event must find every step reported.
        let mut machine = lock_machine(machine);
        machine.begin(pair.is_some());
        loop {
            let step = machine.next();
            let outcome = match step {
                UnmapStep::None | UnmapStep::AwaitRelease => break,
                UnmapStep::ArmNotice => {
                    let (place, notify) = armed.unwrap_or_default();
                    let send_event = pair.map(|(_, port)| port);
                    let notify = UnmapNotify {
                        send_event,
                        ..notify
                    };
                    self.shared
                        .gntdev
                        .set_unmap_notify(index + place as u64, notify)
                }
                // The last owner of the pages unmaps them; in a drop, that may come later.
                UnmapStep::Munmap => match pages.take().map(Arc::try_unwrap) {
                    Some(Ok(pages)) => pages.unmap(),
                    Some(Err(_)) | None => Ok(()),
                },
                UnmapStep::GiveBack => self.shared.gntdev.unmap_grant_ref(index, self.grants.len()),
            };
            machine.done(step, outcome.is_ok());
            result = result.and(outcome);
        }
        result
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let Some(life) = &self.life else { return };
        let entry = life.entry;
        match self.begin() {
            Ok((_, Ok(()))) => {}
            Ok((_, Err(error))) => tracing::debug!(%error, "unmap in drop"),
            Err(error) => {
                // No notice to be had: let go without one.
                tracing::debug!(?error, "unmap in drop, untold");
                if let Some(life) = self.life.take() {
                    let index = life.index;
                    drop(life);
                    if let Err(error) = self.shared.gntdev.unmap_grant_ref(index, self.grants.len())
                    {
                        tracing::debug!(%error, "give back in drop");
                    }
                }
                self.shared.ledger.remove(entry);
            }
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({})", Grants(&self.grants))
    }
}

/// Why [`Map::unmap`] did not go as asked.
#[derive(Debug, thiserror::Error)]
pub enum UnmapRefused {
    /// This process still uses the pages: a ring, a request at the disk. Nothing was done.
    #[error("{map:?} has {uses} more users in this process; end them first")]
    InUse {
        /// The map, untouched.
        map: Map,
        /// How many other owners the pages have.
        uses: usize,
    },
    /// [`MAX_UNMAPPING`](super::MAX_UNMAPPING) unmaps are in progress. Nothing was done: wait for a release.
    #[error("{map:?}: too many unmaps are in progress; wait for one to be released")]
    TooMany {
        /// The map, untouched.
        map: Map,
    },
    /// No event channel for the release notice. Nothing was done; dropping the map lets go without a notice.
    #[error("{map:?}: no event channel for the notice of its release: {error}")]
    NoNotice {
        /// Why.
        error: Error,
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
