//! `/dev/xen/gntdev` (`drivers/xen/gntdev.c`, Linux 5.19 to 6.12): maps of other domains' grants.
//! How they go is in [`unmap`](super::unmap).

use super::grants::HandleId;
use super::mm::FileKind;
use super::waits::WaitId;
use super::xen::{Outcome, done, refuse, reply};
use super::{ConnId, Xen};
use crate::sim::wire::{FileId, Reply, SimError};
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, PAGE_SIZE, UnmapNotify};
use rustix::io::Errno;

/// Grants that all maps together may reserve: what stands for the kernel's memory.
const MAX_RESERVED: usize = 1 << 22;

/// Names one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MapId(pub u64);

/// What happens when a map or a granted page goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notify {
    /// The byte to clear: in the map, or in the granted page.
    pub clear: Option<u64>,
    /// The local port to notify; the notify holds a use of it.
    pub event: Option<EvtchnPort>,
}

impl Notify {
    pub(super) fn new(notify: UnmapNotify, byte: u64) -> Notify {
        Notify {
            clear: notify.clear_byte.then_some(byte),
            event: notify.send_event,
        }
    }
}

/// `struct gntdev_grant_map`
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub domid: DomId,
    /// Who mapped, for people; the process may be gone.
    pub process: String,
    /// In pages; 64 bits where the driver has 32.
    pub index: u64,
    /// The file's list, each piece of a mapping, and each unmap in progress.
    pub users: u32,
    /// The file's list has it.
    pub listed: bool,
    /// It was mmapped once, and never can be again (`in_use`).
    pub mmapped: bool,
    /// How it was mmapped.
    pub access: Option<Access>,
    pub notify: Notify,
    pub pages: Vec<MapPage>,
    /// Handles that it has (`live_grants`).
    pub live: u32,
}

impl Map {
    /// The pages' entries in the address space are there.
    pub(super) fn has_entries(&self, first: u32, end: u32) -> bool {
        let pages = self.pages.get(first as usize..end as usize);
        pages.is_some_and(|all| all.iter().all(|p| p.handle.is_some() && !p.zapped))
    }
}

/// One page of a map.
#[derive(Clone, Debug)]
pub(super) struct MapPage {
    pub grant: ForeignGrant,
    pub handle: Option<HandleId>,
    pub being_removed: bool,
    /// Its page-table entry was cleared by the memory manager while it mapped the grant
    /// (`zap` in [`notifier`](super::notifier)): damage.
    pub zapped: bool,
    /// References besides the map's own: [`Hold`](super::holds::Hold)s.
    pub references: u32,
}

/// `struct gntdev_priv`: maps in the order of their indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct MapList {
    pub maps: Vec<MapId>,
}

impl Xen {
    fn map_list(&mut self, conn: ConnId, file: FileId) -> Result<&mut MapList, SimError> {
        self.file(conn, file)?;
        match self.files.get_mut(&file).map(|f| &mut f.kind) {
            Some(FileKind::Gntdev(list)) => Ok(list),
            Some(FileKind::Evtchn { .. }) => Err(refuse(Errno::NOSYS, "not a gntdev file")),
            _ => Err(refuse(Errno::NOTTY, "not a gntdev file")),
        }
    }

    /// The file's domain, if it is a gntdev file.
    pub(super) fn gntdev_domain(&mut self, conn: ConnId, file: FileId) -> Result<DomId, SimError> {
        self.map_list(conn, file)?;
        Ok(self.file(conn, file)?.domid)
    }

    pub(super) fn map_grant_ref(
        &mut self,
        conn: ConnId,
        file: FileId,
        grants: Vec<ForeignGrant>,
    ) -> Outcome {
        let domid = self.gntdev_domain(conn, file)?;
        let limit = self.config.gntdev_limit as usize;
        if grants.is_empty() || grants.len() > limit {
            let what = format!("{} grants, 1 to {limit} allowed", grants.len());
            return Err(refuse(Errno::INVAL, what));
        }
        let reserved = self.reserved;
        if reserved + grants.len() > MAX_RESERVED {
            return Err(refuse(
                Errno::NOMEM,
                format!("{reserved} grants are reserved already"),
            ));
        }
        let list = self.map_list(conn, file)?.maps.clone();
        let (index, place) = self.first_gap(&list, grants.len() as u64);
        let id = MapId(self.fresh_id());
        let page = |grant| MapPage {
            grant,
            handle: None,
            being_removed: false,
            zapped: false,
            references: 0,
        };
        let map = Map {
            domid,
            process: self.process_name(conn),
            index,
            users: 1,
            listed: true,
            mmapped: false,
            access: None,
            notify: Notify::default(),
            pages: grants.into_iter().map(page).collect(),
            live: 0,
        };
        self.reserved += map.pages.len();
        self.maps.insert(id, map);
        self.map_list(conn, file)?.maps.insert(place, id);
        reply(Reply::Index {
            index: index * PAGE_SIZE as u64,
        })
    }

    /// Where a map of `count` pages goes in the file's list (`gntdev_add_map`): before the first
    /// map that leaves more than `count` pages free in front of it.
    fn first_gap(&self, list: &[MapId], count: u64) -> (u64, usize) {
        let mut index = 0;
        for (place, map) in list.iter().filter_map(|id| self.maps.get(id)).enumerate() {
            if index + count < map.index {
                return (index, place);
            }
            index = map.index + map.pages.len() as u64;
        }
        (index, list.len())
    }

    /// `gntdev_find_map_index`; a `pages` of 0 matches any.
    fn find_map(&self, file: FileId, index: u64, pages: u32) -> Option<MapId> {
        let Some(FileKind::Gntdev(list)) = self.files.get(&file).map(|f| &f.kind) else {
            return None;
        };
        let index = index / PAGE_SIZE as u64;
        let fits = |id: &MapId| {
            self.maps.get(id).is_some_and(|m| {
                m.index == index && (pages == 0 || m.pages.len() == pages as usize)
            })
        };
        list.maps.iter().copied().find(fits)
    }

    pub(super) fn unmap_grant_ref(
        &mut self,
        conn: ConnId,
        tag: Option<u64>,
        file: FileId,
        index: u64,
        pages: u32,
    ) -> Outcome {
        self.map_list(conn, file)?;
        let Some(id) = self.find_map(file, index, pages) else {
            let what = format!("the file has no map of {pages} pages at index {index:#x}");
            return Err(refuse(Errno::NOENT, what));
        };
        self.map_list(conn, file)?.maps.retain(|m| *m != id);
        self.may_block((conn, tag), "UNMAP_GRANT_REF", false, |xen, wait| {
            xen.unlist_map(id, wait);
        })
    }

    /// The file's list gives a map up.
    pub(super) fn unlist_map(&mut self, id: MapId, blocked: Option<WaitId>) {
        if let Some(map) = self.maps.get_mut(&id) {
            map.listed = false;
        }
        self.put_map(id, blocked);
    }

    /// `gntdev_mmap`: maps every grant, or fails. The good siblings of a bad grant stay mapped until
    /// the list gives the map up; on PV they are unmapped at once.
    pub(super) fn gntdev_mmap(
        &mut self,
        conn: ConnId,
        file: FileId,
        index: u64,
        pages: u32,
        access: Access,
    ) -> Result<MapId, SimError> {
        self.map_list(conn, file)?;
        let found = self.find_map(file, index, pages);
        let map = found
            .and_then(|id| self.maps.get_mut(&id))
            .filter(|m| !m.mmapped);
        let (Some(id), Some(map)) = (found, map) else {
            let what =
                format!("no map of exactly {pages} pages at index {index:#x}, not mmapped before");
            return Err(refuse(Errno::INVAL, what));
        };
        map.mmapped = true;
        map.access = Some(access);
        map.users += 1;
        let domid = map.domid;
        let grants: Vec<_> = map.pages.iter().map(|p| p.grant).collect();
        let mut bad = None;
        for (page, grant) in grants.into_iter().enumerate() {
            match self.hypervisor_map(grant, domid, access) {
                Ok(handle) => {
                    if let Some(map) = self.maps.get_mut(&id) {
                        map.pages[page].handle = Some(handle);
                        map.live += 1;
                    }
                }
                Err(status) => bad = bad.or(Some((grant, status))),
            }
        }
        match bad {
            None => Ok(id),
            Some((grant, status)) => {
                if self.has_notifier(domid) {
                    // No entry is there yet, so nobody can have a reference.
                    self.unmap_pages(id, 0, pages, None);
                }
                self.put_map(id, None);
                Err(refuse(
                    Errno::INVAL,
                    format!("{grant}: {}", status.meaning()),
                ))
            }
        }
    }

    pub(super) fn set_unmap_notify(
        &mut self,
        conn: ConnId,
        file: FileId,
        offset: u64,
        notify: UnmapNotify,
    ) -> Outcome {
        match &self.file(conn, file)?.kind {
            FileKind::Gntdev(_) => self.gntdev_notify(conn, file, offset, notify),
            FileKind::Gntalloc(_) => self.gntalloc_notify(conn, file, offset, notify),
            FileKind::Evtchn { .. } => Err(refuse(Errno::NOSYS, "not an ioctl of evtchn")),
        }
    }

    fn gntdev_notify(
        &mut self,
        conn: ConnId,
        file: FileId,
        offset: u64,
        notify: UnmapNotify,
    ) -> Outcome {
        // The port first, as in the driver: a bad port is EINVAL even where there is no map.
        if let Some(port) = notify.send_event {
            self.get_port(conn, port)?;
        }
        let domid = self.gntdev_domain(conn, file)?;
        let set = self.replace_notify(conn, file, offset, notify);
        // Of the old event and the new, the one that the map does not have is given up.
        let unused = match &set {
            Ok(old) => old.event,
            Err(_) => notify.send_event,
        };
        if let Some(port) = unused {
            self.put_port(domid, port);
        }
        set.and_then(|_| done())
    }

    fn replace_notify(
        &mut self,
        conn: ConnId,
        file: FileId,
        offset: u64,
        notify: UnmapNotify,
    ) -> Result<Notify, SimError> {
        let list = self.map_list(conn, file)?.maps.clone();
        let page = offset / PAGE_SIZE as u64;
        let has = |m: &Map| {
            page.checked_sub(m.index)
                .is_some_and(|p| p < m.pages.len() as u64)
        };
        let id = list
            .into_iter()
            .find(|id| self.maps.get(id).is_some_and(has));
        let Some(map) = id.and_then(|id| self.maps.get_mut(&id)) else {
            return Err(refuse(
                Errno::NOENT,
                format!("the file has no map at {offset:#x}"),
            ));
        };
        if notify.clear_byte && map.access == Some(Access::ReadOnly) {
            return Err(refuse(
                Errno::INVAL,
                "a byte of a read-only map cannot be cleared",
            ));
        }
        let byte = offset - map.index * PAGE_SIZE as u64;
        Ok(std::mem::replace(
            &mut map.notify,
            Notify::new(notify, byte),
        ))
    }
}
