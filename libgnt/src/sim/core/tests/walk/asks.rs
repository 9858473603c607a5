//! What the walkers ask: mostly what makes sense, with numbers that are mostly right.

use super::*;

impl Walk {
    pub(super) fn pick<T: Copy>(rng: &mut fastrand::Rng, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[rng.usize(..from.len())])
    }

    /// A number near the right one: usually it.
    fn near(&mut self, right: u32) -> u32 {
        match self.rng.u32(..20) {
            0 => right.wrapping_add(1),
            1 => right.saturating_sub(1),
            2 => u32::MAX,
            _ => right,
        }
    }

    fn file(&mut self, at: usize, device: DeviceKind) -> FileId {
        let files = &self.processes[at].files;
        if self.rng.u32(..40) == 0 {
            return Self::pick(&mut self.rng, files).map_or(FileId(0), |f| f.1);
        }
        let right: Vec<_> = files
            .iter()
            .filter(|f| f.0 == device)
            .map(|f| f.1)
            .collect();
        Self::pick(&mut self.rng, &right).unwrap_or(FileId(0))
    }

    fn access(&mut self) -> Access {
        if self.rng.u32(..4) == 0 {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        }
    }

    /// A grant: mostly one that this process may use.
    fn grant(&mut self, at: usize) -> ForeignGrant {
        let domid = self.processes[at].domid;
        let any = self.rng.u32(..10) == 0;
        let grants = self.w.inspect().grants;
        let right = grants
            .iter()
            .filter(|g| any || g.peer == domid && g.access.writable());
        let right: Vec<_> = right.map(|g| g.grant).collect();
        let unlikely = ForeignGrant {
            domid: GUEST,
            gref: GrantRef(8),
        };
        Self::pick(&mut self.rng, &right).unwrap_or(unlikely)
    }

    /// What a process asks next.
    pub(super) fn request(&mut self, at: usize) -> Request {
        let none = (FileId(0), 0, 1);
        match self.rng.u32(..23) {
            0 | 1 => {
                let file = self.file(at, DeviceKind::Gntalloc);
                let peer = Self::pick(&mut self.rng, &DOMAINS).unwrap_or(GUEST);
                let access = self.access();
                let pages = self.rng.u32(1..6);
                Request::AllocGref {
                    file,
                    peer,
                    access,
                    pages: self.near(pages),
                }
            }
            2 => {
                let (file, index, pages) =
                    Self::pick(&mut self.rng, &self.processes[at].allocs).unwrap_or(none);
                Request::DeallocGref {
                    file,
                    index,
                    pages: self.near(pages),
                }
            }
            3..=5 => {
                let count = self.rng.usize(1..5);
                let grants = (0..count).map(|_| self.grant(at)).collect();
                Request::MapGrantRef {
                    file: self.file(at, DeviceKind::Gntdev),
                    grants,
                }
            }
            6..=8 => {
                let process = &self.processes[at];
                let from = if self.rng.u32(..4) == 0 {
                    &process.allocs
                } else {
                    &process.maps
                };
                let recent = &from[from.len().saturating_sub(3)..];
                let (file, index, pages) = Self::pick(&mut self.rng, recent).unwrap_or(none);
                let access = self.access();
                Request::Mmap {
                    file,
                    index,
                    pages: self.near(pages),
                    access,
                }
            }
            9 => {
                let (file, index, pages) =
                    Self::pick(&mut self.rng, &self.processes[at].maps).unwrap_or(none);
                Request::UnmapGrantRef {
                    file,
                    index,
                    pages: self.near(pages),
                }
            }
            10 | 11 => {
                let (vma, pages) =
                    Self::pick(&mut self.rng, &self.processes[at].vmas).unwrap_or((VmaId(0), 1));
                let first_page = self.rng.u32(..pages);
                let part = self.rng.u32(1..=pages - first_page);
                let whole = self.rng.bool();
                let (first_page, pages) = if whole {
                    (0, pages)
                } else {
                    (first_page, part)
                };
                let pages = self.near(pages);
                match self.rng.u32(..5) {
                    0 => Request::Invalidate {
                        vma,
                        first_page,
                        pages,
                    },
                    _ => Request::Munmap {
                        vma,
                        first_page,
                        pages,
                    },
                }
            }
            12 => {
                let process = &self.processes[at];
                let from = if self.rng.bool() {
                    &process.allocs
                } else {
                    &process.maps
                };
                let (file, index, pages) = Self::pick(&mut self.rng, from).unwrap_or(none);
                let ports: Vec<_> = process.ports.iter().map(|p| p.1).collect();
                let send_event = Self::pick(&mut self.rng, &ports);
                let offset = index + self.rng.u64(..u64::from(pages) * PAGE);
                let notify = UnmapNotify {
                    clear_byte: self.rng.bool(),
                    send_event,
                };
                Request::SetUnmapNotify {
                    file,
                    offset,
                    notify,
                }
            }
            13 => {
                let grant = self.grant(at);
                let write = self.rng.bool();
                Request::CopyAttach {
                    file: self.file(at, DeviceKind::Gntdev),
                    grant,
                    write,
                }
            }
            14 | 15 => {
                let (vma, pages) =
                    Self::pick(&mut self.rng, &self.processes[at].vmas).unwrap_or((VmaId(0), 1));
                let first_page = self.rng.u32(..pages);
                let pages = self.rng.u32(1..=pages - first_page);
                let kind = if self.rng.bool() {
                    HoldKind::Plain
                } else {
                    HoldKind::I915
                };
                Request::Pin {
                    vma,
                    first_page,
                    pages: self.near(pages),
                    kind,
                }
            }
            16 => {
                let hold = Self::pick(&mut self.rng, &self.holds).unwrap_or(HoldId(0));
                Request::HoldAttach { hold }
            }
            17 => {
                let hold = Self::pick(&mut self.rng, &self.holds).unwrap_or(HoldId(0));
                Request::HoldRelease { hold }
            }
            18 => {
                let file = self.file(at, DeviceKind::Evtchn);
                let own = [DomId::SELF, DOMAINS[0], DOMAINS[1], DOMAINS[2]];
                let remote = Self::pick(&mut self.rng, &own).unwrap_or(GUEST);
                Request::BindUnbound { file, remote }
            }
            19 | 20 => {
                let file = self.file(at, DeviceKind::Evtchn);
                let offered =
                    Self::pick(&mut self.rng, &self.offered).unwrap_or((GUEST, EvtchnPort(1)));
                Request::BindInterdomain {
                    file,
                    remote: offered.0,
                    port: offered.1,
                }
            }
            21 => {
                let (file, port) = Self::pick(&mut self.rng, &self.processes[at].ports)
                    .unwrap_or((FileId(0), EvtchnPort(1)));
                if self.rng.bool() {
                    Request::Unbind { file, port }
                } else {
                    Request::EvtchnPeer { file, port }
                }
            }
            _ => match self.rng.u32(..4) {
                0 => {
                    let files = &self.processes[at].files;
                    let file = Self::pick(&mut self.rng, files).map_or(FileId(0), |f| f.1);
                    Request::Close { file }
                }
                n => {
                    let device = [DeviceKind::Gntalloc, DeviceKind::Gntdev, DeviceKind::Evtchn];
                    Request::Open {
                        device: device[n as usize - 1],
                    }
                }
            },
        }
    }

    /// Remembers what a reply gave.
    pub(super) fn learn(&mut self, at: usize, request: &Request, answer: &Reply) {
        let process = &mut self.processes[at];
        match (request, answer) {
            (Request::Open { device }, Reply::Opened { file }) => {
                process.files.push((*device, *file));
            }
            (Request::Close { file }, _) => process.files.retain(|f| f.1 != *file),
            (
                Request::AllocGref {
                    file,
                    pages: pages @ 1..,
                    ..
                },
                Reply::Allocated { index, .. },
            ) => {
                process.allocs.push((*file, *index, *pages));
            }
            (Request::MapGrantRef { file, grants }, Reply::Index { index }) => {
                let pages = grants.len() as u32;
                process.maps.push((*file, *index, pages));
                self.next = Some(Request::Mmap {
                    file: *file,
                    index: *index,
                    pages,
                    access: Access::ReadWrite,
                });
            }
            (Request::Mmap { pages, .. }, Reply::Mapped { vma, .. }) => {
                process.vmas.push((*vma, *pages));
                self.seen.mapped += 1;
                self.next = Some(Request::Pin {
                    vma: *vma,
                    first_page: pages / 2,
                    pages: 1,
                    kind: HoldKind::I915,
                });
            }
            (Request::Pin { .. }, Reply::Hold { hold }) => self.holds.push(*hold),
            (
                Request::BindUnbound { file, .. } | Request::BindInterdomain { file, .. },
                Reply::Port { port },
            ) => {
                process.ports.push((*file, *port));
                self.offered.push((process.domid, *port));
            }
            _ => {}
        }
    }
}
