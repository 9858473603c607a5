//! Grants of other domains, mapped here, and letting them go without waiting.

use super::ledger::{EntryId, EntryKind};
use super::mapper::Shared;
use super::pairs::Pair;
use super::unmap::{UnmapMachine, UnmapStep};
use super::unmapping::{Grants, Unmapping, lock_machine};
use crate::error::{Error, Result};
use crate::shm::SharedPages;
use crate::types::{EvtchnPort, ForeignGrant, PAGE_SIZE, UnmapNotify};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What exists while the mapping does.
#[derive(Debug)]
pub(super) struct Life {
    pages: Arc<SharedPages>,
    index: u64,
    pub entry: EntryId,
    /// What the owner armed, and the byte's place.
    notify: Mutex<Option<(usize, UnmapNotify)>>,
}

impl Life {
    pub fn new(pages: SharedPages, index: u64, entry: EntryId) -> Self {
        Life {
            pages: Arc::new(pages),
            index,
            entry,
            notify: Mutex::default(),
        }
    }

    fn armed(&self) -> Option<(usize, UnmapNotify)> {
        *self.notify.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Grants of other domains, mapped here. Unmapped on drop, without waiting.
pub struct Map {
    /// `None` once an unmap has begun.
    life: Option<Life>,
    grants: Arc<[ForeignGrant]>,
    shared: Arc<Shared>,
}

/// Why an unmap did not begin.
enum Refusal {
    TooMany,
    NoNotice(Error),
}

impl Map {
    pub(super) fn new(life: Life, grants: Arc<[ForeignGrant]>, shared: Arc<Shared>) -> Map {
        Map {
            life: Some(life),
            grants,
            shared,
        }
    }

    fn life(&self) -> &Life {
        // Only the beginning of the unmap takes it, and that consumes the map.
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
    /// event only: with `event`, [`Map::unmap`] cannot learn of its own release, and the ledger lists
    /// the pages as [`EntryKind::Untold`] from then on. Who unmaps in good order calls this once more
    /// without `event`, and notifies the peer himself.
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
        let mut armed = life.notify.lock().unwrap_or_else(PoisonError::into_inner);
        *armed = Some((place, notify));
        Ok(())
    }

    /// Unmaps: gone from this address space on return, given back by the hypervisor when nobody
    /// holds the pages any more. Never waits for those who do (Linux 5.19 and later; before, and on
    /// the simulator's `sync` mode, munmap itself waits).
    ///
    /// # Errors
    /// [`UnmapRefused`] gives the map back where nothing was done.
    pub fn unmap(self) -> Result<Unmapping, Box<UnmapRefused>> {
        let mut map = self.unless_in_use()?;
        match map.begin() {
            Ok(begun) => followed(begun),
            Err(Refusal::TooMany) => Err(UnmapRefused::TooMany { map }.into()),
            Err(Refusal::NoNotice(error)) => Err(UnmapRefused::NoNotice { error, map }.into()),
        }
    }

    /// The same without the news of its end, for a map whose notice cannot be armed. The
    /// [`Unmapping`] never gets beyond [`UnmapState::Unmapping`](super::UnmapState), and the ledger
    /// lists the pages as [`EntryKind::Untold`]: they may be mapped still, and their owner must not be
    /// told otherwise.
    ///
    /// # Errors
    /// [`UnmapRefused::InUse`], [`UnmapRefused::Failed`].
    pub fn unmap_untold(self) -> Result<Unmapping, Box<UnmapRefused>> {
        let mut map = self.unless_in_use()?;
        let life = map.life.take();
        // It was there a line ago.
        let life = life.expect("a map that was not unmapped has its pages");
        followed(map.finish(life, UnmapMachine::new(), None))
    }

    fn unless_in_use(self) -> Result<Map, Box<UnmapRefused>> {
        match Arc::strong_count(&self.life().pages) - 1 {
            0 => Ok(self),
            uses => Err(UnmapRefused::InUse { map: self, uses }.into()),
        }
    }

    /// The steps of [`UnmapMachine`]. `Err`: nothing was done.
    fn begin(&mut self) -> Result<(Unmapping, Result<()>), Refusal> {
        let Some(life) = self.life.take() else {
            return Err(Refusal::TooMany);
        };
        let mut machine = UnmapMachine::new();
        match self.arm(&life, &mut machine) {
            Ok(pair) => Ok(self.finish(life, machine, pair)),
            Err(refusal) => {
                self.life = Some(life);
                Err(refusal)
            }
        }
    }

    /// The first step, while nothing is done and all can be left as it is. `None`: somebody else
    /// is told.
    fn arm(&self, life: &Life, machine: &mut UnmapMachine) -> Result<Option<Pair>, Refusal> {
        let armed = life.armed();
        if armed.is_some_and(|(_, notify)| notify.send_event.is_some()) {
            return Ok(None);
        }
        let releases = &self.shared.releases;
        let pair = releases.take_pair().map_err(Refusal::NoNotice)?;
        let pair = pair.ok_or(Refusal::TooMany)?;
        let (place, notify) = armed.unwrap_or_default();
        let notify = UnmapNotify {
            send_event: pair.notify_port(),
            ..notify
        };
        machine.begin(true);
        let offset = life.index + place as u64;
        match self.shared.gntdev.set_unmap_notify(offset, notify) {
            Ok(()) => {
                machine.done(UnmapStep::ArmNotice, true);
                Ok(Some(pair))
            }
            Err(error) => {
                releases.put_back(pair);
                Err(Refusal::NoNotice(error))
            }
        }
    }

    /// The other steps. They are all done, whatever one of them says.
    fn finish(
        &self,
        life: Life,
        machine: UnmapMachine,
        pair: Option<Pair>,
    ) -> (Unmapping, Result<()>) {
        let releases = &self.shared.releases;
        let entry = life.entry;
        let machine = Arc::new(Mutex::new(machine));
        // Before the last step, while which the event may come.
        let (id, kind) = match pair {
            Some(pair) => (releases.expect(pair, &machine, entry), EntryKind::Unmapping),
            None => (releases.untold(), EntryKind::Untold),
        };
        self.shared.ledger.change(entry, kind);
        let result = self.perform(&machine, life);
        if kind == EntryKind::Unmapping && !lock_machine(&machine).is_noticed() {
            releases.give_up(id);
            self.shared.ledger.change(entry, EntryKind::Untold);
        }
        let unmapping = Unmapping {
            id,
            machine,
            releases: Arc::clone(releases),
            grants: Arc::clone(&self.grants),
        };
        (unmapping, result)
    }

    fn perform(&self, machine: &Mutex<UnmapMachine>, life: Life) -> Result<()> {
        let Life { pages, index, .. } = life;
        let mut pages = Some(pages);
        let mut result = Ok(());
        // Held throughout: the release event must find every step reported.
        let mut machine = lock_machine(machine);
        machine.begin(false);
        loop {
            let step = machine.next();
            let outcome = match step {
                UnmapStep::None | UnmapStep::ArmNotice | UnmapStep::AwaitRelease => break,
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

fn followed((unmapping, result): (Unmapping, Result<()>)) -> Result<Unmapping, Box<UnmapRefused>> {
    match result {
        Ok(()) => Ok(unmapping),
        Err(error) => Err(UnmapRefused::Failed { error, unmapping }.into()),
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.life.is_none() {
            return;
        }
        let result = match self.begin() {
            Ok((_, result)) => result,
            Err(refusal) => {
                let Some(life) = self.life.take() else { return };
                match refusal {
                    // It stays mapped, and in the ledger, until a pair comes back.
                    Refusal::TooMany => {
                        let grants = Arc::clone(&self.grants);
                        self.shared.wait_for_a_pair(life, grants);
                        Ok(())
                    }
                    Refusal::NoNotice(error) => {
                        tracing::debug!(%error, "unmap in drop, untold");
                        self.finish(life, UnmapMachine::new(), None).1
                    }
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "unmap in drop");
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
    /// As many unmaps are in progress as may be ([`Mapper::limit_unmapping`]), or the domain has no
    /// more event channels. Nothing was done: try again when one is released. A dropped map is let go
    /// of then by itself.
    ///
    /// [`Mapper::limit_unmapping`]: super::Mapper::limit_unmapping
    #[error(
        "{map:?}: no two event channels are left for the notice of its release; wait for another unmap to be released, or give the domain more (max_event_channels)"
    )]
    TooMany {
        /// The map, untouched.
        map: Map,
    },
    /// The notice of the release cannot be armed. Nothing was done: [`Map::unmap_untold`], and a drop,
    /// let go without a notice.
    #[error("{map:?}: no notice of its release: {error}")]
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
