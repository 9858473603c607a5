//! The actions of [`UnmapMachine`], performed on a mapping; and why an unmap may not begin.

use super::ledger::EntryKind;
use super::mapping::Mapping;
use super::pairs::Pair;
use super::releases::{NO_TIME, lock_machine};
use super::shared::Shared;
use super::unmap::{Action, Input, UnmapMachine};
use super::unmapping::Unmapping;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::types::UnmapNotify;
use std::sync::{Arc, Mutex};

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
    ///
    /// [`Map::unmap_untold`]: super::Map::unmap_untold
    #[error("no notice of its release: {0}")]
    NoNotice(Error),
}

/// An unmap whose actions were all performed, and how they went.
pub(super) struct Begun {
    pub unmapping: Unmapping,
    pub result: Result<()>,
}

/// Takes the mapping away, all the way or not at all. `Err`: nothing was done, and here is the mapping.
pub(super) fn begin(mapping: Mapping, shared: &Shared) -> Result<Begun, Box<(Refusal, Mapping)>> {
    let (mut machine, mut actions) = (UnmapMachine::new(), Vec::new());
    match arm(&mapping, shared, &mut machine, &mut actions) {
        Ok(pair) => Ok(finish(mapping, shared, machine, pair, actions)),
        Err(refusal) => Err((refusal, mapping).into()),
    }
}

/// The same without a notice of the end, so it always begins.
pub(super) fn begin_untold(mapping: Mapping, shared: &Shared) -> Begun {
    finish(mapping, shared, UnmapMachine::new(), None, Vec::new())
}

/// The first action, while nothing is done and all can be left as it is. `None`: somebody else
/// is told.
fn arm(
    mapping: &Mapping,
    shared: &Shared,
    machine: &mut UnmapMachine,
    actions: &mut Vec<Action>,
) -> Result<Option<Pair>, Refusal> {
    let armed = mapping.armed();
    if armed.is_some_and(|(_, notify)| notify.send_event.is_some()) {
        return Ok(None);
    }
    let releases = &shared.releases;
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
    match shared.gntdev.set_unmap_notify(offset, notify) {
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

/// The other actions. They are all performed, whatever one of them says.
fn finish(
    mapping: Mapping,
    shared: &Shared,
    machine: UnmapMachine,
    pair: Option<Pair>,
    actions: Vec<Action>,
) -> Begun {
    let releases = &shared.releases;
    let (entry, grants) = (mapping.entry, Arc::clone(&mapping.grants));
    let machine = Arc::new(Mutex::new(machine));
    // Before the last action, while which the event may come.
    let (id, kind) = match pair {
        Some(pair) => (releases.expect(pair, &machine, entry), EntryKind::Unmapping),
        None => (releases.untold(), EntryKind::Untold),
    };
    shared.ledger.change(entry, kind);
    let (result, forgotten) = perform(mapping, shared, &machine, actions);
    if forgotten {
        releases.give_up(id);
        shared.ledger.change(entry, EntryKind::Untold);
    }
    let unmapping = Unmapping {
        id,
        machine,
        releases: Arc::clone(releases),
        grants,
    };
    Begun { unmapping, result }
}

/// Returns how it went, and whether the notice has to be forgotten: the caller does that, when
/// the machine is not locked any more.
fn perform(
    mapping: Mapping,
    shared: &Shared,
    machine: &Mutex<UnmapMachine>,
    mut actions: Vec<Action>,
) -> (Result<()>, bool) {
    let Mapping {
        pages,
        index,
        grants,
        ..
    } = mapping;
    let mut pages = Some(pages);
    let (mut result, mut forgotten) = (Ok(()), false);
    // Held throughout: the release event must find every action reported.
    let mut machine = lock_machine(machine);
    machine.step(NO_TIME, Input::Begin { notice: false }, &mut actions);
    while let Some(action) = actions.pop() {
        let outcome = match action {
            // The last owner of the pages unmaps them; in a drop, that may come later.
            Action::Munmap => match pages.take().map(Arc::try_unwrap) {
                Some(Ok(pages)) => pages.unmap(),
                Some(Err(_)) | None => Ok(()),
            },
            Action::GiveBack => shared.gntdev.unmap_grant_ref(index, grants.len()),
            Action::ForgetNotice => {
                forgotten = true;
                continue;
            }
            // The one was performed before, the other follows from an event only.
            Action::ArmNotice | Action::Released => continue,
        };
        let ok = outcome.is_ok();
        machine.step(NO_TIME, Input::Done { action, ok }, &mut actions);
        result = result.and(outcome);
    }
    (result, forgotten)
}
