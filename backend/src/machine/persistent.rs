//! Pages that stay mapped between requests: found, mapped, given up.

use super::cache::Found;
use super::{Action, BackMachine, BackSabotage, MapKey, Phase, Slot, Tag};
use libgnt::Access;
use libgnt::proto::blkif::{MAX_SEGMENTS, Request};

impl BackMachine {
    pub(super) fn find_cached(&mut self, tag: Tag, request: &Request, out: &mut Vec<Action>) {
        let mut slots = [None; MAX_SEGMENTS];
        let mut awaited = 0;
        for (place, segment) in slots.iter_mut().zip(request.segments.iter()) {
            let (slot, found) = self.cache.acquire(segment.gref, tag);
            *place = Some(slot);
            if found != Found::Ready {
                awaited += 1;
            }
            if found == Found::New {
                if self.limits.sabotage != BackSabotage::KeepCache
                    && let Some(old) = self.cache.evict_surplus()
                {
                    self.unmap_cached(old, out);
                }
                // Kept for reads and writes alike, so always writable, as Linux's back end does.
                out.push(Action::Map {
                    key: MapKey::Cached(slot),
                    access: Access::ReadWrite,
                    segments: [*segment].into_iter().collect(),
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

    pub(super) fn cached_mapped(&mut self, slot: Slot, out: &mut Vec<Action>) {
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

    pub(super) fn cached_failed(&mut self, slot: Slot, out: &mut Vec<Action>) {
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

    pub(super) fn unmap_cached(&mut self, slot: Slot, out: &mut Vec<Action>) {
        self.zombies += 1;
        out.push(Action::Unmap {
            key: MapKey::Cached(slot),
            request: None,
        });
    }

    pub(super) fn evict_if_draining(&mut self, slot: Slot, out: &mut Vec<Action>) {
        if self.phase == Phase::Draining
            && self.limits.sabotage != BackSabotage::KeepCache
            && self.cache.evict(slot)
        {
            self.unmap_cached(slot, out);
        }
    }
}
