//! `/dev/xen/gntalloc`, simulated.

use super::connection::Client;
use super::mmap::{map, page_count};
use super::names::GNTALLOC;
use crate::error::Result;
use crate::platform::{AllocatedGrants, Gntalloc};
use crate::shm::SharedPages;
use crate::sim::wire::{FileId, Reply, Request};
use crate::types::{Access, DomId, UnmapNotify};
use std::sync::Arc;

/// An open file. Closed on drop, which never blocks.
#[derive(Debug)]
pub struct SimGntalloc {
    client: Arc<Client>,
    file: FileId,
}

impl SimGntalloc {
    pub fn new(client: Arc<Client>, file: FileId) -> Self {
        SimGntalloc { client, file }
    }
}

impl Gntalloc for SimGntalloc {
    fn alloc_gref(&self, peer: DomId, pages: usize, access: Access) -> Result<AllocatedGrants> {
        const OPERATION: &str = "ALLOC_GREF";
        let pages = page_count(GNTALLOC, OPERATION, pages)?;
        let request = Request::AllocGref {
            file: self.file,
            peer,
            access,
            pages,
        };
        let answer = self.client.call(GNTALLOC, OPERATION, request)?;
        match answer.reply {
            Reply::Allocated { index, grefs } => Ok(AllocatedGrants { index, grefs }),
            _ => Err(answer.unexpected()),
        }
    }

    fn mmap(&self, index: u64, pages: usize) -> Result<SharedPages> {
        map(
            &self.client,
            GNTALLOC,
            self.file,
            index,
            pages,
            Access::ReadWrite,
        )
    }

    fn dealloc_gref(&self, index: u64, pages: usize) -> Result<()> {
        const OPERATION: &str = "DEALLOC_GREF";
        let pages = page_count(GNTALLOC, OPERATION, pages)?;
        let request = Request::DeallocGref {
            file: self.file,
            index,
            pages,
        };
        self.client.call(GNTALLOC, OPERATION, request)?.done()
    }

    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()> {
        let request = Request::SetUnmapNotify {
            file: self.file,
            offset,
            notify,
        };
        self.client
            .call(GNTALLOC, "SET_UNMAP_NOTIFY", request)?
            .done()
    }
}

impl Drop for SimGntalloc {
    fn drop(&mut self) {
        self.client.tell(Request::Close { file: self.file });
    }
}
