//! Performs what the agent asks for: maps, copies, disk work, unmaps, responses.

use crate::again::{Pace, Suppressed};
use crate::disk::pool::{Cause, Done, Fault, Pool, Work};
use crate::disk::{Backing, Piece, Store};
use crate::machine::{Action, Agent, DataMode, DiskOp, Input, MapKey, Tag};
use crate::observe::{BackEventKind, Hooks, RequestInfo};
use crate::unmaps::{Leaving, Outgoing, Unmaps};
use libgnt::grant::{Map, Mapper};
use libgnt::platform::{CopySegment, CopySide};
use libgnt::proto::blkif::{MAX_SEGMENTS, Request, Response, SECTOR_SIZE, Segment};
use libgnt::types::GrantStatus;
use libgnt::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE, SharedPages};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where responses go.
pub(crate) trait Answers {
    fn push(&mut self, response: &Response);

    /// Pages of a request are about to be lent to others.
    fn lend(&mut self, id: u64);
}

/// For when the front is gone. The agent knows too, so nothing comes here.
pub(crate) struct Nobody;

impl Answers for Nobody {
    fn push(&mut self, response: &Response) {
        debug_assert!(false, "{response:?} to nobody");
    }

    fn lend(&mut self, _: u64) {}
}

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
    pub agent: Agent,
    pub hooks: Hooks,
    front: DomId,
    mapper: Mapper,
    backing: Backing,
    store: Store,
    pool: Option<Pool>,
    /// By the request's tag.
    maps: Vec<Option<Map>>,
    /// By the cache's slot.
    cached: Vec<Option<Map>>,
    /// By the request's tag: where grant copies go.
    bounce: Vec<Option<Arc<SharedPages>>>,
    unmaps: Unmaps,
    postponed: Vec<Postponed>,
    pace: Pace,
    disk_errors: Suppressed,
    peer_errors: Suppressed,
    actions: Vec<Action>,
    grefs: Vec<GrantRef>,
    grants: Vec<ForeignGrant>,
}

impl DataPath {
    pub fn new(
        agent: Agent,
        hooks: Hooks,
        front: DomId,
        mapper: Mapper,
        (backing, store, pool): (Backing, Store, Option<Pool>),
    ) -> Self {
        // What is kept beyond, for persistent grants, goes by turns: other devices of the domain need
        // event channels too.
        mapper.limit_unmapping(agent.most_unmaps());
        DataPath {
            agent,
            hooks,
            front,
            mapper,
            backing,
            store,
            pool,
            maps: Vec::new(),
            cached: Vec::new(),
            bounce: Vec::new(),
            unmaps: Unmaps::default(),
            postponed: Vec::new(),
            pace: Pace::default(),
            disk_errors: Suppressed::default(),
            peer_errors: Suppressed::default(),
            actions: Vec::new(),
            grefs: Vec::new(),
            grants: Vec::new(),
        }
    }

    /// One input, and everything that follows from it at once.
    pub fn feed(&mut self, input: Input, answers: &mut impl Answers) {
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.handle(input, &mut actions);
        let mut next = 0;
        while let Some(&action) = actions.get(next) {
            next += 1;
            if let Some(input) = self.perform(action, answers) {
                self.agent.handle(input, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// Takes in what the disk's threads have done. True if there was something.
    pub fn disk_completions(&mut self, answers: &mut impl Answers) -> bool {
        let Some(pool) = &self.pool else { return false };
        let done: Vec<Done> = pool.drain().collect();
        let any = !done.is_empty();
        for Done { token, result } in done {
            let ok = result.is_ok();
            if let Err(fault) = result {
                self.tell_of(&fault);
            }
            let Some(tag) = Tag::from_token(token) else {
                continue;
            };
            self.feed(Input::DiskDone { tag, ok }, answers);
        }
        any
    }

    fn tell_of(&mut self, fault: &Fault) {
        let error = format!("{}: {fault}", self.backing);
        match fault.cause {
            // The flush that failed was told of.
            Cause::FlushFailed => {}
            // Comes once, and must not be missed.
            Cause::System(_) if fault.op == DiskOp::Flush => tracing::error!("{error}"),
            Cause::System(_) | Cause::Cut => {
                if let Some(missed) = self.disk_errors.may_speak() {
                    tracing::error!(
                        missed,
                        "{error}; the front got an error, the device goes on"
                    );
                }
            }
        }
        self.hooks.tell(BackEventKind::DiskFailed { error });
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
            self.hooks.tell_each(|| BackEventKind::Released {
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
        self.agent.is_drained()
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
        for input in self.unmaps.retry(&mut self.hooks) {
            self.feed(input, answers);
        }
    }

    fn retry_postponed(&mut self, answers: &mut impl Answers) {
        let before = self.postponed.len();
        for Postponed { action, since } in std::mem::take(&mut self.postponed) {
            if let Some(input) = self.attempt(action, Some(since)) {
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

    /// Ends the disk's threads; waits for what they do, but not for ever.
    pub fn finish(mut self, patience: Duration) {
        if let Some(pool) = self.pool.take()
            && !pool.join(patience)
        {
            let backing = &self.backing;
            tracing::warn!("{backing}: what the disk is at is not waited for any longer");
        }
    }

    fn perform(&mut self, action: Action, answers: &mut impl Answers) -> Option<Input> {
        match action {
            Action::Map { .. } | Action::CopyIn { .. } | Action::CopyOut { .. } => {
                self.attempt(action, None)
            }
            Action::Disk { tag, op } => self.disk(tag, op),
            Action::Unmap { key } => self.unmap(key, answers),
            Action::Respond(response) => {
                answers.push(&response);
                self.hooks.tell_each(|| BackEventKind::Responded {
                    id: response.id,
                    status: response.status,
                });
                None
            }
        }
    }

    /// A map or a copy, which may have to be tried again: `since` then says for how long it was.
    fn attempt(&mut self, action: Action, since: Option<Instant>) -> Option<Input> {
        let done = match action {
            Action::Map { key, access } => self.map(key, access),
            Action::CopyIn { tag } => self.copy(tag, Direction::FromFront),
            Action::CopyOut { tag } => self.copy(tag, Direction::ToFront),
            Action::Disk { .. } | Action::Unmap { .. } | Action::Respond(_) => return None,
        };
        let again = matches!(&done, Err(error) if error.errno() == Some(Errno::AGAIN));
        let since = since.unwrap_or_else(Instant::now);
        if again && since.elapsed() < POSTPONED_FOR {
            if self.postponed.is_empty() {
                self.pace.failed(Instant::now());
            }
            self.postponed.push(Postponed { action, since });
            return None;
        }
        let ok = done.is_ok();
        Some(match action {
            Action::Map { key, access } => match done {
                Ok(()) => Input::Mapped(key),
                Err(error) => {
                    self.map_failed(access, error);
                    Input::MapFailed(key)
                }
            },
            Action::CopyIn { tag } | Action::CopyOut { tag } => {
                if let Err(error) = done
                    && let Some(missed) = self.peer_errors.may_speak()
                {
                    tracing::warn!(%error, missed, "a request's pages cannot be copied");
                }
                Input::Copied { tag, ok }
            }
            Action::Disk { .. } | Action::Unmap { .. } | Action::Respond(_) => return None,
        })
    }

    fn map(&mut self, key: MapKey, access: Access) -> libgnt::Result<()> {
        self.agent.grants(key, &mut self.grefs);
        self.grants.clear();
        let domid = self.front;
        self.grants
            .extend(self.grefs.iter().map(|&gref| ForeignGrant { domid, gref }));
        let began = Instant::now();
        let map = self.mapper.try_map(&self.grants, access)?;
        let pages = self.grants.len();
        self.hooks.tell_each(|| BackEventKind::MapDone {
            pages,
            took: began.elapsed(),
        });
        match key {
            MapKey::Request(tag) => put(&mut self.maps, tag.index(), map),
            MapKey::Cached(slot) => put(&mut self.cached, slot.index(), map),
        }
        Ok(())
    }

    /// Of the grants that [`DataPath::map`] tried last.
    fn map_failed(&mut self, access: Access, error: libgnt::Error) {
        let mut error = error;
        if let Some(missed) = self.peer_errors.may_speak() {
            // Which of them is bad takes many calls: not for each request that a front likes to send.
            error = self.mapper.explain(&self.grants, access, error);
            tracing::warn!(%error, missed, "a request's pages cannot be mapped");
        }
        self.hooks.tell(BackEventKind::MapFailed {
            error: error.to_string(),
        });
    }

    fn unmap(&mut self, key: MapKey, answers: &mut impl Answers) -> Option<Input> {
        let map = match key {
            MapKey::Request(tag) => take(&mut self.maps, tag.index()),
            MapKey::Cached(slot) => take(&mut self.cached, slot.index()),
        };
        let Some(map) = map else {
            debug_assert!(false, "{key:?} is not mapped");
            return None;
        };
        let mut id = None;
        if let MapKey::Request(tag) = key
            && let Some(request) = self.agent.request(tag)
        {
            id = Some(request.id);
            if let Some(lender) = &mut self.hooks.lender {
                let info = RequestInfo {
                    id: request.id,
                    operation: request.operation,
                    sector: request.sector,
                    segments: request.segments,
                    ok: self.agent.is_ok(tag),
                };
                answers.lend(info.id);
                lender.lend(&map, &info);
            }
        }
        self.unmaps
            .begin(Outgoing::new(key, id, map), &mut self.hooks)
    }

    /// Performs disk work at once if it is memory; else queues it.
    fn disk(&mut self, tag: Tag, op: DiskOp) -> Option<Input> {
        let request = *self.agent.request(tag)?;
        let failed = Some(Input::DiskDone { tag, ok: false });
        let mode = self.agent.mode_of(tag);
        if mode == Some(DataMode::Copy) && op == DiskOp::Read && self.bounce(tag).is_none() {
            return failed;
        }
        let mut at = match op {
            DiskOp::Read | DiskOp::Write => request.sector * SECTOR_SIZE as u64,
            // It has no place, and its sector is any number that the front likes.
            DiskOp::Flush => 0,
        };
        let Some(pool) = &self.pool else {
            let Store::Memory(memory) = &self.store else {
                return failed;
            };
            let ok = for_each_segment(self, tag, &request, |pages, offset, segment| {
                memory.perform(op, pages, offset, segment.len(), at);
                at += segment.len() as u64;
            });
            return Some(Input::DiskDone { tag, ok });
        };
        let mut pieces = Vec::with_capacity(request.segments.len());
        let found = for_each_segment(self, tag, &request, |pages, offset, segment| {
            let (pages, len) = (Arc::clone(pages), segment.len());
            Piece {
                pages,
                offset,
                len,
                at,
            }
            .append(&mut pieces);
            at += len as u64;
        });
        let token = tag.token();
        if found && pool.submit(Work { token, op, pieces }).is_ok() {
            return None;
        }
        tracing::error!(backing = %self.backing, "the disk's threads take no work");
        failed
    }

    /// Pages of our own for a request: kept, a ring's worth at most, and those of zombies.
    fn bounce(&mut self, tag: Tag) -> Option<&Arc<SharedPages>> {
        if self.bounce.len() <= tag.index() {
            self.bounce.resize_with(tag.index() + 1, || None);
        }
        let place = &mut self.bounce[tag.index()];
        if place.is_none() {
            match SharedPages::anonymous(MAX_SEGMENTS) {
                Ok(pages) => *place = Some(Arc::new(pages)),
                Err(error) => tracing::error!(%error, "no memory to copy a request to"),
            }
        }
        place.as_ref()
    }

    fn copy(&mut self, tag: Tag, direction: Direction) -> libgnt::Result<()> {
        let nothing = |what: &str| Err(libgnt::Error::Invalid(what.into()));
        let Some(request) = self.agent.request(tag).copied() else {
            return nothing("no such request");
        };
        let Some(local) = self.bounce(tag).cloned() else {
            return nothing("no memory to copy to");
        };
        let domid = self.front;
        let mut segments = Vec::with_capacity(request.segments.len());
        for (page, segment) in request.segments.iter().enumerate() {
            let (Ok(offset), Ok(len)) = (
                u16::try_from(segment.offset()),
                u16::try_from(segment.len()),
            ) else {
                return nothing("a segment that is no part of a page");
            };
            let ours = CopySide::Local {
                pages: &local,
                offset: page * PAGE_SIZE + segment.offset(),
            };
            let grant = ForeignGrant {
                domid,
                gref: segment.grant(),
            };
            let theirs = CopySide::Grant { grant, offset };
            let (source, dest) = match direction {
                Direction::FromFront => (theirs, ours),
                Direction::ToFront => (ours, theirs),
            };
            segments.push(CopySegment {
                source,
                dest,
                len,
                status: GrantStatus::GENERAL_ERROR,
            });
        }
        self.mapper.try_copy_all(&mut segments)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromFront,
    ToFront,
}

/// Where each segment's bytes are in this process. False if one is nowhere.
fn for_each_segment(
    data: &DataPath,
    tag: Tag,
    request: &Request,
    mut visit: impl FnMut(&Arc<SharedPages>, usize, &Segment),
) -> bool {
    let own = match data.agent.mode_of(tag) {
        Some(DataMode::Map) => data
            .maps
            .get(tag.index())
            .and_then(Option::as_ref)
            .map(Map::pages),
        Some(DataMode::Copy) => data.bounce.get(tag.index()).and_then(Option::as_ref),
        _ => None,
    };
    let mut slots = data.agent.slots(tag);
    request.segments.iter().enumerate().all(|(page, segment)| {
        if let Some(pages) = own {
            visit(pages, page * PAGE_SIZE + segment.offset(), segment);
            return true;
        }
        let cached = slots
            .next()
            .flatten()
            .and_then(|slot| data.cached.get(slot.index()));
        let Some(Some(map)) = cached else {
            return false;
        };
        visit(map.pages(), segment.offset(), segment);
        true
    })
}

fn put<T>(all: &mut Vec<Option<T>>, index: usize, value: T) {
    if all.len() <= index {
        all.resize_with(index + 1, || None);
    }
    all[index] = Some(value);
}

fn take<T>(all: &mut [Option<T>], index: usize) -> Option<T> {
    all.get_mut(index).and_then(Option::take)
}
