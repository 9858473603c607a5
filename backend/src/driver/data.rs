//! Performs what the agent asks for: maps, copies, disk work, unmaps, responses.

use crate::agent::{Action, Agent, DataMode, DiskOp, Input, MapKey, Tag};
use crate::disk::pool::{Cause, Done, Fault, Pool, Work};
use crate::disk::{Backing, Piece, Store};
use crate::hooks::{EventKind, Hooks, RequestInfo};
use libgnt::grant::{Map, Mapper, UnmapId, UnmapRefused};
use libgnt::platform::{CopySegment, CopySide};
use libgnt::proto::blkif::{MAX_SEGMENTS, Request, Response, SECTOR_SIZE, Segment};
use libgnt::types::GrantStatus;
use libgnt::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE, SharedPages};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where responses go.
pub(super) trait Answers {
    fn push(&mut self, response: &Response);
}

/// For when the front is gone. The agent knows too, so nothing comes here.
pub(super) struct Nobody;

impl Answers for Nobody {
    fn push(&mut self, response: &Response) {
        debug_assert!(false, "{response:?} to nobody");
    }
}

/// An unmap that has begun.
#[derive(Debug)]
struct Leaving {
    key: MapKey,
    request: Option<u64>,
    began: Instant,
}

/// The data path of one device.
#[derive(Debug)]
pub(super) struct DataPath {
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
    leaving: HashMap<UnmapId, Leaving>,
    /// Maps whose unmap was refused and did not begin: tried again ([`DataPath::retry_unmaps`]).
    refused: Vec<(MapKey, Option<u64>, Map)>,
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
            leaving: HashMap::new(),
            refused: Vec::new(),
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
        self.hooks.tell(EventKind::DiskFailed { error });
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
            }) = self.leaving.remove(unmap)
            else {
                continue;
            };
            self.hooks.tell_each(|| EventKind::Released {
                unmap: *unmap,
                request,
                after: began.elapsed(),
            });
            self.feed(Input::Released(key), answers);
        }
        !released.is_empty()
    }

    /// Unmaps outstanding, of which the mapper will tell.
    pub fn awaits_release(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Maps that could not be unmapped yet.
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Tries again what was refused.
    pub fn retry_unmaps(&mut self) {
        for (key, request, map) in std::mem::take(&mut self.refused) {
            self.begin_unmap(key, request, map);
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
            Action::Map { key, access } => Some(self.map(key, access)),
            Action::CopyIn { tag } => Some(Input::Copied {
                tag,
                ok: self.copy(tag, Direction::FromFront),
            }),
            Action::CopyOut { tag } => Some(Input::Copied {
                tag,
                ok: self.copy(tag, Direction::ToFront),
            }),
            Action::Disk { tag, op } => self.disk(tag, op),
            Action::Unmap { key } => {
                self.unmap(key);
                None
            }
            Action::Respond(response) => {
                answers.push(&response);
                self.hooks.tell_each(|| EventKind::Responded {
                    id: response.id,
                    status: response.status,
                });
                None
            }
        }
    }

    fn map(&mut self, key: MapKey, access: Access) -> Input {
        self.agent.grants(key, &mut self.grefs);
        self.grants.clear();
        let domid = self.front;
        self.grants
            .extend(self.grefs.iter().map(|&gref| ForeignGrant { domid, gref }));
        let began = Instant::now();
        match self.mapper.map(&self.grants, access) {
            Ok(map) => {
                let pages = self.grants.len();
                self.hooks.tell_each(|| EventKind::MapDone {
                    pages,
                    took: began.elapsed(),
                });
                match key {
                    MapKey::Request(tag) => put(&mut self.maps, tag.index(), map),
                    MapKey::Cached(slot) => put(&mut self.cached, slot.index(), map),
                }
                Input::Mapped(key)
            }
            Err(error) => {
                if let Some(missed) = self.peer_errors.may_speak() {
                    tracing::warn!(%error, missed, "a request's pages cannot be mapped");
                }
                self.hooks.tell(EventKind::MapFailed {
                    error: error.to_string(),
                });
                Input::MapFailed(key)
            }
        }
    }

    fn unmap(&mut self, key: MapKey) {
        let map = match key {
            MapKey::Request(tag) => take(&mut self.maps, tag.index()),
            MapKey::Cached(slot) => take(&mut self.cached, slot.index()),
        };
        let Some(map) = map else {
            debug_assert!(false, "{key:?} is not mapped");
            return;
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
                lender.lend(&map, &info);
            }
        }
        self.begin_unmap(key, id, map);
    }

    fn begin_unmap(&mut self, key: MapKey, request: Option<u64>, map: Map) {
        let pages = map.grants().len();
        let began = Instant::now();
        let unmapping = match map.unmap().map_err(|refused| *refused) {
            Ok(unmapping) => unmapping,
            Err(UnmapRefused::Failed { error, unmapping }) => {
                let error = error.to_string();
                tracing::error!(%error, "an unmap reported an error and goes on");
                self.hooks.tell(EventKind::UnmapFailed {
                    error,
                    retried: false,
                });
                unmapping
            }
            Err(refused) => {
                tracing::warn!(error = %refused, "unmap refused; it will be tried again");
                let error = refused.to_string();
                self.hooks.tell(EventKind::UnmapFailed {
                    error,
                    retried: true,
                });
                let (UnmapRefused::InUse { map, .. }
                | UnmapRefused::TooMany { map }
                | UnmapRefused::NoNotice { map, .. }) = refused
                else {
                    return;
                };
                self.refused.push((key, request, map));
                return;
            }
        };
        let took = began.elapsed();
        let unmap = unmapping.id();
        self.hooks.tell_each(|| EventKind::UnmapBegun {
            unmap,
            request,
            pages,
            took,
        });
        self.leaving.insert(
            unmap,
            Leaving {
                key,
                request,
                began,
            },
        );
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

    fn copy(&mut self, tag: Tag, direction: Direction) -> bool {
        let Some(request) = self.agent.request(tag).copied() else {
            return false;
        };
        let Some(local) = self.bounce(tag).cloned() else {
            return false;
        };
        let domid = self.front;
        let mut segments = Vec::with_capacity(request.segments.len());
        for (page, segment) in request.segments.iter().enumerate() {
            let (Ok(offset), Ok(len)) = (
                u16::try_from(segment.offset()),
                u16::try_from(segment.len()),
            ) else {
                return false;
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
        match self.mapper.copy_all(&mut segments) {
            Ok(()) => true,
            Err(error) => {
                if let Some(missed) = self.peer_errors.may_speak() {
                    tracing::warn!(%error, missed, "a request's pages cannot be copied");
                }
                false
            }
        }
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

/// One line a second, however much goes wrong.
#[derive(Debug, Default)]
struct Suppressed {
    last: Option<Instant>,
    missed: usize,
}

impl Suppressed {
    /// Some: speak now, and this many were not told of.
    fn may_speak(&mut self) -> Option<usize> {
        const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
        if self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            self.missed += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.missed))
    }
}
