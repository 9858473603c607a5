//! The asynchronous unmap of gntdev and the grant table (`unmap_grant_pages` in
//! `drivers/xen/gntdev.c` and `gnttab_unmap_refs_async` in `drivers/xen/grant-table.c`, Linux 5.19
//! to 6.12), and the synchronous one before it.
//!
//! An unmap of a run of pages waits until none of them has a reference besides the map's own:
//! with the retry timer, which the kernel's caller does not see, or (`Sync`) with the caller
//! blocked.

use super::gntdev::MapId;
use super::grants::HandleId;
use super::waits::WaitId;
use super::{KernelSabotage, Now, Xen};
use crate::sim::wire::UnmapMode;
use crate::types::{Access, DomId, PAGE_SIZE};
use std::time::Duration;

/// `GNTTAB_UNMAP_REFS_DELAY`
const RETRY_STEP: Duration = Duration::from_millis(5);

/// Names one unmap in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkId(pub u64);

/// The unmap of one run of a map's pages (`struct gntab_unmap_queue_data`).
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub domid: DomId,
    pub process: String,
    pub map: MapId,
    pub first_page: u32,
    /// One for each page of the run; `None` where mmap had failed.
    pub handles: Vec<Option<HandleId>>,
    /// Retries so far.
    pub age: u32,
    pub began: Now,
    /// Who is blocked until it is done, and otherwise when to retry.
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Wake(WaitId),
    RetryAt(Now),
}

impl Work {
    /// One past its last page.
    pub(super) fn end(&self) -> u32 {
        self.first_page + self.handles.len() as u32
    }
}

impl Xen {
    /// Drops one use of a map; the last one unmaps, unless the notifier did that before, and when
    /// it is done, sends the event (`gntdev_put_map`).
    pub(super) fn put_map(&mut self, id: MapId, blocked: Option<WaitId>) {
        if self.drop_map_user(id) {
            return;
        }
        let Some(map) = self.maps.get(&id) else {
            return;
        };
        let (domid, pages) = (map.domid, map.pages.len() as u32);
        if !self.has_notifier(domid) {
            // One use for the unmap to come back to, so that it does not end in here again.
            if let Some(map) = self.maps.get_mut(&id) {
                map.users = 1;
            }
            self.unmap_pages(id, 0, pages, blocked);
            if self.drop_map_user(id) {
                return;
            }
        }
        let Some(map) = self.maps.remove(&id) else {
            return;
        };
        self.reserved -= map.pages.len();
        if let Some(port) = map.notify.event {
            self.notify_remote(map.domid, port);
            self.put_port(map.domid, port);
        }
    }

    /// True if somebody still uses the map.
    fn drop_map_user(&mut self, id: MapId) -> bool {
        let Some(map) = self.maps.get_mut(&id) else {
            return true;
        };
        map.users = map.users.saturating_sub(1);
        map.users > 0
    }

    /// Unmaps those of the pages that are not being removed already: at once where nobody holds
    /// a page of the run. The others wait: for `blocked`, or for the timer.
    pub(super) fn unmap_pages(&mut self, id: MapId, first: u32, end: u32, blocked: Option<WaitId>) {
        let forgetful = self.sabotaged(KernelSabotage::DoubleUnmap);
        let Some(map) = self.maps.get_mut(&id) else {
            return;
        };
        if map.live == 0 {
            return;
        }
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for page in first..end {
            let entry = &mut map.pages[page as usize];
            if entry.being_removed && !forgetful {
                continue;
            }
            entry.being_removed = true;
            match runs.last_mut() {
                Some((_, run_end)) if *run_end == page => *run_end += 1,
                _ => runs.push((page, page + 1)),
            }
        }
        for (first, end) in runs {
            self.unmap_run(id, first, end, blocked);
        }
    }

    fn unmap_run(&mut self, id: MapId, first: u32, end: u32, blocked: Option<WaitId>) {
        self.clear_notify_byte(id, first, end);
        let counted = !self.sabotaged(KernelSabotage::NoMapReferenceAcrossAsync);
        let early = self.sabotaged(KernelSabotage::EventBeforeUnmap);
        let Some(map) = self.maps.get_mut(&id) else {
            return;
        };
        if counted {
            map.users += 1;
        }
        let retry_at = self.now + RETRY_STEP;
        let work = Work {
            domid: map.domid,
            process: map.process.clone(),
            map: id,
            first_page: first,
            handles: map.pages[first as usize..end as usize]
                .iter()
                .map(|p| p.handle)
                .collect(),
            age: 0,
            began: self.now,
            then: blocked.map_or(Then::RetryAt(retry_at), Then::Wake),
        };
        let (domid, event) = (map.domid, map.notify.event);
        if let (true, Some(port)) = (early, event) {
            self.notify_remote(domid, port);
        }
        let work_id = WorkId(self.fresh_id());
        let ready = self.ready(&work);
        let handles = work.handles.iter().flatten().count() as u64;
        self.works.insert(work_id, work);
        match blocked {
            _ if ready => self.finish_work(work_id),
            Some(wait) => self.block_on(wait, work_id),
            None => {
                self.stats.deferred += handles;
                self.retries.insert((retry_at, work_id));
            }
        }
    }

    /// The notify byte goes with the run that it is in, when the unmap begins, and once.
    fn clear_notify_byte(&mut self, id: MapId, first: u32, end: u32) {
        let Some(map) = self.maps.get_mut(&id) else {
            return;
        };
        let Some(byte) = map.notify.clear else { return };
        let page = byte / PAGE_SIZE as u64;
        if page < u64::from(first) || page >= u64::from(end) {
            return;
        }
        map.notify.clear = None;
        // Armed before a read-only mmap: the simulator does not write through it.
        if map.access != Some(Access::ReadWrite) {
            return;
        }
        let domid = map.domid;
        let handle = map.pages.get(page as usize).and_then(|p| p.handle);
        let Some(mapping) = handle.and_then(|h| self.maptrack.get(&h)).copied() else {
            return;
        };
        let offset = u64::from(mapping.page) * PAGE_SIZE as u64 + byte % PAGE_SIZE as u64;
        self.clear_byte(domid, mapping.run, offset);
    }

    /// Nobody holds a page of the run.
    fn ready(&self, work: &Work) -> bool {
        let Some(map) = self.maps.get(&work.map) else {
            return true;
        };
        let pages = &map.pages[work.first_page as usize..work.end() as usize];
        pages.iter().all(|p| p.references == 0 || p.zapped)
            || self.sabotaged(KernelSabotage::UnmapIgnoresReferences)
    }

    /// The hypervisor unmap, and what follows from it (`__unmap_grant_pages_done`).
    fn finish_work(&mut self, id: WorkId) {
        let Some(work) = self.works.remove(&id) else {
            return;
        };
        if let Then::RetryAt(at) = work.then {
            self.retries.remove(&(at, id));
        }
        let mut unmapped = 0;
        let map = self.maps.get(&work.map);
        let zapped = |page: u32| map.is_some_and(|m| m.pages[page as usize].zapped);
        let handles = (work.first_page..).zip(&work.handles);
        let handles = handles.filter_map(|(page, handle)| Some(((*handle)?, zapped(page))));
        for (handle, zapped) in handles.collect::<Vec<_>>() {
            match zapped && self.domain_alive(work.domid) {
                true => self.lose_handle(work.domid, handle),
                false => self.hypervisor_unmap(handle),
            }
            unmapped += 1;
        }
        let forgetful = self.sabotaged(KernelSabotage::DoubleUnmap);
        if let Some(map) = self.maps.get_mut(&work.map).filter(|_| !forgetful) {
            for page in work.first_page..work.end() {
                map.pages[page as usize].handle = None;
            }
            map.live = map.live.saturating_sub(unmapped);
        }
        if !self.sabotaged(KernelSabotage::NoMapReferenceAcrossAsync) {
            self.put_map(work.map, None);
        }
        if let Then::Wake(wait) = work.then {
            self.work_done(wait, id);
        }
    }

    /// The timer: every unmap that is due looks again (`gnttab_unmap_work`).
    pub(super) fn retry_unmaps(&mut self) {
        let due: Vec<_> = self
            .retries
            .iter()
            .take_while(|(at, _)| *at <= self.now)
            .copied()
            .collect();
        for (at, id) in due {
            // An earlier one of this tick may have ended it.
            if !self.retries.remove(&(at, id)) {
                continue;
            }
            let Some(work) = self.works.get_mut(&id) else {
                continue;
            };
            work.age = work.age.saturating_add(1);
            self.stats.retries += 1;
            let again = self.now + RETRY_STEP * work.age.saturating_add(1);
            work.then = Then::RetryAt(again);
            if self.works.get(&id).is_some_and(|work| self.ready(work)) {
                self.finish_work(id);
            } else {
                self.retries.insert((again, id));
            }
        }
    }

    /// References to pages of a map were dropped. A blocked unmap goes on at once; a queued one
    /// waits for its timer, as the kernel's does.
    pub(super) fn references_dropped(&mut self, map: MapId) {
        if self.config.unmap == UnmapMode::Async {
            return;
        }
        if self.waits.is_empty() {
            return;
        }
        let blocked = self.works.iter().filter(|(_, w)| w.map == map);
        let blocked: Vec<_> = blocked
            .filter(|(_, w)| matches!(w.then, Then::Wake(_)))
            .map(|(id, _)| *id)
            .collect();
        for id in blocked {
            if self.works.get(&id).is_some_and(|work| self.ready(work)) {
                self.finish_work(id);
            }
        }
    }

    /// Nobody is blocked on this unmap any more: it goes on by itself.
    pub(super) fn make_asynchronous(&mut self, id: WorkId) {
        let at = self.now + RETRY_STEP;
        let Some(work) = self.works.get_mut(&id) else {
            return;
        };
        work.then = Then::RetryAt(at);
        work.age = 0;
        self.stats.deferred += work.handles.iter().flatten().count() as u64;
        self.retries.insert((at, id));
    }

    /// The mapper is a dead domain: the hypervisor takes its mappings away, whoever held them
    /// there.
    pub(super) fn release_mappings(&mut self, domid: DomId) {
        let works = self.works.iter().filter(|(_, w)| w.domid == domid);
        let works: Vec<_> = works.map(|(id, _)| *id).collect();
        for id in works {
            self.finish_work(id);
        }
        self.release_lost_handles(domid);
    }
}
