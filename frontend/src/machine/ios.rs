//! The I/Os that were accepted and are not over, by the driver's numbers.

use super::io::{IoError, IoKey, IoRequest};
use libgnt::machine::Now;

#[derive(Debug)]
pub(super) struct Io {
    pub request: IoRequest,
    /// Order of submission.
    pub seq: u64,
    pub since: Now,
    /// Requests on the ring.
    pub in_flight: u32,
    /// Parts in the queue.
    pub queued: u32,
    pub error: Option<IoError>,
}

#[derive(Debug, Default)]
pub(super) struct Ios {
    /// As long as the greatest number that was ever used; the machine's limits bound it.
    all: Vec<Option<Io>>,
    len: usize,
}

impl Ios {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// False, and no change, if the number is in use.
    #[must_use]
    pub(super) fn insert(&mut self, key: IoKey, io: Io) -> bool {
        if self.all.len() <= key.0 {
            self.all.resize_with(key.0 + 1, || None);
        }
        let place = &mut self.all[key.0];
        let is_free = place.is_none();
        if is_free {
            *place = Some(io);
            self.len += 1;
        }
        is_free
    }

    pub(super) fn get(&self, key: IoKey) -> Option<&Io> {
        self.all.get(key.0)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: IoKey) -> Option<&mut Io> {
        self.all.get_mut(key.0)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: IoKey) -> Option<Io> {
        let io = self.all.get_mut(key.0)?.take();
        self.len -= usize::from(io.is_some());
        io
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.len = 0;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IoKey, &Io)> {
        let all = self.all.iter().enumerate();
        all.filter_map(|(n, io)| Some((IoKey(n), io.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (IoKey, &mut Io)> {
        let all = self.all.iter_mut().enumerate();
        all.filter_map(|(n, io)| Some((IoKey(n), io.as_mut()?)))
    }
}
