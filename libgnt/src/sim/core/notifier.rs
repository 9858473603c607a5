//! What a PV guest's gntdev does on top (`use_ptemod`; `xen_pv_domain()` in Linux 7.2): it has an
//! interval notifier on each mapping, and unmaps in its callback (`gntdev_invalidate`,
//! `drivers/xen/gntdev.c`), before the memory manager touches the page-table entries. They are the
//! hypervisor's: whoever clears one that still maps a grant takes from the guest the only thing
//! that it could unmap that grant by (`put_page_from_l1e`, `xen/arch/x86/mm.c`, 4.17).
//!
//! The callback of the asynchronous unmap returns while somebody holds a page, and then the memory
//! manager does just that. What becomes of it is recorded as damage, and is the state from then on:
//! the entries' grants stay in use until the domain's end, the memory manager has dropped the
//! holders' references as its own (`find_special_page`; `find_normal_page` in 7.2), so that the
//! retry finds the pages free, and the notify event says that all is over.

use super::gntdev::MapId;
use super::grants::HandleId;
use super::waits::WaitId;
use super::xen::{Outcome, refuse};
use super::{ConnId, KernelSabotage, Xen};
use crate::inspect::Damage;
use crate::platform::GuestType;
use crate::sim::wire::{SimError, UnmapMode, VmaId};
use crate::types::{DomId, ForeignGrant};
use rustix::io::Errno;

/// Damages that are remembered; a kernel that has so many says nothing new.
const MAX_DAMAGES: usize = 1024;

impl Xen {
    /// The domain's gntdev has the notifier, and nothing is unmapped at the map's last use.
    pub(super) fn has_notifier(&self, domid: DomId) -> bool {
        let domain = self.domains.get(&domid);
        let is_pv = domain.is_some_and(|d| d.guest == GuestType::Pv);
        is_pv && !self.sabotaged(KernelSabotage::NoNotifier)
    }

    /// Part of a mapping was changed, and stays mapped: mprotect, madvise.
    pub(super) fn invalidate(
        &mut self,
        conn: ConnId,
        tag: Option<u64>,
        id: VmaId,
        first_page: u32,
        pages: u32,
    ) -> Outcome {
        let end = self.part_of_vma(conn, id, first_page, pages)?;
        self.may_block((conn, tag), "mprotect", true, |xen, wait| {
            xen.notify_of_change(id, first_page, end, wait);
        })
    }

    /// Pages of a mapping of this process; one past the last. EINVAL.
    pub(super) fn part_of_vma(
        &self,
        conn: ConnId,
        id: VmaId,
        first_page: u32,
        pages: u32,
    ) -> Result<u32, SimError> {
        let vma = self.vmas.get(&id).filter(|v| v.conn == conn);
        let end = first_page.checked_add(pages).filter(|_| pages > 0);
        end.filter(|end| vma.is_some_and(|v| *end <= v.pages))
            .ok_or_else(|| {
                let what = format!("no pages {first_page}+{pages} of mapping {}", id.0);
                refuse(Errno::INVAL, what)
            })
    }

    /// The memory manager is about to change entries: what is still there of these pages is unmapped
    /// first, where there is a notifier.
    pub(super) fn notify_of_change(
        &mut self,
        id: VmaId,
        first: u32,
        end: u32,
        blocked: Option<WaitId>,
    ) {
        let Some(vma) = self.vmas.get(&id) else {
            return;
        };
        let Some(map) = vma.gntdev_map().filter(|map| {
            let map = self.maps.get(map);
            map.is_some_and(|m| self.has_notifier(m.domid))
        }) else {
            return;
        };
        let cut = |(a, b): &(u32, u32)| (*a.max(&first), *b.min(&end));
        let parts: Vec<_> = vma.pieces.iter().map(cut).filter(|(a, b)| a < b).collect();
        for (a, b) in parts {
            self.unmap_pages(map, a, b, blocked);
            // A synchronous unmap was waited for: nothing is left of it.
            if self.config.unmap == UnmapMode::Async {
                self.zap(map, a, b);
            }
        }
    }

    /// The memory manager clears the entries.
    fn zap(&mut self, id: MapId, first: u32, end: u32) {
        let Some(map) = self.maps.get_mut(&id) else {
            return;
        };
        let alive = self.domains.get(&map.domid).is_some_and(|d| d.alive);
        if !alive {
            // No code of its kernel runs any more.
            return;
        }
        let mut grants = Vec::new();
        for page in &mut map.pages[first as usize..end as usize] {
            if page.handle.is_some() && !page.zapped {
                page.zapped = true;
                grants.push(page.grant);
            }
        }
        if grants.is_empty() {
            return;
        }
        let (domid, process) = (map.domid, map.process.clone());
        let holds = self.holds.values_mut().filter(|h| h.map == id);
        for hold in holds.filter(|h| h.overlaps(first, end)) {
            hold.lost = true;
        }
        self.record_damage(domid, process, grants);
    }

    fn record_damage(&mut self, domid: DomId, process: String, grants: Vec<ForeignGrant>) {
        let damage = Damage {
            at_ms: self.now.as_millis() as u64,
            domid,
            process,
            grants,
        };
        self.log(format!("d{}: BUG: Bad page map: {damage}", domid.0));
        if self.damages.len() < MAX_DAMAGES {
            self.damages.push(damage);
        }
    }

    /// The hypervisor unmap of a page whose entry is gone: it finds nothing there
    /// (`replace_grant_host_mapping`), so the grant stays in use while the domain is.
    pub(super) fn lose_handle(&mut self, domid: DomId, handle: HandleId) {
        self.log(format!(
            "d{}: WARNING: gntdev: a grant could not be unmapped",
            domid.0
        ));
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.lost_handles.push(handle);
        }
    }

    /// The domain is dead: the hypervisor takes away what its kernel could not
    /// (`gnttab_release_mappings`).
    pub(super) fn release_lost_handles(&mut self, domid: DomId) {
        let domain = self.domains.get_mut(&domid);
        let lost = domain.map(|d| std::mem::take(&mut d.lost_handles));
        for handle in lost.into_iter().flatten() {
            self.hypervisor_unmap(handle);
        }
    }
}
