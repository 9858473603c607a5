//! What becomes of a request, as a state machine without I/O: inputs in, actions out.
//!
//! | mode | a read | a write |
//! |---|---|---|
//! | [`DataMode::Map`] | map, disk, unmap, *released*, answer | map, disk, unmap, *released*, answer |
//! | [`DataMode::Copy`] | disk, copy to the front, answer | copy from the front, disk, answer |
//! | [`DataMode::Persistent`] | map what is not mapped yet, disk, answer | the same |
//!
//! The rules that the tests' checker holds it to:
//!
//! 1. A request is answered once, when its data is safe and its own mapping is *released*: the
//!    front reuses or frees the pages on the answer (XSA-396). Where nobody can tell of the release,
//!    it fails.
//! 2. Requests are independent: one whose unmap is deferred delays nobody else.
//! 3. A mapping is unmapped once, and never while the disk still uses it.
//! 4. No request is taken while [`AgentConfig::max_zombies`] unmaps are outstanding, nor more
//!    than the ring has slots. Unmaps that outlive a connection count against the next one.
//! 5. The front's ids are only echoed: tags are ours (XSA-405).

mod cache;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
mod types;

use cache::{Cache, Found};
use libgnt::proto::blkif::{MAX_SEGMENTS, Operation, Request, Response, Status};
use libgnt::{Access, GrantRef};
use slab::Slab;

pub use cache::Slot;
#[doc(hidden)]
pub use types::Sabotage;
pub use types::{
    Action, AgentConfig, DEFAULT_CACHE, DEFAULT_MAX_ZOMBIES, DataMode, DiskOp, Input, MapKey,
    RING_SIZE, Tag,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No front, or none that may ask.
    Draining,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Mapping,
    CopyIn,
    Disk,
    CopyOut,
    Unmapping,
}

#[derive(Debug)]
struct Job {
    request: Request,
    mode: DataMode,
    stage: Stage,
    ok: bool,
    /// The front that asked is still there to be answered.
    answerable: bool,
    /// Persistent: where each segment is; `None` for a page that could not be mapped.
    slots: [Option<Slot>; MAX_SEGMENTS],
    /// Persistent: maps still to come.
    awaited: usize,
}

/// One device's data path.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    phase: Phase,
    mode: DataMode,
    /// The current front may only read.
    read_only: bool,
    jobs: Slab<Job>,
    cache: Cache,
    /// Taken and not answered yet, this front's only.
    in_flight: usize,
    /// Jobs whose pages we may still touch.
    active: usize,
    /// Unmaps begun and not released, earlier fronts' too.
    zombies: usize,
}

impl Agent {
    /// An agent without a front.
    pub fn new(config: AgentConfig) -> Self {
        // A full ring never finds the cache full of pages in use.
        let capacity = config.cache.max(config.ring_size * MAX_SEGMENTS);
        Agent {
            cache: Cache::new(capacity),
            config,
            phase: Phase::Draining,
            mode: DataMode::Map,
            read_only: false,
            jobs: Slab::new(),
            in_flight: 0,
            active: 0,
            zombies: 0,
        }
    }

    /// Begins to serve a front, whose writes are refused if it may only read. False, and no change,
    /// unless [`Agent::is_drained`].
    #[must_use]
    pub fn open(&mut self, mode: DataMode, read_only: bool) -> bool {
        if !self.is_drained() {
            return false;
        }
        self.forget_front();
        self.mode = mode;
        self.read_only = read_only;
        self.phase = Phase::Open;
        true
    }

    /// May a request be taken off the ring now?
    pub fn can_take(&self) -> bool {
        self.phase == Phase::Open
            && self.in_flight < self.config.ring_size
            && (self.zombies < self.config.max_zombies
                || self.config.sabotage == Sabotage::NoZombieBound)
    }

    /// True while zombies, and nothing else, keep requests on the ring.
    pub fn is_pressed(&self) -> bool {
        self.phase == Phase::Open && self.zombies >= self.config.max_zombies
    }

    /// After [`Input::Drain`] or [`Input::PeerGone`]: none of the front's pages is in use any
    /// more, and every unmap was asked for. Whether it has begun, and is over, the driver knows.
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Draining && self.active == 0 && self.cache.live() == 0
    }

    /// Unmaps that can be outstanding at once: a ring's worth of requests may be taken just before
    /// there are too many; and the ring's own. (Kept pages, when they go, are not counted.)
    pub fn most_unmaps(&self) -> usize {
        let requests = self
            .config
            .max_zombies
            .saturating_add(self.config.ring_size);
        requests.saturating_add(1)
    }

    /// Requests taken from this front and not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Unmaps begun and not released, those of earlier fronts included.
    pub fn zombies(&self) -> usize {
        self.zombies
    }

    /// Pages in the cache of persistent grants.
    pub fn cached(&self) -> usize {
        self.cache.live()
    }

    /// The current front's mode.
    pub fn mode(&self) -> DataMode {
        self.mode
    }

    /// A request in flight.
    pub fn request(&self, tag: Tag) -> Option<&Request> {
        self.jobs.get(tag.index()).map(|job| &job.request)
    }

    /// How a request's data travels: as it was when the request was taken.
    pub fn mode_of(&self, tag: Tag) -> Option<DataMode> {
        self.jobs.get(tag.index()).map(|job| job.mode)
    }

    /// True if the request's data is in place: its disk I/O succeeded.
    pub fn is_ok(&self, tag: Tag) -> bool {
        self.jobs.get(tag.index()).is_some_and(|job| job.ok)
    }

    /// In [`DataMode::Persistent`], the cached page of each segment; `None` in the other modes.
    pub fn slots(&self, tag: Tag) -> impl Iterator<Item = Option<Slot>> + '_ {
        let job = self.jobs.get(tag.index());
        job.into_iter()
            .flat_map(|job| job.slots.iter().copied().take(job.request.segments.len()))
    }

    /// The references of a mapping, in the order of its pages.
    pub fn grants(&self, key: MapKey, into: &mut Vec<GrantRef>) {
        into.clear();
        match key {
            MapKey::Request(tag) => {
                if let Some(request) = self.request(tag) {
                    into.extend(request.segments.iter().map(|s| s.grant()));
                }
            }
            MapKey::Cached(slot) => into.extend(self.cache.grant(slot)),
        }
    }

    /// One step. Actions are appended.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Request(request) => self.take(request, out),
            Input::Mapped(MapKey::Request(tag)) => self.mapped(tag, out),
            Input::MapFailed(MapKey::Request(tag)) => self.finish(tag, false, out),
            Input::Mapped(MapKey::Cached(slot)) => self.cached_mapped(slot, out),
            Input::MapFailed(MapKey::Cached(slot)) => self.cached_failed(slot, out),
            Input::Copied { tag, ok } => self.copied(tag, ok, out),
            Input::DiskDone { tag, ok } => self.disk_done(tag, ok, out),
            Input::Released(MapKey::Request(tag)) => {
                self.zombies -= 1;
                let ok = self.is_ok(tag);
                self.finish(tag, ok, out);
            }
            Input::Untold(MapKey::Request(tag)) => {
                self.zombies -= 1;
                self.finish(tag, false, out);
            }
            Input::Released(MapKey::Cached(slot)) | Input::Untold(MapKey::Cached(slot)) => {
                self.zombies -= 1;
                self.cache.released(slot);
            }
            Input::Drain => self.drain(out),
            Input::PeerGone => {
                self.forget_front();
                self.drain(out);
            }
        }
    }

    fn forget_front(&mut self) {
        for (_, job) in &mut self.jobs {
            job.answerable = false;
        }
        self.in_flight = 0;
    }

    fn drain(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Draining;
        if self.config.sabotage == Sabotage::KeepCache {
            return;
        }
        for slot in self.cache.evict_all_idle() {
            self.unmap(MapKey::Cached(slot), out);
        }
    }

    fn unmap(&mut self, key: MapKey, out: &mut Vec<Action>) {
        self.zombies += 1;
        out.push(Action::Unmap { key });
    }

    /// What a request deserves before any of its pages is touched.
    fn judge(&self, request: &Request) -> Result<(), Status> {
        match request.operation {
            Operation::Other(_) => return Err(Status::NotSupported),
            Operation::Malformed { .. } => return Err(Status::Error),
            Operation::Flush if request.segments.is_empty() => return Ok(()),
            // The codec lets none through. To acknowledge it would lose its data.
            Operation::Flush => return Err(Status::Error),
            Operation::Write if self.read_only => return Err(Status::Error),
            Operation::Read | Operation::Write => {}
        }
        let sectors = (request.data_len() / libgnt::proto::blkif::SECTOR_SIZE) as u64;
        let end = request.sector.checked_add(sectors);
        let inside = end.is_some_and(|end| end <= self.config.sectors);
        if request.segments.is_empty()
            || (!inside && self.config.sabotage != Sabotage::NoRangeCheck)
        {
            return Err(Status::Error);
        }
        Ok(())
    }

    fn take(&mut self, request: Request, out: &mut Vec<Action>) {
        if let Err(status) = self.judge(&request) {
            out.push(Action::Respond(answer(&request, status)));
            return;
        }
        self.in_flight += 1;
        self.active += 1;
        let entry = self.jobs.vacant_entry();
        let tag = Tag::from_index(entry.key());
        let job = entry.insert(Job {
            request,
            mode: self.mode,
            stage: Stage::Disk,
            ok: true,
            answerable: true,
            slots: [None; MAX_SEGMENTS],
            awaited: 0,
        });
        match (request.operation, self.mode) {
            (Operation::Flush, _) => out.push(Action::Disk {
                tag,
                op: DiskOp::Flush,
            }),
            (_, DataMode::Map) => {
                job.stage = Stage::Mapping;
                let key = MapKey::Request(tag);
                out.push(Action::Map {
                    key,
                    access: access_for(&request),
                });
            }
            (Operation::Write, DataMode::Copy) => {
                job.stage = Stage::CopyIn;
                out.push(Action::CopyIn { tag });
            }
            (_, DataMode::Copy) => out.push(Action::Disk {
                tag,
                op: DiskOp::Read,
            }),
            (_, DataMode::Persistent) => {
                job.stage = Stage::Mapping;
                self.find_cached(tag, &request, out);
            }
        }
    }

    fn find_cached(&mut self, tag: Tag, request: &Request, out: &mut Vec<Action>) {
        let mut slots = [None; MAX_SEGMENTS];
        let mut awaited = 0;
        for (place, segment) in slots.iter_mut().zip(request.segments.iter()) {
            let (slot, found) = self.cache.acquire(segment.gref, tag);
            *place = Some(slot);
            if found != Found::Ready {
                awaited += 1;
            }
            if found == Found::New {
                if self.config.sabotage != Sabotage::KeepCache
                    && let Some(old) = self.cache.evict_surplus()
                {
                    self.unmap(MapKey::Cached(old), out);
                }
                // Kept for reads and writes alike, so always writable, as Linux's back end does.
                let key = MapKey::Cached(slot);
                out.push(Action::Map {
                    key,
                    access: Access::ReadWrite,
                });
            }
        }
        if let Some(job) = self.jobs.get_mut(tag.index()) {
            job.slots = slots;
            job.awaited = awaited;
        }
        if awaited == 0 {
            self.start_disk(tag, out);
        }
    }

    fn cached_mapped(&mut self, slot: Slot, out: &mut Vec<Action>) {
        for tag in self.cache.mapped(slot) {
            let Some(job) = self.jobs.get_mut(tag.index()) else {
                continue;
            };
            job.awaited -= 1;
            if job.awaited == 0 {
                self.start_disk(tag, out);
            }
        }
        self.evict_if_draining(slot, out);
    }

    fn cached_failed(&mut self, slot: Slot, out: &mut Vec<Action>) {
        for tag in self.cache.failed(slot) {
            let Some(job) = self.jobs.get_mut(tag.index()) else {
                continue;
            };
            job.ok = false;
            job.awaited -= 1;
            for place in &mut job.slots {
                if *place == Some(slot) {
                    *place = None;
                }
            }
            if job.awaited == 0 {
                self.start_disk(tag, out);
            }
        }
    }

    fn mapped(&mut self, tag: Tag, out: &mut Vec<Action>) {
        self.start_disk(tag, out);
        if self.config.sabotage == Sabotage::UnmapDuringDisk
            && let Some(job) = self.jobs.get_mut(tag.index())
            && job.stage == Stage::Disk
        {
            job.stage = Stage::Unmapping;
            self.active -= 1;
            self.unmap(MapKey::Request(tag), out);
        }
    }

    /// The pages are there. If the front is not, or some page is not, the disk is left alone.
    fn start_disk(&mut self, tag: Tag, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        if !job.ok || !job.answerable {
            self.disk_over(tag, out);
            return;
        }
        job.stage = Stage::Disk;
        let op = if job.request.operation == Operation::Read {
            DiskOp::Read
        } else {
            DiskOp::Write
        };
        out.push(Action::Disk { tag, op });
    }

    fn copied(&mut self, tag: Tag, ok: bool, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        job.ok &= ok;
        if job.stage == Stage::CopyIn {
            self.start_disk(tag, out);
        } else {
            let ok = job.ok;
            self.finish(tag, ok, out);
        }
    }

    fn disk_done(&mut self, tag: Tag, ok: bool, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        job.ok &= ok;
        if job.stage != Stage::Disk {
            return; // Only a sabotaged agent comes here.
        }
        self.disk_over(tag, out);
    }

    fn disk_over(&mut self, tag: Tag, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        let (ok, flush) = (job.ok, job.request.operation == Operation::Flush);
        match job.mode {
            _ if flush => self.finish(tag, ok, out),
            DataMode::Map => {
                job.stage = Stage::Unmapping;
                self.active -= 1;
                if self.config.sabotage == Sabotage::RespondBeforeRelease {
                    let status = if ok { Status::Okay } else { Status::Error };
                    out.push(Action::Respond(answer(&job.request, status)));
                    job.answerable = false;
                    self.in_flight -= 1;
                }
                self.unmap(MapKey::Request(tag), out);
            }
            DataMode::Copy if ok && job.answerable && job.request.operation == Operation::Read => {
                job.stage = Stage::CopyOut;
                out.push(Action::CopyOut { tag });
            }
            DataMode::Copy | DataMode::Persistent => self.finish(tag, ok, out),
        }
    }

    /// Nothing of the request is outstanding: answer, and forget it.
    fn finish(&mut self, tag: Tag, ok: bool, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.try_remove(tag.index()) else {
            return;
        };
        if job.stage != Stage::Unmapping {
            self.active -= 1;
        }
        for slot in job.slots.into_iter().flatten() {
            self.cache.release(slot);
            self.evict_if_draining(slot, out);
        }
        if job.answerable {
            self.in_flight -= 1;
            let status = if ok { Status::Okay } else { Status::Error };
            out.push(Action::Respond(answer(&job.request, status)));
            if self.config.sabotage == Sabotage::RespondTwice {
                out.push(Action::Respond(answer(&job.request, status)));
            }
        }
    }

    fn evict_if_draining(&mut self, slot: Slot, out: &mut Vec<Action>) {
        if self.phase == Phase::Draining
            && self.config.sabotage != Sabotage::KeepCache
            && self.cache.evict(slot)
        {
            self.unmap(MapKey::Cached(slot), out);
        }
    }
}

fn access_for(request: &Request) -> Access {
    // A read from the disk writes to the front's pages.
    if request.operation == Operation::Read {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

fn answer(request: &Request, status: Status) -> Response {
    Response {
        id: request.id,
        operation: request.operation.number(),
        status,
    }
}
