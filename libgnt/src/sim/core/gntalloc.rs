//! `/dev/xen/gntalloc` (`drivers/xen/gntalloc.c`, Linux 5.17 to 6.12): pages granted to a peer.
//!
//! A page of an allocation lives as long as its file lists it or a mapping of it exists; then it
//! acts on its unmap notify and ends access, which the peer may delay.

use super::gntdev::Notify;
use super::mm::{FileKind, Run, VmaKind};
use super::xen::{Outcome, done, refuse, reply};
use super::{Action, ConnId, KernelSabotage, Xen};
use crate::sim::wire::{FileId, Reply, RunId, SimError};
use crate::types::{Access, DomId, GrantRef, PAGE_SIZE, UnmapNotify};
use rustix::io::Errno;
use std::collections::BTreeMap;

/// Names one page of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShareId(pub u64);

/// `struct gntalloc_gref`
#[derive(Clone, Debug)]
pub(super) struct SharedPage {
    pub domid: DomId,
    pub gref: GrantRef,
    pub run: RunId,
    /// In the run.
    pub page: u32,
    /// The file's list, and each mapping.
    pub users: u32,
    pub notify: Notify,
}

/// `struct gntalloc_file_private_data`, in pages.
#[derive(Clone, Debug, Default)]
pub(super) struct AllocList {
    /// Never goes back, so that no index is used twice.
    next_index: u64,
    pub pages: BTreeMap<u64, ShareId>,
}

impl AllocList {
    /// `find_grefs`: pages at contiguous indexes, whether or not one allocation gave them.
    fn find(&self, first: u64, count: u32) -> Option<Vec<ShareId>> {
        // The driver's count wraps at 0, and nothing is that long.
        let last = first.checked_add(u64::from(count).checked_sub(1)?)?;
        let found: Vec<_> = self.pages.range(first..=last).map(|(_, id)| *id).collect();
        (found.len() == count as usize).then_some(found)
    }
}

impl Xen {
    fn alloc_list(&mut self, conn: ConnId, file: FileId) -> Result<&mut AllocList, SimError> {
        self.file(conn, file)?;
        match self.files.get_mut(&file).map(|f| &mut f.kind) {
            Some(FileKind::Gntalloc(list)) => Ok(list),
            Some(FileKind::Evtchn { .. }) => Err(refuse(Errno::NOSYS, "not a gntalloc file")),
            _ => Err(refuse(Errno::NOTTY, "not a gntalloc file")),
        }
    }

    pub(super) fn alloc_gref(
        &mut self,
        conn: ConnId,
        file: FileId,
        peer: DomId,
        access: Access,
        pages: u32,
    ) -> Outcome {
        self.alloc_list(conn, file)?;
        let domid = self.file(conn, file)?.domid;
        let limit = self.config.gntalloc_limit as usize;
        let used = self.pages_shared_by(domid);
        if pages as usize > limit.saturating_sub(used) && !self.sabotaged(KernelSabotage::NoQuota) {
            let what = format!("{used} of {limit} pages are allocated, {pages} more do not fit");
            return Err(refuse(Errno::NOSPC, what));
        }
        let list = self.alloc_list(conn, file)?;
        let first = list.next_index;
        list.next_index += u64::from(pages);
        let entries = self.config.grant_entries;
        let room = self
            .domains
            .get(&domid)
            .map_or(0, |d| d.grants.room(entries));
        if pages as usize > room {
            // The index stays used up, as in the driver.
            let what = format!("the grant table of {domid} has room for {room} entries");
            return Err(refuse(Errno::NOSPC, what));
        }
        let mut grefs = Vec::with_capacity(pages as usize);
        if pages > 0 {
            let run = RunId(self.fresh_id());
            self.runs.insert(run, Run { live_pages: 0 });
            self.out.push(Action::CreateRun { run, pages });
            for page in 0..pages {
                let gref = self.grant_access(domid, peer, access, run, page)?;
                grefs.push(gref);
                let id = ShareId(self.fresh_id());
                let notify = Notify::default();
                self.shared.insert(
                    id,
                    SharedPage {
                        domid,
                        gref,
                        run,
                        page,
                        users: 1,
                        notify,
                    },
                );
                self.alloc_list(conn, file)?
                    .pages
                    .insert(first + u64::from(page), id);
            }
        }
        reply(Reply::Allocated {
            index: first * PAGE_SIZE as u64,
            grefs,
        })
    }

    /// What the limit of a domain's kernel counts.
    pub(super) fn pages_shared_by(&self, domid: DomId) -> usize {
        self.shared.values().filter(|s| s.domid == domid).count()
    }

    pub(super) fn dealloc_gref(
        &mut self,
        conn: ConnId,
        file: FileId,
        index: u64,
        pages: u32,
    ) -> Outcome {
        let list = self.alloc_list(conn, file)?;
        let first = index / PAGE_SIZE as u64;
        let found = if index.is_multiple_of(PAGE_SIZE as u64) {
            list.find(first, pages)
        } else {
            None
        };
        let Some(found) = found else {
            let what = format!("the file has no {pages} pages at index {index:#x}");
            return Err(refuse(Errno::INVAL, what));
        };
        for page in 0..u64::from(pages) {
            list.pages.remove(&(first + page));
        }
        for id in found {
            self.put_shared(id);
        }
        done()
    }

    pub(super) fn gntalloc_mmap_pages(
        &mut self,
        conn: ConnId,
        file: FileId,
        index: u64,
        pages: u32,
    ) -> Result<VmaKind, SimError> {
        let list = self.alloc_list(conn, file)?;
        let Some(found) = list.find(index / PAGE_SIZE as u64, pages) else {
            let what = format!("the file has no {pages} pages at index {index:#x}");
            return Err(refuse(Errno::NOENT, what));
        };
        for id in &found {
            if let Some(page) = self.shared.get_mut(id) {
                page.users += 1;
            }
        }
        Ok(VmaKind::Gntalloc { pages: found })
    }

    pub(super) fn gntalloc_notify(
        &mut self,
        conn: ConnId,
        file: FileId,
        offset: u64,
        notify: UnmapNotify,
    ) -> Outcome {
        let list = self.alloc_list(conn, file)?;
        let Some(id) = list.pages.get(&(offset / PAGE_SIZE as u64)).copied() else {
            return Err(refuse(
                Errno::NOENT,
                format!("the file has no page at {offset:#x}"),
            ));
        };
        if let Some(port) = notify.send_event {
            self.get_port(conn, port)?;
        }
        let Some(page) = self.shared.get_mut(&id) else {
            return done();
        };
        let domid = page.domid;
        let byte = offset % PAGE_SIZE as u64;
        let old = std::mem::replace(&mut page.notify, Notify::new(notify, byte));
        if let Some(port) = old.event {
            self.put_port(domid, port);
        }
        done()
    }

    /// Drops one use of a page; with the last, notifies and ends access (`__del_gref`).
    pub(super) fn put_shared(&mut self, id: ShareId) {
        let Some(page) = self.shared.get_mut(&id) else {
            return;
        };
        page.users -= 1;
        if page.users > 0 {
            return;
        }
        let Some(page) = self.shared.remove(&id) else {
            return;
        };
        if let Some(byte) = page.notify.clear {
            let offset = u64::from(page.page) * PAGE_SIZE as u64 + byte;
            self.clear_byte(page.domid, page.run, offset);
        }
        if let Some(port) = page.notify.event {
            self.notify_remote(page.domid, port);
            self.put_port(page.domid, port);
        }
        // The quota is credited now, whatever the peer does.
        self.end_access(page.domid, page.gref);
    }

    /// A kernel clears a notify byte; a dead domain's kernel does not.
    pub(super) fn clear_byte(&mut self, domid: DomId, run: RunId, offset: u64) {
        if self.domain_alive(domid) {
            self.out.push(Action::ClearByte { run, offset });
        }
    }
}
