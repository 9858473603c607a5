//! The persistent grants of one front: one mapped page for each reference, the least recently
//! used given up first.

use super::names::{Slot, Tag};
use slab::Slab;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Mapping,
    Mapped,
    /// Unmapped by us, not released yet.
    Leaving,
}

#[derive(Debug)]
struct Page {
    gref: u32,
    state: State,
    users: u32,
    last_use: u64,
    /// Who waits for the map; once for each segment.
    waiting: Vec<Tag>,
}

/// What [`Cache::acquire`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Mapped.
    Ready,
    /// Somebody else's map is on its way.
    Coming,
    /// Not there: the caller has to map it.
    New,
}

#[derive(Debug)]
pub(super) struct Cache {
    pages: Slab<Page>,
    /// Never names a page that is leaving. The default hasher is keyed: references are the
    /// peer's choice.
    by_gref: HashMap<u32, Slot>,
    capacity: usize,
    live: usize,
    clock: u64,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Cache {
            pages: Slab::new(),
            by_gref: HashMap::new(),
            capacity,
            live: 0,
            clock: 0,
        }
    }

    /// Pages that are mapped or being mapped.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Finds or makes the page of a reference, and counts one more user of it.
    pub(super) fn acquire(&mut self, gref: u32, tag: Tag) -> (Slot, Found) {
        self.clock += 1;
        if let Some(&slot) = self.by_gref.get(&gref)
            && let Some(page) = self.pages.get_mut(slot.index())
        {
            page.users += 1;
            page.last_use = self.clock;
            if page.state == State::Mapped {
                return (slot, Found::Ready);
            }
            page.waiting.push(tag);
            return (slot, Found::Coming);
        }
        let slot = Slot::from_index(self.pages.vacant_key());
        self.pages.insert(Page {
            gref,
            state: State::Mapping,
            users: 1,
            last_use: self.clock,
            waiting: vec![tag],
        });
        self.by_gref.insert(gref, slot);
        self.live += 1;
        (slot, Found::New)
    }

    /// One user less.
    pub(super) fn release(&mut self, slot: Slot) {
        if let Some(page) = self.pages.get_mut(slot.index()) {
            page.users = page.users.saturating_sub(1);
        }
    }

    /// The map is there. Returns who waited.
    pub(super) fn mapped(&mut self, slot: Slot) -> Vec<Tag> {
        let Some(page) = self.pages.get_mut(slot.index()) else {
            return Vec::new();
        };
        page.state = State::Mapped;
        std::mem::take(&mut page.waiting)
    }

    /// The map failed: the page is forgotten. Returns who waited.
    pub(super) fn failed(&mut self, slot: Slot) -> Vec<Tag> {
        let Some(page) = self.pages.try_remove(slot.index()) else {
            return Vec::new();
        };
        self.by_gref.remove(&page.gref);
        self.live -= 1;
        page.waiting
    }

    /// Every idle page leaves.
    pub(super) fn evict_all_idle(&mut self) -> Vec<Slot> {
        let all: Vec<Slot> = self.by_gref.values().copied().collect();
        all.into_iter().filter(|slot| self.evict(*slot)).collect()
    }

    /// If there are too many pages, the least recently used idle one leaves.
    pub(super) fn evict_surplus(&mut self) -> Option<Slot> {
        if self.live <= self.capacity {
            return None;
        }
        let idle = self
            .pages
            .iter()
            .filter(|(_, p)| p.state == State::Mapped && p.users == 0);
        let (oldest, _) = idle.min_by_key(|(_, page)| page.last_use)?;
        let slot = Slot::from_index(oldest);
        self.evict(slot).then_some(slot)
    }

    /// This page leaves, if it is idle.
    pub(super) fn evict(&mut self, slot: Slot) -> bool {
        let Some(page) = self.pages.get_mut(slot.index()) else {
            return false;
        };
        if page.state != State::Mapped || page.users > 0 {
            return false;
        }
        page.state = State::Leaving;
        self.by_gref.remove(&page.gref);
        self.live -= 1;
        true
    }

    /// A page that left is released.
    pub(super) fn released(&mut self, slot: Slot) {
        if self
            .pages
            .get(slot.index())
            .is_some_and(|page| page.state == State::Leaving)
        {
            self.pages.remove(slot.index());
        }
    }
}
