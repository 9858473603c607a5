//! Performs what the machine asks for: maps, copies, disk work, unmaps, responses. All of an action's
//! matter is in the action.

mod pages;

mod disk;
mod grants;

use crate::again::{Pace, Suppressed};
use crate::disk::pool::Pool;
use crate::disk::{Backing, Store};
use crate::lend::PageLender;
use crate::link::{Answers, Nobody};
use crate::machine::{Action, BackMachine, Input};
use crate::observe::{BackEventKind, Tell};
use crate::unmaps::{Leaving, Unmaps};
use libgnt::grant::Mapper;
use libgnt::machine::{Machine, Now};
use libgnt::{DomId, ForeignGrant};
use pages::LocalPages;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// None of the machine's rules depends on the time, so nobody asks a clock for each of its steps.
const NO_TIME: Now = Now::ZERO;

/// A map or a copy that the device asked to try again: a page of the front's is paged out, or an
/// earlier unmap of the same range is not over (Linux 5.19 to 6.0.3).
#[derive(Debug)]
struct Postponed {
    action: Action,
    since: Instant,
}

/// How long it is tried again. Nothing announces that it would work now.
const POSTPONED_FOR: Duration = Duration::from_secs(2);

/// The data path of one device.
#[derive(Debug)]
pub(crate) struct DataPath {
    pub machine: BackMachine,
    pub tell: Tell,
    lender: Option<Box<dyn PageLender>>,
    front: DomId,
    mapper: Mapper,
    backing: Backing,
    store: Store,
    pool: Option<Pool>,
    pages: LocalPages,
    unmaps: Unmaps,
    postponed: Vec<Postponed>,
    pace: Pace,
    disk_errors: Suppressed,
    peer_errors: Suppressed,
    actions: Vec<Action>,
    grants: Vec<ForeignGrant>,
}

impl DataPath {
    pub fn new(
        machine: BackMachine,
        (tell, lender): (Tell, Option<Box<dyn PageLender>>),
        front: DomId,
        mapper: Mapper,
        (backing, store, pool): (Backing, Store, Option<Pool>),
    ) -> Self {
        // What is kept beyond, for persistent grants, goes by turns: other devices of the domain need
        // event channels too.
        mapper.limit_unmapping(machine.most_unmaps());
        DataPath {
            machine,
            tell,
            lender,
            front,
            mapper,
            backing,
            store,
            pool,
            pages: LocalPages::default(),
            unmaps: Unmaps::default(),
            postponed: Vec::new(),
            pace: Pace::default(),
            disk_errors: Suppressed::default(),
            peer_errors: Suppressed::default(),
            actions: Vec::new(),
            grants: Vec::new(),
        }
    }

    /// One input, and everything that follows from it at once.
    pub fn feed(&mut self, input: Input, answers: &mut impl Answers) {
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.step(NO_TIME, input, &mut actions);
        let mut next = 0;
        while let Some(action) = actions.get(next) {
            next += 1;
            if let Some(input) = self.perform(action, None, answers) {
                self.machine.step(NO_TIME, input, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// Takes in which unmaps are over. True if there was one.
    pub fn releases(&mut self, answers: &mut impl Answers) -> bool {
        let released = match self.mapper.process_releases() {
            Ok(released) => released,
            Err(error) => {
                tracing::error!(%error, "cannot learn of released mappings");
                return false;
            }
        };
        for unmap in &released {
            let Some(Leaving {
                key,
                request,
                began,
            }) = self.unmaps.released(*unmap)
            else {
                continue;
            };
            self.tell.tell_each(|| BackEventKind::Released {
                unmap: *unmap,
                request,
                after: began.elapsed(),
            });
            self.feed(Input::Released(key), answers);
        }
        if !released.is_empty() {
            // Their event channels are free again.
            self.retry_unmaps(answers);
        }
        !released.is_empty()
    }

    /// Unmaps outstanding, of which the mapper will tell.
    pub fn awaits_release(&self) -> bool {
        self.unmaps.awaits_release()
    }

    /// What is on the disk is there for the next process, too.
    pub fn outlives_us(&self) -> bool {
        matches!(self.store, Store::File(_))
    }

    /// The front has gone, and nothing of it is in use: what is still mapped waits for its unmap to
    /// begin, or for others who hold the pages ([`DataPath::still_mapped`]).
    pub fn is_drained(&self) -> bool {
        self.machine.is_drained()
    }

    /// Pages of fronts, rings included, that the hypervisor has not unmapped, as far as it tells:
    /// in use, or with an unmap that could not begin yet, or held by somebody.
    pub fn still_mapped(&mut self) -> usize {
        // Most unmaps are over at once, and their events are there already: the ring's too.
        self.releases(&mut Nobody);
        let counts = self.mapper.ledger().counts();
        counts.mapped_pages + counts.unmapping_pages
    }

    /// True while something is to be tried again ([`DataPath::retry`]).
    pub fn has_to_retry(&self) -> bool {
        self.unmaps.is_waiting() || !self.postponed.is_empty()
    }

    fn until_retry(&self, now: Instant) -> Option<Duration> {
        let maps = (!self.postponed.is_empty()).then(|| self.pace.left(now));
        [self.unmaps.left(now), maps].into_iter().flatten().min()
    }

    /// Tries again what is due. Returns how long until something is due, if anything is left.
    pub fn retry(&mut self, answers: &mut impl Answers) -> Option<Duration> {
        let now = Instant::now();
        // A release begins those that wait; no release, and they are tried all the same.
        if self.unmaps.left(now).is_some_and(|left| left.is_zero()) && !self.releases(answers) {
            self.retry_unmaps(answers);
        }
        if !self.postponed.is_empty() && self.pace.left(now).is_zero() {
            self.retry_postponed(answers);
        }
        self.until_retry(Instant::now())
    }

    fn retry_unmaps(&mut self, answers: &mut impl Answers) {
        for input in self.unmaps.retry(&mut self.tell) {
            self.feed(input, answers);
        }
    }

    fn retry_postponed(&mut self, answers: &mut impl Answers) {
        let before = self.postponed.len();
        for Postponed { action, since } in std::mem::take(&mut self.postponed) {
            if let Some(input) = self.perform(&action, Some(since), answers) {
                self.feed(input, answers);
            }
        }
        if self.postponed.len() < before {
            self.pace.worked();
        }
        if !self.postponed.is_empty() {
            self.pace.failed(Instant::now());
        }
    }

    /// Performs an action; the answer, if it is known at once. `since`: it has been tried again for
    /// so long.
    fn perform(
        &mut self,
        action: &Action,
        since: Option<Instant>,
        answers: &mut impl Answers,
    ) -> Option<Input> {
        match *action {
            Action::Map {
                key,
                access,
                ref segments,
            } => match self.map(key, access, segments) {
                Ok(()) => Some(Input::Mapped(key)),
                Err(error) if self.postpone(&error, action, since) => None,
                Err(error) => {
                    self.map_failed(access, error);
                    Some(Input::MapFailed(key))
                }
            },
            Action::Copy {
                tag,
                direction,
                ref segments,
            } => match self.copy(tag, direction, segments) {
                Ok(()) => Some(Input::Copied { tag, ok: true }),
                Err(error) if self.postpone(&error, action, since) => None,
                Err(error) => {
                    self.copy_failed(&error);
                    Some(Input::Copied { tag, ok: false })
                }
            },
            Action::Disk {
                tag,
                op,
                sector,
                ref segments,
                ref pages,
            } => self.disk(tag, op, sector, segments, pages),
            Action::Unmap { key, ref request } => self.unmap(key, request.as_ref(), answers),
            Action::Respond(ref response) => {
                answers.push(response);
                self.tell.tell_each(|| BackEventKind::Responded {
                    id: response.id,
                    status: response.status,
                });
                None
            }
        }
    }

    /// True if the device asked to try again, and there is time for it.
    fn postpone(&mut self, error: &libgnt::Error, action: &Action, since: Option<Instant>) -> bool {
        if error.errno() != Some(Errno::AGAIN) {
            return false;
        }
        let since = since.unwrap_or_else(Instant::now);
        if since.elapsed() >= POSTPONED_FOR {
            return false;
        }
        if self.postponed.is_empty() {
            self.pace.failed(Instant::now());
        }
        self.postponed.push(Postponed {
            action: *action,
            since,
        });
        true
    }
}
