//! `mmap` and `munmap` on the simulated devices' files: memory that the host gave.

use super::answer::Answer;
use super::connection::{Client, lock};
use super::mappings::Mapping;
use super::names::GNTDEV;
use crate::error::{Error, Result};
use crate::platform::GuestType;
use crate::shm::{AfterUnmap, SharedPages};
use crate::sim::memory::{self, Part};
use crate::sim::wire::{FileId, Piece, Reply, Request, RunId, VmaId};
use crate::types::{Access, PAGE_SIZE};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Tells the host what a kernel sees by itself. Keeps the connection, as a mapping keeps its file.
#[derive(Debug)]
struct TellHost {
    client: Arc<Client>,
    device: &'static str,
    address: usize,
    vma: VmaId,
    pages: u32,
}

impl AfterUnmap for TellHost {
    fn after_unmap(&self, wait: bool) -> Result<()> {
        lock(&self.client.mappings).remove(self.address, self.vma);
        let request = Request::Munmap {
            vma: self.vma,
            first_page: 0,
            pages: self.pages,
        };
        if wait {
            self.client
                .call_memory_manager(self.device, "munmap", request)?
                .done()
        } else {
            self.client.tell(request);
            Ok(())
        }
    }
}

/// `mmap` on a gntdev or gntalloc file.
///
/// # Errors
/// The driver's, and ENOMEM.
pub fn map(
    client: &Arc<Client>,
    device: &'static str,
    file: FileId,
    index: u64,
    pages: usize,
    access: Access,
) -> Result<SharedPages> {
    let count = page_count(device, "mmap", pages)?;
    let request = Request::Mmap {
        file,
        index,
        pages: count,
        access,
    };
    let mut answer = client.call(device, "mmap", request)?;
    let (vma, pieces) = pieces(&mut answer)?;
    let mapped = map_pieces(&mut answer, &pieces, access).and_then(|mapped| {
        if mapped.len() == pages * PAGE_SIZE {
            Ok(mapped)
        } else {
            Err(answer.unexpected())
        }
    });
    let on_pv = device == GNTDEV && client.guest_type() == GuestType::Pv;
    let mapped = match (mapped, on_pv) {
        // As `gntdev_mmap` marks it there.
        (Ok(mapped), true) => mapped.set_inherited(false).map(|()| mapped),
        (mapped, _) => mapped,
    };
    let mapped = match mapped {
        Ok(mapped) => mapped,
        Err(error) => {
            client.tell(Request::Munmap {
                vma,
                first_page: 0,
                pages: count,
            });
            return Err(error);
        }
    };
    let address = mapped.address();
    lock(&client.mappings).insert(
        address,
        Mapping {
            vma,
            foreign: device == GNTDEV,
            index,
            pages,
        },
    );
    let after = TellHost {
        client: Arc::clone(client),
        device,
        address,
        vma,
        pages: count,
    };
    Ok(mapped.with_after(Box::new(after)))
}

/// A page count as the interface takes it.
///
/// # Errors
/// EINVAL beyond 32 bits.
pub fn page_count(device: &'static str, operation: &'static str, pages: usize) -> Result<u32> {
    u32::try_from(pages)
        .map_err(|_| Error::device(device, operation, Errno::INVAL, format!("{pages} pages")))
}

/// The parts of [`Reply::Mapped`].
///
/// # Errors
/// [`Error::HostGone`]: another reply.
pub fn pieces(answer: &mut Answer) -> Result<(VmaId, Vec<Piece>)> {
    match &mut answer.reply {
        Reply::Mapped { vma, pieces } => Ok((*vma, std::mem::take(pieces))),
        _ => Err(answer.unexpected()),
    }
}

/// Maps pieces next to each other: one descriptor came for each distinct (run, access), in order
/// of first appearance. The descriptors close here: the mapping keeps the memory.
///
/// # Errors
/// [`Error::HostGone`]: a descriptor is missing. ENOMEM.
pub fn map_pieces(answer: &mut Answer, pieces: &[Piece], access: Access) -> Result<SharedPages> {
    let mut order: Vec<(RunId, Access)> = Vec::new();
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut places = Vec::with_capacity(pieces.len());
    let mut known = std::collections::HashMap::new();
    for piece in pieces {
        let key = (piece.run, piece.access);
        let place = match known.get(&key) {
            Some(&place) => place,
            None => {
                fds.push(answer.take_fd()?);
                order.push(key);
                known.insert(key, order.len() - 1);
                order.len() - 1
            }
        };
        places.push(place);
    }
    let parts: Vec<Part<'_>> = pieces
        .iter()
        .zip(places)
        .map(|(piece, place)| Part {
            fd: fds[place].as_fd(),
            first_page: piece.first_page as usize,
            pages: piece.pages as usize,
        })
        .collect();
    memory::map(&parts, access)
}
