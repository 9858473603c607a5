//! `/dev/xen/gntdev`, simulated.

use super::connection::{Client, lock};
use super::copy::CopyPages;
use super::mmap::{map, page_count};
use super::names::GNTDEV;
use crate::error::{Error, Result};
use crate::platform::{CopySegment, Gntdev};
use crate::shm::SharedPages;
use crate::sim::wire::{FileId, Reply, Request};
use crate::types::{Access, DomId, ForeignGrant, GrantRef, UnmapNotify};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// An open file. Closed on drop, which never blocks.
#[derive(Debug)]
pub struct SimGntdev {
    client: Arc<Client>,
    file: FileId,
    copy_pages: CopyPages,
}

impl SimGntdev {
    pub fn new(client: Arc<Client>, file: FileId) -> Self {
        SimGntdev {
            client,
            file,
            copy_pages: CopyPages::default(),
        }
    }

    /// As a kernel without CONFIG_XEN_GNTDEV_DMABUF.
    fn no_dmabuf<T>(operation: &'static str) -> Result<T> {
        let detail = "the simulated Xen has no dma-buf";
        Err(Error::device(GNTDEV, operation, Errno::NOTTY, detail))
    }
}

impl Gntdev for SimGntdev {
    fn map_grant_ref(&self, grants: &[ForeignGrant]) -> Result<u64> {
        let request = Request::MapGrantRef {
            file: self.file,
            grants: grants.to_vec(),
        };
        let answer = self.client.call(GNTDEV, "MAP_GRANT_REF", request)?;
        match answer.reply {
            Reply::Index { index } => Ok(index),
            _ => Err(answer.unexpected()),
        }
    }

    fn mmap(&self, index: u64, pages: usize, access: Access) -> Result<SharedPages> {
        map(&self.client, GNTDEV, self.file, index, pages, access)
    }

    fn unmap_grant_ref(&self, index: u64, pages: usize) -> Result<()> {
        const OPERATION: &str = "UNMAP_GRANT_REF";
        let pages = page_count(GNTDEV, OPERATION, pages)?;
        let request = Request::UnmapGrantRef {
            file: self.file,
            index,
            pages,
        };
        self.client
            .call_memory_manager(GNTDEV, OPERATION, request)?
            .done()
    }

    fn offset_for_vaddr(&self, address: usize) -> Result<(u64, usize)> {
        match lock(&self.client.mappings).at(address) {
            Some((_, mapping)) if mapping.foreign => Ok((mapping.index, mapping.pages)),
            _ => {
                let detail = format!("{address:#x} is in no mapping of gntdev");
                Err(Error::device(
                    GNTDEV,
                    "GET_OFFSET_FOR_VADDR",
                    Errno::INVAL,
                    detail,
                ))
            }
        }
    }

    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()> {
        let request = Request::SetUnmapNotify {
            file: self.file,
            offset,
            notify,
        };
        self.client
            .call(GNTDEV, "SET_UNMAP_NOTIFY", request)?
            .done()
    }

    fn set_max_grants(&self, count: u32) -> Result<()> {
        let detail = format!("{count} grants: current kernels have a module parameter instead");
        Err(Error::device(
            GNTDEV,
            "SET_MAX_GRANTS",
            Errno::NOTTY,
            detail,
        ))
    }

    fn grant_copy(&self, segments: &mut [CopySegment<'_>]) -> Result<()> {
        self.copy_pages.copy(&self.client, self.file, segments)
    }

    fn dmabuf_export(&self, _: DomId, _: &[GrantRef], _: u32) -> Result<OwnedFd> {
        Self::no_dmabuf("DMABUF_EXP_FROM_REFS")
    }

    fn dmabuf_wait_released(&self, _: BorrowedFd<'_>, _: Duration) -> Result<()> {
        Self::no_dmabuf("DMABUF_EXP_WAIT_RELEASED")
    }

    fn dmabuf_import(&self, _: DomId, _: BorrowedFd<'_>, _: usize) -> Result<Vec<GrantRef>> {
        Self::no_dmabuf("DMABUF_IMP_TO_REFS")
    }

    fn dmabuf_import_release(&self, _: BorrowedFd<'_>) -> Result<()> {
        Self::no_dmabuf("DMABUF_IMP_RELEASE")
    }
}

impl Drop for SimGntdev {
    fn drop(&mut self) {
        self.client.tell(Request::Close { file: self.file });
    }
}
