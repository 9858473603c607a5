//! Grant copy without a round trip: foreign pages stay mapped here, and a copy is good while the
//! granter's generation word for the reference stands (see [`crate::sim::hazard`]).

use super::connection::{Client, lock};
use super::names::GNTDEV;
use crate::error::{Error, Result};
use crate::platform::{CopySegment, CopySide};
use crate::shm::SharedPages;
use crate::sim::hazard::SlotPair;
use crate::sim::memory::{self, Part};
use crate::sim::wire::{FileId, Reply, Request};
use crate::types::{Access, DomId, ForeignGrant, GrantStatus, PAGE_SIZE};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const OPERATION: &str = "GRANT_COPY";
/// Foreign pages that one open file keeps mapped: gntalloc's default limit for one granter.
const MAX_PAGES: usize = 1024;
/// How often a page may be revoked and granted anew in the middle of one copy before the copy is
/// left to the caller's own retries.
const MAX_ATTEMPTS: usize = 8;

/// A foreign page, mapped for copying.
#[derive(Debug)]
struct CopyPage {
    grant: ForeignGrant,
    page: SharedPages,
    /// The granter's words, one for each of its references.
    generations: Arc<SharedPages>,
    /// The word that this mapping belongs to.
    generation: u32,
}

impl CopyPage {
    fn is_current(&self) -> bool {
        let offset = self.grant.gref.0 as usize * 4;
        // The order against the hazard slot comes from the fence in `guarded`; Acquire pairs
        // with the host's Release of the word.
        self.generations.load_u32(offset, Ordering::Acquire) == self.generation
    }

    /// Runs `copy` on the page, unless the grant is no longer what it was.
    fn guarded(&self, slots: &SlotPair<'_>, second: bool, copy: impl FnOnce()) -> bool {
        slots.guarded(second, self.grant, || self.is_current(), copy)
    }
}

type Key = (ForeignGrant, bool);

#[derive(Debug, Default)]
struct Cache {
    pages: HashMap<Key, (Arc<CopyPage>, u64)>,
    /// Counts uses, so that the least recently used page can be found.
    clock: u64,
    /// Generation tables, with their memfd's identity: a domain id may come back with a new one.
    tables: HashMap<DomId, (u64, Arc<SharedPages>)>,
}

/// The foreign pages of one open file.
#[derive(Debug, Default)]
pub struct CopyPages(Mutex<Cache>);

impl CopyPages {
    /// Performs segments in order, as `gntdev_ioctl_grant_copy` does.
    pub fn copy(
        &self,
        client: &Client,
        file: FileId,
        segments: &mut [CopySegment<'_>],
    ) -> Result<()> {
        let slots = client.hazards.pair();
        for segment in segments {
            check(segment)?;
            segment.status = self.copy_one(client, file, &slots, segment)?;
        }
        Ok(())
    }

    fn copy_one(
        &self,
        client: &Client,
        file: FileId,
        slots: &SlotPair<'_>,
        segment: &CopySegment<'_>,
    ) -> Result<GrantStatus> {
        let len = usize::from(segment.len);
        if len == 0 {
            // The hypervisor is not asked.
            return Ok(GrantStatus::OKAY);
        }
        if mapped_grant(client, &segment.source, len) || mapped_grant(client, &segment.dest, len) {
            return Ok(GrantStatus::BAD_PAGE);
        }
        for _ in 0..MAX_ATTEMPTS {
            let source = match self.side(client, file, &segment.source, false)? {
                Ok(page) => page,
                Err(status) => return Ok(status),
            };
            let dest = match self.side(client, file, &segment.dest, true)? {
                Ok(page) => page,
                Err(status) => return Ok(status),
            };
            let (from, from_offset) = memory_of(&segment.source, source.as_deref());
            let (to, to_offset) = memory_of(&segment.dest, dest.as_deref());
            let copy = || from.copy_to(from_offset, to, to_offset, len);
            let done = Cell::new(false);
            let into = || {
                done.set(match &dest {
                    Some(page) => page.guarded(slots, true, copy),
                    None => {
                        copy();
                        true
                    }
                });
            };
            match &source {
                Some(page) => {
                    page.guarded(slots, false, into);
                }
                None => into(),
            }
            if done.get() {
                return Ok(GrantStatus::OKAY);
            }
            for (page, write) in [(source, false), (dest, true)] {
                if let Some(page) = page.filter(|page| !page.is_current()) {
                    lock(&self.0).pages.remove(&(page.grant, write));
                }
            }
        }
        Ok(GrantStatus::EAGAIN)
    }

    /// The page of a grant side; nothing for a local side.
    fn side(
        &self,
        client: &Client,
        file: FileId,
        side: &CopySide<'_>,
        write: bool,
    ) -> Result<Result<Option<Arc<CopyPage>>, GrantStatus>> {
        let CopySide::Grant { grant, .. } = side else {
            return Ok(Ok(None));
        };
        {
            let mut cache = lock(&self.0);
            cache.clock += 1;
            let clock = cache.clock;
            if let Some((page, used)) = cache.pages.get_mut(&(*grant, write)) {
                *used = clock;
                return Ok(Ok(Some(Arc::clone(page))));
            }
        }
        self.attach(client, file, *grant, write)
            .map(|page| page.map(Some))
    }

    fn attach(
        &self,
        client: &Client,
        file: FileId,
        grant: ForeignGrant,
        write: bool,
    ) -> Result<Result<Arc<CopyPage>, GrantStatus>> {
        let request = Request::CopyAttach { file, grant, write };
        let mut answer = client.call(GNTDEV, OPERATION, request)?;
        let Reply::CopyPage {
            status,
            page,
            generation,
        } = answer.reply
        else {
            return Err(answer.unexpected());
        };
        if !status.is_okay() {
            return Ok(Err(status));
        }
        let memfd = answer.take_fd()?;
        let table = answer.take_fd()?;
        let access = if write {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let part = Part {
            fd: memfd.as_fd(),
            first_page: page as usize,
            pages: 1,
        };
        let page = memory::map_part(part, access)?;
        let mut cache = lock(&self.0);
        let generations = cache.table(grant.domid, table.as_fd())?;
        if grant.gref.0 as usize >= generations.len() / 4 {
            return Err(answer.unexpected());
        }
        let page = Arc::new(CopyPage {
            grant,
            page,
            generations,
            generation,
        });
        cache.insert((grant, write), Arc::clone(&page));
        Ok(Ok(page))
    }
}

impl Cache {
    fn table(&mut self, domid: DomId, fd: std::os::fd::BorrowedFd<'_>) -> Result<Arc<SharedPages>> {
        let (identity, pages) = memory::identity(fd)?;
        match self.tables.get(&domid) {
            Some((known, table)) if *known == identity => Ok(Arc::clone(table)),
            _ => {
                let table = Arc::new(memory::map_whole(fd, pages, Access::ReadOnly)?);
                self.tables.insert(domid, (identity, Arc::clone(&table)));
                Ok(table)
            }
        }
    }

    fn insert(&mut self, key: Key, page: Arc<CopyPage>) {
        if self.pages.len() >= MAX_PAGES
            && let Some(oldest) = self.pages.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = *oldest.0;
            self.pages.remove(&oldest);
        }
        self.pages.insert(key, (page, self.clock));
    }
}

/// A local side must be the domain's own memory; a page mapped from a grant is another's
/// (`get_paged_frame`, `xen/common/grant_table.c`).
fn mapped_grant(client: &Client, side: &CopySide<'_>, len: usize) -> bool {
    let CopySide::Local { pages, offset } = side else {
        return false;
    };
    // The pages are one mapping or none, so its first byte speaks for all.
    let mappings = lock(&client.mappings);
    let at = mappings.at(pages.address() + offset + len - 1);
    at.is_some_and(|(_, mapping)| mapping.foreign)
}

/// The pages and offset of a side.
fn memory_of<'a>(side: &CopySide<'a>, page: Option<&'a CopyPage>) -> (&'a SharedPages, usize) {
    match (side, page) {
        (CopySide::Grant { offset, .. }, Some(page)) => (&page.page, usize::from(*offset)),
        (CopySide::Local { pages, offset }, _) => (pages, *offset),
        (CopySide::Grant { .. }, None) => unreachable!("`side` gives a page for every grant"),
    }
}

/// What the driver checks before the hypervisor sees a segment, and what the page tables check.
fn check(segment: &CopySegment<'_>) -> Result<()> {
    let refuse = |errno, detail: String| Err(Error::device(GNTDEV, OPERATION, errno, detail));
    let len = usize::from(segment.len);
    if let (CopySide::Local { .. }, CopySide::Local { .. }) = (&segment.source, &segment.dest) {
        return refuse(Errno::INVAL, "both sides are local".into());
    }
    for (side, written) in [(&segment.source, false), (&segment.dest, true)] {
        match *side {
            CopySide::Grant { grant, offset } => {
                if usize::from(offset) + len > PAGE_SIZE {
                    let detail = format!("{len} bytes at {offset} leave the page of {grant}");
                    return refuse(Errno::INVAL, detail);
                }
            }
            CopySide::Local { pages, offset } => {
                if offset > pages.len() || len > pages.len() - offset {
                    let detail = format!("{len} bytes at {offset} leave the local pages");
                    return refuse(Errno::FAULT, detail);
                }
                if written && !pages.access().writable() {
                    return refuse(Errno::FAULT, "the local side is read-only".into());
                }
            }
        }
    }
    Ok(())
}
