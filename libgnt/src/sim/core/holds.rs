//! References to pages of a gntdev mapping, as a GPU driver or a pipe takes them: who has them, and
//! what their release waits for.

use super::gntdev::MapId;
use super::mm::{VmaKind, pieces};
use super::waits::{Wait, WaitId};
use super::xen::{Answer, Outcome, done, refuse, reply};
use super::{ConnId, Xen};
use crate::sim::wire::{HoldId, HoldKind, Reply, VmaId};
use crate::types::{Access, DomId};
use rustix::io::Errno;

/// Holds of one process.
const MAX_HOLDS: usize = 65536;

/// References to pages of a gntdev map, taken through somebody's mapping of it.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub domid: DomId,
    /// Whose address space the pages were pinned in; it may be gone.
    pub mm: ConnId,
    /// Who drops them: the pinner, until somebody attaches.
    pub owner: ConnId,
    pub attached: bool,
    pub kind: HoldKind,
    pub map: MapId,
    pub first_page: u32,
    pub pages: u32,
    /// Its release is blocked.
    pub releasing: Option<WaitId>,
    /// A PV guest's kernel has dropped its references as its own: the pages are anybody's.
    pub lost: bool,
}

impl Hold {
    /// True if it has a page in `first..end` of the map.
    pub(super) fn overlaps(&self, first: u32, end: u32) -> bool {
        self.first_page < end && first < self.first_page + self.pages
    }
}

impl Xen {
    pub(super) fn pin(
        &mut self,
        conn: ConnId,
        id: VmaId,
        first_page: u32,
        pages: u32,
        kind: HoldKind,
    ) -> Outcome {
        let Some(end) = first_page.checked_add(pages).filter(|_| pages > 0) else {
            return Err(refuse(
                Errno::INVAL,
                format!("cannot pin pages {first_page}+{pages}"),
            ));
        };
        let vma = self.vmas.get(&id).filter(|v| v.conn == conn);
        let vma = vma.filter(|v| v.pieces.iter().any(|(a, b)| *a <= first_page && end <= *b));
        let Some(VmaKind::Gntdev { map }) = vma.map(|v| &v.kind) else {
            let what = format!("pages {first_page}+{pages} are not mapped from gntdev here");
            return Err(refuse(Errno::FAULT, what));
        };
        let map = *map;
        if !self
            .maps
            .get(&map)
            .is_some_and(|m| m.has_entries(first_page, end))
        {
            let what = format!("pages {first_page}+{pages} were unmapped");
            return Err(refuse(Errno::FAULT, what));
        }
        if self.holds.values().filter(|h| h.owner == conn).count() >= MAX_HOLDS {
            return Err(refuse(
                Errno::NOMEM,
                format!("the process has {MAX_HOLDS} holds"),
            ));
        }
        let Some(domid) = self.maps.get(&map).map(|m| m.domid) else {
            return Err(refuse(Errno::FAULT, "the map is gone"));
        };
        self.change_references(map, first_page, pages, 1);
        let hold = HoldId(self.fresh_id());
        let new = Hold {
            domid,
            mm: conn,
            owner: conn,
            attached: false,
            kind,
            map,
            first_page,
            pages,
            releasing: None,
            lost: false,
        };
        self.holds.insert(hold, new);
        reply(Reply::Hold { hold })
    }

    fn change_references(&mut self, map: MapId, first_page: u32, pages: u32, by: i32) {
        let Some(map) = self.maps.get_mut(&map) else {
            return;
        };
        for page in map
            .pages
            .iter_mut()
            .skip(first_page as usize)
            .take(pages as usize)
        {
            page.references = page.references.saturating_add_signed(by);
        }
    }

    pub(super) fn hold_attach(&mut self, conn: ConnId, domid: DomId, id: HoldId) -> Outcome {
        // Holds are a kernel's own: another domain's do not exist here.
        let Some(hold) = self.holds.get_mut(&id).filter(|h| h.domid == domid) else {
            return Err(refuse(
                Errno::NOENT,
                format!("{domid} has no hold {}", id.0),
            ));
        };
        if hold.attached || hold.releasing.is_some() {
            return Err(refuse(
                Errno::BUSY,
                format!("somebody has hold {} already", id.0),
            ));
        }
        hold.attached = true;
        hold.owner = conn;
        let (map, first_page, pages_held) = (hold.map, hold.first_page, hold.pages);
        let memory = self.map_memory(map, first_page, pages_held);
        let (pieces, attach) = pieces(memory, Access::ReadOnly);
        Ok(Answer::Reply(
            Reply::Mapped {
                vma: VmaId(0),
                pieces,
            },
            attach,
        ))
    }

    pub(super) fn hold_release(&mut self, conn: ConnId, tag: Option<u64>, id: HoldId) -> Outcome {
        let Some(hold) = self.holds.get(&id).filter(|h| h.owner == conn) else {
            return Err(refuse(
                Errno::NOENT,
                format!("this process has no hold {}", id.0),
            ));
        };
        if hold.releasing.is_some() {
            return Err(refuse(
                Errno::BUSY,
                format!("hold {} is being released", id.0),
            ));
        }
        let mm = hold.mm;
        if hold.kind == HoldKind::I915 && self.invalidation_running(mm) {
            let wait = WaitId(self.fresh_id());
            self.waits.insert(
                wait,
                Wait::Release {
                    conn,
                    tag,
                    hold: id,
                    mm,
                },
            );
            if let Some(hold) = self.holds.get_mut(&id) {
                hold.releasing = Some(wait);
            }
            return Ok(Answer::Blocked);
        }
        self.drop_hold(id);
        done()
    }

    /// The references go.
    pub(super) fn drop_hold(&mut self, id: HoldId) {
        let Some(hold) = self.holds.remove(&id) else {
            return;
        };
        self.change_references(hold.map, hold.first_page, hold.pages, -1);
        self.references_dropped(hold.map);
    }
}
