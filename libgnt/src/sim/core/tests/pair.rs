//! The history that most tests begin with: one domain grants, another maps.

use super::{Alloc, BACKEND, GUEST, Rig};
use crate::sim::core::{Action, ConnId};
use crate::sim::wire::{DeviceKind, FileId, Request, VmaId};
use crate::types::{EvtchnPort, ForeignGrant, UnmapNotify};

/// A granter in [`GUEST`] and a mapper in [`BACKEND`], which has mapped all pages.
pub struct Pair {
    pub w: Rig,
    pub front: ConnId,
    pub front_alloc: FileId,
    pub alloc: Alloc,
    pub back: ConnId,
    pub gntdev: FileId,
    pub evtchn: FileId,
    pub map: (u64, VmaId),
    pub pages: u32,
    /// The unmap notify's port, and where it is heard.
    pub event: (EvtchnPort, EvtchnPort),
}

impl Pair {
    /// Grants, maps, and arms byte 0 and the event.
    #[track_caller]
    pub fn mapped(w: Rig, pages: u32) -> Pair {
        let mut pair = Pair::granted(w, pages);
        let grants = pair.grants();
        pair.map = pair.w.map(pair.back, pair.gntdev, &grants);
        let notify = UnmapNotify {
            clear_byte: true,
            send_event: Some(pair.event.0),
        };
        pair.w.notify(pair.back, pair.gntdev, pair.map.0, notify);
        pair
    }

    /// Grants only.
    #[track_caller]
    pub fn granted(mut w: Rig, pages: u32) -> Pair {
        let front = w.join(GUEST, "front");
        let back = w.join(BACKEND, "back");
        let front_alloc = w.open(front, DeviceKind::Gntalloc);
        let gntdev = w.open(back, DeviceKind::Gntdev);
        let evtchn = w.open(back, DeviceKind::Evtchn);
        let event = w.loopback(back, evtchn);
        let alloc = w.alloc(front, front_alloc, BACKEND, pages);
        let map = (0, VmaId(0));
        Pair {
            w,
            front,
            front_alloc,
            alloc,
            back,
            gntdev,
            evtchn,
            map,
            pages,
            event,
        }
    }

    pub fn grants(&self) -> Vec<ForeignGrant> {
        self.alloc.of(GUEST)
    }

    #[track_caller]
    pub fn unmap(&mut self) {
        self.w.unmap(self.back, self.gntdev, self.map, self.pages);
    }

    pub fn munmap(&self) -> Request {
        Request::Munmap {
            vma: self.map.1,
            first_page: 0,
            pages: self.pages,
        }
    }

    #[track_caller]
    pub fn dealloc(&mut self) {
        let (file, index, pages) = (self.front_alloc, self.alloc.index, self.pages);
        self.w
            .done(self.front, Request::DeallocGref { file, index, pages });
    }

    /// The notify event was heard, this many times.
    #[track_caller]
    pub fn assert_events(&self, times: usize) {
        let heard = (self.evtchn, self.event.1);
        assert_eq!(
            self.w.raises().iter().filter(|r| **r == heard).count(),
            times
        );
    }

    pub fn byte_cleared(&self) -> bool {
        self.w
            .out
            .iter()
            .any(|o| matches!(o, Action::ClearByte { offset: 0, .. }))
    }

    /// How many of the pages the mapper still maps.
    pub fn mapped_pages(&self) -> usize {
        self.grants()
            .iter()
            .filter(|g| self.w.grant(**g).is_some_and(|(maps, _)| maps > 0))
            .count()
    }
}
