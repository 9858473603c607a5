//! `/dev/xen/gntalloc`: granting pages of our own (`drivers/xen/gntalloc.c`, Linux 6.1).
//!
//! The driver answers ENOTTY to an ioctl it does not know; the rest is with each call.

use super::abi;
use super::device::Device;
use super::ioctl::{Call, Kernel, Syscalls};
use crate::error::Result;
use crate::platform::{AllocatedGrants, Gntalloc};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, GrantRef, UnmapNotify};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::mem::offset_of;
use std::path::Path;

/// The node.
pub const NODE: &str = "/dev/xen/gntalloc";

/// An open `/dev/xen/gntalloc`. Runs belong to the open file; what is not deallocated goes when
/// the file is closed and nothing maps it.
#[derive(Debug)]
pub struct LinuxGntalloc<K: Kernel = Syscalls> {
    pub(super) device: Device<K>,
}

impl LinuxGntalloc {
    /// Opens the node below `root` (`/` on a real system).
    ///
    /// # Errors
    /// [`Error::NotAvailable`](crate::Error::NotAvailable).
    pub(super) fn open(root: &Path) -> Result<Self> {
        Device::open(root, NODE, "xen-gntalloc", OFlags::empty()).map(|device| Self { device })
    }
}

impl<K: Kernel> Gntalloc for LinuxGntalloc<K> {
    /// `ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, struct ioctl_gntalloc_alloc_gref *)`,
    /// `gntalloc_ioctl_alloc`.
    ///
    /// # Errors
    /// ENOSPC: over `xen_gntalloc.limit` (1024 pages, for the whole machine), or the grant table
    /// is full. ENOMEM. EINVAL: no pages (refused before the call: the driver would take it).
    fn alloc_gref(&self, peer: DomId, pages: usize, access: Access) -> Result<AllocatedGrants> {
        type Arg = abi::GntallocAllocGref;
        const OPERATION: &str = "IOCTL_GNTALLOC_ALLOC_GREF";
        let count = self.device.page_count(OPERATION, pages)?;
        if count == 0 {
            return Err(self
                .device
                .error(OPERATION, Errno::INVAL, format!("0 pages for {peer}")));
        }
        let flags = if access.writable() {
            abi::GNTALLOC_FLAG_WRITABLE
        } else {
            0
        };
        let mut call = Call::alloc_gref(peer.0, flags, count);
        self.device.call(&mut call, |errno| {
            let why = match errno {
                Errno::NOSPC => {
                    ": over the machine-wide limit in /sys/module/xen_gntalloc/parameters/limit, \
                     which root can raise, or this domain's grant table is full"
                }
                _ => "",
            };
            format!("{pages} pages for {peer}{why}")
        })?;
        Ok(AllocatedGrants {
            index: call.get_u64(offset_of!(Arg, index)),
            grefs: call
                .get_u32s(offset_of!(Arg, gref_ids), count)
                .map(GrantRef)
                .collect(),
        })
    }

    /// `mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, index)`, `gntalloc_mmap`.
    ///
    /// # Errors
    /// ENOENT: no such run in this file.
    fn mmap(&self, index: u64, pages: usize) -> Result<SharedPages> {
        self.device.mmap(index, pages, Access::ReadWrite, |_| {
            format!("{pages} pages at index {index:#x}")
        })
    }

    /// `ioctl(fd, IOCTL_GNTALLOC_DEALLOC_GREF, struct ioctl_gntalloc_dealloc_gref *)`,
    /// `gntalloc_ioctl_dealloc`. Success never means that the peer let go: the kernel keeps a page
    /// that is still mapped on a deferred list, and credits the limit at once.
    ///
    /// # Errors
    /// EINVAL: no such run in this file.
    fn dealloc_gref(&self, index: u64, pages: usize) -> Result<()> {
        let count = self
            .device
            .page_count("IOCTL_GNTALLOC_DEALLOC_GREF", pages)?;
        self.device
            .call(&mut Call::dealloc_gref(index, count), |_| {
                format!("{pages} pages at index {index:#x}")
            })
            .map(drop)
    }

    /// `ioctl(fd, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, struct ioctl_gntalloc_unmap_notify *)`,
    /// `gntalloc_ioctl_unmap_notify`. One notify a page; it acts when the page has neither file nor
    /// mapping, whoever still maps it on the other side.
    ///
    /// # Errors
    /// ENOENT: no such page. EINVAL: a port that is not open through an evtchn file.
    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()> {
        self.device
            .set_unmap_notify("IOCTL_GNTALLOC_SET_UNMAP_NOTIFY", offset, notify)
    }
}
