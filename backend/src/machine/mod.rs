//! What becomes of a request, as a state machine without I/O: inputs in, actions out.
//!
//! | mode | a read | a write |
//! |---|---|---|
//! | [`DataMode::Map`] | map, disk, unmap, *released*, answer | map, disk, unmap, *released*, answer |
//! | [`DataMode::Copy`] | disk, copy to the front, answer | copy from the front, disk, answer |
//! | [`DataMode::Persistent`] | map what is not mapped yet, disk, answer | the same |
//!
//! Promises, each with a broken variant in [`BackSabotage`] that a test catches:
//!
//! 1. A request is answered once, when its data is safe and its own mapping is *released*: the
//!    front reuses or frees the pages on the answer (XSA-396). Where nobody can tell of the release,
//!    it fails.
//! 2. Requests are independent: one whose unmap is deferred delays nobody else.
//! 3. A mapping is unmapped once, and never while the disk still uses it.
//! 4. No request is taken while [`Limits::max_zombies`] unmaps are outstanding, nor more
//!    than the ring has slots. Unmaps that outlive a connection count against the next one.
//! 5. The front's ids are only echoed: tags are ours (XSA-405).

mod sabotage;

mod names;

mod types;

mod cache;
mod job;

// One machine, in the files of its parts.
#[cfg(test)]
mod model;
mod persistent;
mod request;
#[cfg(test)]
mod tests;

pub use names::{MapKey, Slot, Tag};
#[doc(hidden)]
pub use sabotage::BackSabotage;
pub use types::{
    Action, DEFAULT_CACHE, DEFAULT_MAX_ZOMBIES, DataMode, Direction, DiskOp, Input, Limits, Pages,
    RING_SIZE, RequestInfo,
};

use cache::Cache;
use job::Job;
use libgnt::machine::{Machine, Now};
use libgnt::proto::blkif::MAX_SEGMENTS;
use slab::Slab;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No front, or none that may ask.
    Draining,
    Open,
}

/// One device's data path.
#[derive(Debug)]
pub struct BackMachine {
    limits: Limits,
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

impl Machine for BackMachine {
    type Input = Input;
    type Action = Action;

    /// None of its rules depends on the time.
    fn step(&mut self, _: Now, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Open { mode, read_only } => self.open(mode, read_only),
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
}

impl BackMachine {
    /// A machine without a front.
    pub fn new(limits: Limits) -> Self {
        // A full ring never finds the cache full of pages in use.
        let capacity = limits.cache.max(limits.ring_size * MAX_SEGMENTS);
        BackMachine {
            cache: Cache::new(capacity),
            limits,
            phase: Phase::Draining,
            mode: DataMode::Map,
            read_only: false,
            jobs: Slab::new(),
            in_flight: 0,
            active: 0,
            zombies: 0,
        }
    }

    /// May a request be taken off the ring now?
    pub fn can_take(&self) -> bool {
        self.phase == Phase::Open
            && self.in_flight < self.limits.ring_size
            && (self.zombies < self.limits.max_zombies
                || self.limits.sabotage == BackSabotage::NoZombieBound)
    }

    /// True while zombies, and nothing else, keep requests on the ring.
    pub fn is_pressed(&self) -> bool {
        self.phase == Phase::Open && self.zombies >= self.limits.max_zombies
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
            .limits
            .max_zombies
            .saturating_add(self.limits.ring_size);
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

    #[cfg(test)]
    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    fn open(&mut self, mode: DataMode, read_only: bool) {
        if !self.is_drained() {
            return;
        }
        self.forget_front();
        self.mode = mode;
        self.read_only = read_only;
        self.phase = Phase::Open;
    }

    fn forget_front(&mut self) {
        for (_, job) in &mut self.jobs {
            job.answerable = false;
        }
        self.in_flight = 0;
    }

    fn drain(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Draining;
        if self.limits.sabotage == BackSabotage::KeepCache {
            return;
        }
        for slot in self.cache.evict_all_idle() {
            self.unmap_cached(slot, out);
        }
    }
}
