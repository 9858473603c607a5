//! Holders: what is a GPU driver on a real kernel. The simulated memory manager lets anybody hold
//! references to pages of another process's mapping.

use super::connection::lock;
use super::mmap::{map_pieces, pieces};
use super::names::MEMORY_MANAGER;
use super::platform::SimPlatform;
use crate::error::{Error, Result};
use crate::shm::SharedPages;
use crate::sim::wire::{HoldId, HoldKind, Reply, Request};
use crate::types::{Access, PAGE_SIZE};
use rustix::io::Errno;

impl SimPlatform {
    /// Takes a reference to each of these pages of the caller's mapping (get_user_pages), for
    /// somebody else to [`SimPlatform::attach`] to. If the caller dies first, they are dropped.
    ///
    /// # Errors
    /// EFAULT: the range is not mapped from gntdev. EINVAL: empty.
    pub fn pin(
        &self,
        pages: &SharedPages,
        first_page: usize,
        count: usize,
        kind: HoldKind,
    ) -> Result<HoldId> {
        let refuse = |errno, detail: &str| {
            Err(Error::device(
                MEMORY_MANAGER,
                "pin",
                errno,
                format!("{count} pages: {detail}"),
            ))
        };
        if count == 0 {
            return refuse(Errno::INVAL, "nothing to pin");
        }
        if first_page > pages.pages() || count > pages.pages() - first_page {
            return refuse(Errno::FAULT, "outside the mapping");
        }
        let address = pages.address() + first_page * PAGE_SIZE;
        let Some((start, mapping)) = lock(&self.client.mappings).at(address) else {
            return refuse(Errno::FAULT, "not mapped from gntdev");
        };
        let place = |page: usize| {
            u32::try_from(page).map_err(|_| Error::device(MEMORY_MANAGER, "pin", Errno::FAULT, ""))
        };
        let request = Request::Pin {
            vma: mapping.vma,
            first_page: place((address - start) / PAGE_SIZE)?,
            pages: place(count)?,
            kind,
        };
        let answer = self.client.call(MEMORY_MANAGER, "pin", request)?;
        match answer.reply {
            Reply::Hold { hold } => Ok(hold),
            _ => Err(answer.unexpected()),
        }
    }

    /// Takes over a hold and maps its live pages, read-only.
    ///
    /// # Errors
    /// ENOENT: no such hold. EBUSY: somebody has it already.
    pub fn attach(&self, hold: HoldId) -> Result<SharedPages> {
        let mut answer =
            self.client
                .call(MEMORY_MANAGER, "attach", Request::HoldAttach { hold })?;
        let (_, pieces) = pieces(&mut answer)?;
        map_pieces(&mut answer, &pieces, Access::ReadOnly)
    }

    /// Drops the references. With [`HoldKind::I915`] this waits while an invalidation runs.
    ///
    /// # Errors
    /// ENOENT: not the caller's. [`Error::Deadlock`] if the wait could never end.
    pub fn release(&self, hold: HoldId) -> Result<()> {
        let request = Request::HoldRelease { hold };
        self.client
            .call_memory_manager(MEMORY_MANAGER, "release", request)?
            .done()
    }
}
