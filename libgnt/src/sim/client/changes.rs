//! What a process does to a mapping with system calls of its own. A kernel sees that by itself, the
//! simulated one must be told.

use super::connection::lock;
use super::mmap::page_count;
use super::names::MEMORY_MANAGER;
use super::platform::SimPlatform;
use crate::error::{Error, Result};
use crate::platform::GuestType;
use crate::shm::SharedPages;
use crate::sim::memory::take_away;
use crate::sim::wire::{Request, VmaId};
use crate::types::PAGE_SIZE;
use rustix::io::Errno;

impl SimPlatform {
    /// The protection of some pages of a gntdev mapping was changed. On PV they are unmapped by
    /// that (`gntdev_invalidate`), and nothing brings them back.
    ///
    /// # Errors
    /// EFAULT: not mapped from a device. [`Error::Deadlock`] in the `sync` mode.
    pub fn protected(&self, pages: &SharedPages, first: usize, count: usize) -> Result<()> {
        self.tell(pages, first, count, |vma, first_page, pages| {
            Request::Invalidate {
                vma,
                first_page,
                pages,
            }
        })?;
        match self.client.guest_type() {
            GuestType::Pv => take_away(pages, first, count),
            GuestType::Pvh | GuestType::Hvm => Ok(()),
        }
    }

    /// `MADV_DONTNEED` was called for some pages of a gntdev mapping: there is no fault handler to
    /// bring them back (`gntdev_vmops`). On PV they are unmapped by that.
    ///
    /// # Errors
    /// As [`SimPlatform::protected`].
    pub fn dropped(&self, pages: &SharedPages, first: usize, count: usize) -> Result<()> {
        self.protected(pages, first, count)?;
        take_away(pages, first, count)
    }

    /// Some pages of a mapping were unmapped, and the rest is still there.
    ///
    /// # Errors
    /// As [`SimPlatform::protected`].
    pub fn cut(&self, pages: &SharedPages, first: usize, count: usize) -> Result<()> {
        self.tell(pages, first, count, |vma, first_page, pages| {
            Request::Munmap {
                vma,
                first_page,
                pages,
            }
        })
    }

    fn tell(
        &self,
        pages: &SharedPages,
        first: usize,
        count: usize,
        request: impl FnOnce(VmaId, u32, u32) -> Request,
    ) -> Result<()> {
        const OPERATION: &str = "change a mapping";
        let at = pages.address() + first * PAGE_SIZE;
        let Some((start, mapping)) = lock(&self.client.mappings).at(at) else {
            let detail = format!("{at:#x} is not mapped from a device");
            return Err(Error::device(
                MEMORY_MANAGER,
                OPERATION,
                Errno::FAULT,
                detail,
            ));
        };
        let first = page_count(MEMORY_MANAGER, OPERATION, (at - start) / PAGE_SIZE)?;
        let count = page_count(MEMORY_MANAGER, OPERATION, count)?;
        let request = request(mapping.vma, first, count);
        self.client
            .call_memory_manager(MEMORY_MANAGER, OPERATION, request)?
            .done()
    }
}
