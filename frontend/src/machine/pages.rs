//! Which granted page is free, and which a request uses. Numbers only: the memory is the engine's.

use libgnt::GrantRef;
use libgnt::proto::blkif::MAX_SEGMENTS;

/// A page of the session's pool: reads' pages first, then writes'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PageNo(pub u16);

/// The pages of one request, at most eleven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PageList {
    len: u8,
    all: [PageNo; MAX_SEGMENTS],
}

impl std::ops::Deref for PageList {
    type Target = [PageNo];
    fn deref(&self) -> &[PageNo] {
        &self.all[..usize::from(self.len)]
    }
}

/// Free lists over one session's grants.
#[derive(Debug)]
pub(super) struct Pages {
    grants: Vec<GrantRef>,
    /// How many of `grants` the back end may write to.
    writable: usize,
    /// Reads and writes share one pool (persistent grants are all writable).
    shared: bool,
    /// Last in, first out: the page used last is in the cache, and with persistent grants a
    /// light load keeps few pages mapped.
    free: [Vec<PageNo>; 2],
}

impl Pages {
    pub(super) fn new(read: Vec<GrantRef>, write: Option<Vec<GrantRef>>) -> Self {
        let (writable, shared) = (read.len(), write.is_none());
        let mut grants = read;
        grants.extend(write.unwrap_or_default());
        // Page numbers are 16 bits; gntalloc's own limit is far below.
        grants.truncate(usize::from(u16::MAX));
        let numbers = |range: std::ops::Range<usize>| {
            range.rev().map(|n| PageNo(n as u16)).collect::<Vec<_>>()
        };
        let free = [
            numbers(0..writable.min(grants.len())),
            numbers(writable..grants.len()),
        ];
        Pages {
            grants,
            writable,
            shared,
            free,
        }
    }

    fn pool(&self, for_write: bool) -> usize {
        usize::from(for_write && !self.shared)
    }

    /// The most pages that one request can ever have.
    pub(super) fn most(&self, for_write: bool) -> usize {
        let all = match self.pool(for_write) {
            0 => self.writable,
            _ => self.grants.len() - self.writable,
        };
        all.min(MAX_SEGMENTS)
    }

    /// Takes `count` pages, or none.
    pub(super) fn take(&mut self, for_write: bool, count: usize) -> Option<PageList> {
        let pool = self.pool(for_write);
        let free = &mut self.free[pool];
        let keep = free.len().checked_sub(count)?;
        let mut list = PageList::default();
        for (place, page) in list.all.iter_mut().zip(free.drain(keep..).rev()) {
            *place = page;
            list.len += 1;
        }
        Some(list)
    }

    /// Gives pages back.
    pub(super) fn give(&mut self, list: &PageList) {
        for &page in list.iter().rev() {
            let pool = usize::from(usize::from(page.0) >= self.writable);
            self.free[pool].push(page);
        }
    }

    pub(super) fn grant(&self, page: PageNo) -> GrantRef {
        self.grants[usize::from(page.0)]
    }
}
