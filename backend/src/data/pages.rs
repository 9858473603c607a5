//! Where the pages of requests are in this process.

use crate::machine::{MapKey, Pages, Tag};
use libgnt::grant::Map;
use libgnt::proto::blkif::{MAX_SEGMENTS, Segment, Segments};
use libgnt::{PAGE_SIZE, SharedPages};
use std::sync::Arc;

/// The front's pages that are mapped, and our own. No more than the machine has names for.
#[derive(Debug, Default)]
pub(super) struct LocalPages {
    /// By the request's tag.
    maps: Vec<Option<Map>>,
    /// By the cache's slot.
    cached: Vec<Option<Map>>,
    /// By the request's tag: where grant copies go.
    bounce: Vec<Option<Arc<SharedPages>>>,
}

impl LocalPages {
    /// Keeps a new mapping.
    pub fn put(&mut self, key: MapKey, map: Map) {
        let (all, index) = self.place(key);
        if all.len() <= index {
            all.resize_with(index + 1, || None);
        }
        all[index] = Some(map);
    }

    /// Gives a mapping out of hand.
    pub fn take(&mut self, key: MapKey) -> Option<Map> {
        let (all, index) = self.place(key);
        all.get_mut(index).and_then(Option::take)
    }

    fn place(&mut self, key: MapKey) -> (&mut Vec<Option<Map>>, usize) {
        match key {
            MapKey::Request(tag) => (&mut self.maps, tag.index()),
            MapKey::Cached(slot) => (&mut self.cached, slot.index()),
        }
    }

    /// Pages of our own for a request: kept, a ring's worth at most, and those of zombies.
    pub fn bounce(&mut self, tag: Tag) -> Option<&Arc<SharedPages>> {
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

    /// Visits where each segment's bytes are. False if one is nowhere.
    pub fn for_each_segment(
        &self,
        tag: Tag,
        pages: &Pages,
        segments: &Segments,
        mut visit: impl FnMut(&Arc<SharedPages>, usize, &Segment),
    ) -> bool {
        let together = match pages {
            Pages::Own => find(&self.maps, tag.index()).map(Map::pages),
            Pages::Bounce => find(&self.bounce, tag.index()),
            Pages::Kept(slots) => {
                return segments.iter().zip(slots).all(|(segment, slot)| {
                    let map = slot.and_then(|slot| find(&self.cached, slot.index()));
                    let Some(map) = map else { return false };
                    visit(map.pages(), segment.offset(), segment);
                    true
                });
            }
        };
        segments.iter().enumerate().all(|(page, segment)| {
            let Some(pages) = together else { return false };
            visit(pages, page * PAGE_SIZE + segment.offset(), segment);
            true
        })
    }
}

fn find<T>(all: &[Option<T>], index: usize) -> Option<&T> {
    all.get(index).and_then(Option::as_ref)
}
