//! Files and mappings: the parts of a kernel that both drivers stand on.

use super::gntalloc::{AllocList, ShareId};
use super::gntdev::{MapId, MapList};
use super::waits::WaitId;
use super::xen::{Answer, Outcome, refuse};
use super::{Action, Attachment, ConnId, Xen};
use crate::sim::wire::{DeviceKind, FileId, Piece, Reply, RunId, SimError, VmaId};
use crate::types::{Access, DomId, PAGE_SIZE};
use rustix::io::Errno;
use std::collections::BTreeSet;

/// `RLIMIT_NOFILE`, as most processes have it.
const MAX_FILES: usize = 1024;
/// `vm.max_map_count`
const MAX_VMAS: usize = 65530;

/// The memory behind one allocation of gntalloc.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Its pages whose grant-table entry exists. Whatever else needs a page (a mapping of either
    /// side, a hold) needs the entry first.
    pub live_pages: u32,
}

/// An open device file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub conn: ConnId,
    pub domid: DomId,
    /// False once closed: only mappings keep it.
    pub open: bool,
    /// Mappings of it.
    pub vmas: u32,
    pub kind: FileKind,
}

#[derive(Clone, Debug)]
pub(super) enum FileKind {
    Gntdev(MapList),
    Gntalloc(AllocList),
    Evtchn { restricted: Option<DomId> },
}

impl File {
    pub(super) fn device(&self) -> DeviceKind {
        match self.kind {
            FileKind::Gntdev(_) => DeviceKind::Gntdev,
            FileKind::Gntalloc(_) => DeviceKind::Gntalloc,
            FileKind::Evtchn { .. } => DeviceKind::Evtchn,
        }
    }
}

/// What one `mmap` made, less what was unmapped since.
#[derive(Clone, Debug)]
pub(super) struct Vma {
    pub conn: ConnId,
    pub file: FileId,
    /// When it was made.
    pub pages: u32,
    /// What is left: ranges of pages, apart from each other. Each is a `vm_area_struct`.
    pub pieces: Vec<(u32, u32)>,
    pub kind: VmaKind,
}

#[derive(Clone, Debug)]
pub(super) enum VmaKind {
    /// Each piece uses the map.
    Gntdev { map: MapId },
    /// The pieces together use each page once.
    Gntalloc { pages: Vec<ShareId> },
}

impl Vma {
    /// The map behind it, if it is gntdev's.
    pub(super) fn gntdev_map(&self) -> Option<MapId> {
        match self.kind {
            VmaKind::Gntdev { map } => Some(map),
            VmaKind::Gntalloc { .. } => None,
        }
    }
}

impl Xen {
    /// An open file of this process. EBADF.
    pub(super) fn file(&self, conn: ConnId, file: FileId) -> Result<&super::mm::File, SimError> {
        self.files
            .get(&file)
            .filter(|f| f.open && f.conn == conn)
            .ok_or_else(|| {
                refuse(
                    Errno::BADF,
                    format!("this process has no open file {}", file.0),
                )
            })
    }

    pub(super) fn open(&mut self, conn: ConnId, domid: DomId, device: DeviceKind) -> Outcome {
        if self
            .files
            .values()
            .filter(|f| f.conn == conn && f.open)
            .count()
            >= MAX_FILES
        {
            return Err(refuse(Errno::MFILE, format!("{MAX_FILES} files are open")));
        }
        let id = FileId(self.fresh_id());
        let mut attach = Vec::new();
        let kind = match device {
            DeviceKind::Gntdev => FileKind::Gntdev(MapList::default()),
            DeviceKind::Gntalloc => FileKind::Gntalloc(AllocList::default()),
            DeviceKind::Evtchn => {
                self.out.push(Action::CreateEvents { file: id });
                attach.push(Attachment::Events { file: id });
                FileKind::Evtchn { restricted: None }
            }
        };
        self.files.insert(
            id,
            File {
                conn,
                domid,
                open: true,
                vmas: 0,
                kind,
            },
        );
        Ok(Answer::Reply(Reply::Opened { file: id }, attach))
    }

    pub(super) fn close(&mut self, conn: ConnId, tag: Option<u64>, file: FileId) -> Outcome {
        self.file(conn, file)?;
        self.may_block((conn, tag), "close", false, |xen, wait| {
            xen.close_file(file, wait);
        })
    }

    /// The descriptor is gone. A mapping keeps the file: then nothing is released yet.
    pub(super) fn close_file(&mut self, id: FileId, blocked: Option<WaitId>) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        file.open = false;
        if file.vmas == 0 {
            self.release_file(id, blocked);
        }
    }

    fn release_file(&mut self, id: FileId, blocked: Option<WaitId>) {
        let Some(file) = self.files.remove(&id) else {
            return;
        };
        match file.kind {
            FileKind::Gntdev(list) => {
                let maps = list.maps.into_iter();
                maps.for_each(|map| self.unlist_map(map, blocked));
            }
            FileKind::Gntalloc(list) => {
                list.pages
                    .into_values()
                    .for_each(|page| self.put_shared(page));
            }
            FileKind::Evtchn { .. } => {
                self.close_evtchn_file(file.domid, id);
                self.out.push(Action::FreeEvents { file: id });
            }
        }
    }

    pub(super) fn mmap(
        &mut self,
        conn: ConnId,
        file: FileId,
        index: u64,
        pages: u32,
        access: Access,
    ) -> Outcome {
        let device = self.file(conn, file)?.device();
        if pages == 0 || !index.is_multiple_of(PAGE_SIZE as u64) {
            let what = format!("cannot mmap {pages} pages at offset {index:#x}");
            return Err(refuse(Errno::INVAL, what));
        }
        if self.vmas.values().filter(|v| v.conn == conn).count() >= MAX_VMAS {
            return Err(refuse(
                Errno::NOMEM,
                format!("the process has {MAX_VMAS} mappings"),
            ));
        }
        let kind = match device {
            DeviceKind::Gntdev => VmaKind::Gntdev {
                map: self.gntdev_mmap(conn, file, index, pages, access)?,
            },
            DeviceKind::Gntalloc => self.gntalloc_mmap_pages(conn, file, index, pages)?,
            DeviceKind::Evtchn => return Err(refuse(Errno::NODEV, "evtchn has no mmap")),
        };
        let memory = match &kind {
            VmaKind::Gntdev { map } => self.map_memory(*map, 0, pages),
            VmaKind::Gntalloc { pages } => pages
                .iter()
                .filter_map(|id| self.shared.get(id))
                .map(|p| (p.run, p.page))
                .collect(),
        };
        let vma = VmaId(self.fresh_id());
        self.vmas.insert(
            vma,
            Vma {
                conn,
                file,
                pages,
                pieces: vec![(0, pages)],
                kind,
            },
        );
        if let Some(file) = self.files.get_mut(&file) {
            file.vmas += 1;
        }
        let (pieces, attach) = pieces(memory, access);
        Ok(Answer::Reply(Reply::Mapped { vma, pieces }, attach))
    }

    /// The memory behind mapped pages of a map.
    pub(super) fn map_memory(&self, map: MapId, first: u32, pages: u32) -> Vec<(RunId, u32)> {
        let Some(map) = self.maps.get(&map) else {
            return Vec::new();
        };
        let range = map.pages.iter().skip(first as usize).take(pages as usize);
        let handles = range.filter_map(|p| p.handle);
        handles
            .filter_map(|h| self.maptrack.get(&h))
            .map(|m| (m.run, m.page))
            .collect()
    }

    pub(super) fn munmap(
        &mut self,
        conn: ConnId,
        tag: Option<u64>,
        id: VmaId,
        first_page: u32,
        pages: u32,
    ) -> Outcome {
        let end = self.part_of_vma(conn, id, first_page, pages)?;
        let domid = self.processes.get(&conn).and_then(|p| p.domid);
        // With a notifier a synchronous unmap waits in it; else, in the map's last use, there is no
        // invalidation any more.
        let notifies = domid.is_some_and(|d| self.has_notifier(d));
        self.may_block((conn, tag), "munmap", notifies, |xen, wait| {
            xen.notify_of_change(id, first_page, end, wait);
            xen.unmap_range(id, first_page, end, wait);
        })
    }

    /// A mapping goes with its address space.
    pub(super) fn unmap_all(&mut self, id: VmaId) {
        let pages = self.vmas.get(&id).map_or(0, |v| v.pages);
        self.notify_of_change(id, 0, pages, None);
        self.unmap_range(id, 0, pages, None);
    }

    /// Takes pages out of a mapping: pieces are cut, split and closed.
    fn unmap_range(&mut self, id: VmaId, first: u32, end: u32, blocked: Option<WaitId>) {
        let Some(vma) = self.vmas.get_mut(&id) else {
            return;
        };
        let cut = |(a, b): (u32, u32)| [(a, b.min(first)), (a.max(end), b)];
        let left = vma
            .pieces
            .iter()
            .copied()
            .flat_map(cut)
            .filter(|(a, b)| a < b)
            .collect();
        let before = std::mem::replace(&mut vma.pieces, left).len();
        let after = vma.pieces.len();
        if let VmaKind::Gntdev { map } = vma.kind {
            if let Some(map) = self.maps.get_mut(&map) {
                map.users += after.saturating_sub(before) as u32;
            }
            for _ in after..before {
                self.put_map(map, blocked);
            }
        }
        if after > 0 {
            return;
        }
        let Some(vma) = self.vmas.remove(&id) else {
            return;
        };
        if let VmaKind::Gntalloc { pages } = vma.kind {
            pages.into_iter().for_each(|page| self.put_shared(page));
        }
        let Some(file) = self.files.get_mut(&vma.file) else {
            return;
        };
        file.vmas -= 1;
        if file.vmas == 0 && !file.open {
            self.release_file(vma.file, blocked);
        }
    }
}

/// Neighbouring pages of one run become one piece; each run's descriptor travels once.
pub(super) fn pieces(memory: Vec<(RunId, u32)>, access: Access) -> (Vec<Piece>, Vec<Attachment>) {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut attach = Vec::new();
    let mut seen = BTreeSet::new();
    for (run, page) in memory {
        match pieces.last_mut() {
            Some(last) if last.run == run && last.first_page + last.pages == page => {
                last.pages += 1;
            }
            _ => pieces.push(Piece {
                run,
                first_page: page,
                pages: 1,
                access,
            }),
        }
        if seen.insert(run) {
            attach.push(Attachment::Run { run, access });
        }
    }
    (pieces, attach)
}
