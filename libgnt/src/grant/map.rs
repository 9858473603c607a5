//! Grants of other domains, mapped here, and letting them go without waiting.

use super::ledger::{EntryId, EntryKind};
use super::mapper::Shared;
use super::pairs::Pair;
use super::refusal::{Refusal, UnmapError};
use super::unmap::{Action, Input, UnmapMachine};
use super::unmapping::{Grants, NO_TIME, Unmapping, lock_machine};
use crate::error::Result;
use crate::machine::Machine;
use crate::shm::SharedPages;
use crate::types::{EvtchnPort, ForeignGrant, PAGE_SIZE, UnmapNotify};
use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The mapping itself: what exists as long as it does.
#[derive(Debug)]
pub(super) struct Mapping {
    pages: Arc<SharedPages>,
    index: u64,
    pub entry: EntryId,
    /// What the owner armed, and the byte's place.
    notify: Mutex<Option<(usize, UnmapNotify)>>,
}

impl Mapping {
    pub fn new(pages: SharedPages, index: u64, entry: EntryId) -> Self {
        Mapping {
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
    mapping: Option<Mapping>,
    grants: Arc<[ForeignGrant]>,
    shared: Arc<Shared>,
}

impl Map {
    pub(super) fn new(mapping: Mapping, grants: Arc<[ForeignGrant]>, shared: Arc<Shared>) -> Map {
        Map {
            mapping: Some(mapping),
            grants,
            shared,
        }
    }

    fn mapping(&self) -> &Mapping {
        // Only the beginning of the unmap takes it, and that consumes the map.
        self.mapping
            .as_ref()
            .expect("a map that was not unmapped has its pages")
    }

    /// The pages. A clone of the `Arc` keeps them mapped: [`Map::unmap`] refuses meanwhile.
    pub fn pages(&self) -> &Arc<SharedPages> {
        &self.mapping().pages
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
        let mapping = self.mapping();
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
            .set_unmap_notify(mapping.index + place as u64, notify)?;
        let mut armed = mapping
            .notify
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *armed = Some((place, notify));
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
        match map.begin() {
            Ok(begun) => begun.followed(),
            Err(reason) => Err(UnmapError::Refused { reason, map }.into()),
        }
    }

    /// The same without the news of its end, for a map whose notice cannot be armed. The
    /// [`Unmapping`] never gets beyond [`UnmapState::Unmapping`](super::UnmapState), and the ledger
    /// lists the pages as [`EntryKind::Untold`]: they may be mapped still, and their owner must not be
    /// told otherwise.
    ///
    /// # Errors
    /// [`UnmapError::Refused`] with [`Refusal::InUse`]; [`UnmapError::Failed`].
    pub fn unmap_untold(self) -> Result<Unmapping, Box<UnmapError>> {
        let mut map = self.unless_in_use()?;
        let mapping = map.mapping.take();
        // It was there a line ago.
        let mapping = mapping.expect("a map that was not unmapped has its pages");
        map.finish_untold(mapping).followed()
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

    /// The actions of [`UnmapMachine`]. `Err`: nothing was done.
    fn begin(&mut self) -> Result<Begun, Refusal> {
        let Some(mapping) = self.mapping.take() else {
            return Err(Refusal::TooMany);
        };
        let mut machine = UnmapMachine::new();
        with_actions(|actions| match self.arm(&mapping, &mut machine, actions) {
            Ok(pair) => Ok(self.finish(mapping, machine, pair, actions)),
            Err(refusal) => {
                self.mapping = Some(mapping);
                Err(refusal)
            }
        })
    }

    /// The first action, while nothing is done and all can be left as it is. `None`: somebody else
    /// is told.
    fn arm(
        &self,
        mapping: &Mapping,
        machine: &mut UnmapMachine,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Pair>, Refusal> {
        let armed = mapping.armed();
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
        machine.step(NO_TIME, Input::Begin { notice: true }, actions);
        let first = actions.pop();
        debug_assert_eq!(first, Some(Action::ArmNotice));
        let offset = mapping.index + place as u64;
        match self.shared.gntdev.set_unmap_notify(offset, notify) {
            Ok(()) => {
                let armed = Input::Done {
                    action: Action::ArmNotice,
                    ok: true,
                };
                machine.step(NO_TIME, armed, actions);
                Ok(Some(pair))
            }
            Err(error) => {
                releases.put_back(pair);
                Err(Refusal::NoNotice(error))
            }
        }
    }

    fn finish_untold(&self, mapping: Mapping) -> Begun {
        with_actions(|actions| self.finish(mapping, UnmapMachine::new(), None, actions))
    }

    /// The other actions. They are all performed, whatever one of them says.
    fn finish(
        &self,
        mapping: Mapping,
        machine: UnmapMachine,
        pair: Option<Pair>,
        actions: &mut Vec<Action>,
    ) -> Begun {
        let releases = &self.shared.releases;
        let entry = mapping.entry;
        let machine = Arc::new(Mutex::new(machine));
        // Before the last action, while which the event may come.
        let (id, kind) = match pair {
            Some(pair) => (releases.expect(pair, &machine, entry), EntryKind::Unmapping),
            None => (releases.untold(), EntryKind::Untold),
        };
        self.shared.ledger.change(entry, kind);
        let (result, forgotten) = self.perform(&machine, mapping, actions);
        if forgotten {
            releases.give_up(id);
            self.shared.ledger.change(entry, EntryKind::Untold);
        }
        let unmapping = Unmapping {
            id,
            machine,
            releases: Arc::clone(releases),
            grants: Arc::clone(&self.grants),
        };
        Begun { unmapping, result }
    }

    /// Returns how it went, and whether the notice has to be forgotten: the caller does that, when
    /// the machine is not locked any more.
    fn perform(
        &self,
        machine: &Mutex<UnmapMachine>,
        mapping: Mapping,
        actions: &mut Vec<Action>,
    ) -> (Result<()>, bool) {
        let Mapping { pages, index, .. } = mapping;
        let mut pages = Some(pages);
        let (mut result, mut forgotten) = (Ok(()), false);
        // Held throughout: the release event must find every action reported.
        let mut machine = lock_machine(machine);
        machine.step(NO_TIME, Input::Begin { notice: false }, actions);
        while let Some(action) = actions.pop() {
            let outcome = match action {
                // The last owner of the pages unmaps them; in a drop, that may come later.
                Action::Munmap => match pages.take().map(Arc::try_unwrap) {
                    Some(Ok(pages)) => pages.unmap(),
                    Some(Err(_)) | None => Ok(()),
                },
                Action::GiveBack => self.shared.gntdev.unmap_grant_ref(index, self.grants.len()),
                Action::ForgetNotice => {
                    forgotten = true;
                    continue;
                }
                // The one was performed before, the other follows from an event only.
                Action::ArmNotice | Action::Released => continue,
            };
            let ok = outcome.is_ok();
            machine.step(NO_TIME, Input::Done { action, ok }, actions);
            result = result.and(outcome);
        }
        (result, forgotten)
    }
}

/// An unmap whose actions were all performed, and how they went.
struct Begun {
    unmapping: Unmapping,
    result: Result<()>,
}

impl Begun {
    fn followed(self) -> Result<Unmapping, Box<UnmapError>> {
        let Begun { unmapping, result } = self;
        match result {
            Ok(()) => Ok(unmapping),
            Err(error) => Err(UnmapError::Failed { error, unmapping }.into()),
        }
    }
}

thread_local! {
    /// Kept, so that an unmap allocates nothing for its actions.
    static ACTIONS: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
}

fn with_actions<T>(f: impl FnOnce(&mut Vec<Action>) -> T) -> T {
    // Maps may be dropped when a thread's own variables are gone already.
    let mut actions = ACTIONS.try_with(Cell::take).unwrap_or_default();
    let result = f(&mut actions);
    actions.clear();
    let _ = ACTIONS.try_with(|kept| kept.set(actions));
    result
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.mapping.is_none() {
            return;
        }
        let result = match self.begin() {
            Ok(begun) => begun.result,
            Err(refusal) => {
                let Some(mapping) = self.mapping.take() else {
                    return;
                };
                match refusal {
                    // It stays mapped, and in the ledger, until a pair comes back.
                    Refusal::TooMany => {
                        let grants = Arc::clone(&self.grants);
                        self.shared.wait_for_a_pair(mapping, grants);
                        Ok(())
                    }
                    refusal => {
                        tracing::debug!(%refusal, "unmap in drop, untold");
                        self.finish_untold(mapping).result
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
