//! `/dev/xen/gntdev`: mapping and copying other domains' grants (`drivers/xen/gntdev.c`, Linux 6.1).
//!
//! The driver answers ENOTTY to an ioctl it does not know and EFAULT to an address it cannot use;
//! the rest is with each call. `grant_copy` is in `copy`, the dma-buf calls are in `dmabuf`.

use super::device::{Device, MAX_PAGES};
use super::ioctl::{Call, Kernel, Syscalls};
use super::{abi, copy, dmabuf};
use crate::error::Result;
use crate::platform::{CopySegment, Gntdev};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, ForeignGrant, GrantRef, UnmapNotify};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::mem::offset_of;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The node.
pub const NODE: &str = "/dev/xen/gntdev";

/// An open `/dev/xen/gntdev`. Maps belong to the open file; a mapping keeps the file open, so
/// closing it before `munmap` gives nothing back.
#[derive(Debug)]
pub struct LinuxGntdev<K: Kernel = Syscalls> {
    pub(super) device: Device<K>,
}

impl LinuxGntdev {
    /// Opens the node below `root` (`/` on a real system).
    ///
    /// # Errors
    /// [`Error::NotAvailable`](crate::Error::NotAvailable).
    pub(super) fn open(root: &Path) -> Result<Self> {
        Device::open(root, NODE, "xen-gntdev", OFlags::empty()).map(|device| Self { device })
    }
}

impl<K: Kernel> Gntdev for LinuxGntdev<K> {
    /// `ioctl(fd, IOCTL_GNTDEV_MAP_GRANT_REF, struct ioctl_gntdev_map_grant_ref *)`,
    /// `gntdev_ioctl_map_grant_ref`. No hypercall is made yet, so a bad reference shows at mmap.
    ///
    /// # Errors
    /// EINVAL: no grant, or more than `xen_gntdev.limit` (65536 a call; in older drivers a sum
    /// over all callers). ENOMEM.
    fn map_grant_ref(&self, grants: &[ForeignGrant]) -> Result<u64> {
        let detail = |errno| {
            let limit = match errno {
                Errno::INVAL => {
                    "; one call takes 1 to /sys/module/xen_gntdev/parameters/limit grants"
                }
                _ => "",
            };
            format!("{}{limit}", describe(grants))
        };
        if grants.len() > MAX_PAGES {
            let (name, errno) = ("IOCTL_GNTDEV_MAP_GRANT_REF", Errno::INVAL);
            return Err(self.device.error(name, errno, detail(errno)));
        }
        let mut call = Call::map_grant_ref(grants);
        self.device.call(&mut call, detail)?;
        Ok(call.get_u64(offset_of!(abi::GntdevMapGrantRef, index)))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.fd())
    }

    /// `mmap(NULL, pages * 4096, PROT_READ [| PROT_WRITE], MAP_SHARED, fd, index)`,
    /// `gntdev_mmap`: the hypercall. After a failure the range is still reserved, cannot be mapped
    /// again, and must be given back with [`Gntdev::unmap_grant_ref`].
    ///
    /// # Errors
    /// EINVAL: a grant is bad, the range is not exactly one reserved one, or it was mapped
    /// before. EAGAIN: Linux 5.19 to 6.0.3 has not yet finished an earlier unmap; try again. A
    /// granter that is paged out can hold the call for about 32 seconds.
    fn mmap(&self, index: u64, pages: usize, access: Access) -> Result<SharedPages> {
        self.device.mmap(index, pages, access, |errno| {
            let why = match errno {
                Errno::INVAL => {
                    ": a grant is bad or not for this access, or the range is not one reserved \
                     whole, or was mapped before"
                }
                Errno::AGAIN => ": an earlier unmap of the range is not finished; try again",
                _ => "",
            };
            format!("{pages} pages at index {index:#x}{why}")
        })
    }

    /// `ioctl(fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, struct ioctl_gntdev_unmap_grant_ref *)`,
    /// `gntdev_ioctl_unmap_grant_ref`. Drops the file's reference to the map. The hypervisor's
    /// unmap follows when nobody has the range mapped and nobody holds its pages (before Linux
    /// 5.19 the call itself waited for that, uninterruptibly).
    ///
    /// # Errors
    /// ENOENT: no such range, or not its whole length.
    fn unmap_grant_ref(&self, index: u64, pages: usize) -> Result<()> {
        let count = self
            .device
            .page_count("IOCTL_GNTDEV_UNMAP_GRANT_REF", pages)?;
        self.device
            .call(&mut Call::unmap_grant_ref(index, count), |_| {
                format!("{pages} pages at index {index:#x}")
            })
            .map(drop)
    }

    /// `ioctl(fd, IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR, struct ioctl_gntdev_get_offset_for_vaddr *)`,
    /// `gntdev_ioctl_get_offset_for_vaddr`. Any address of the mapping will do; the count is the
    /// whole map's.
    ///
    /// # Errors
    /// EINVAL: nothing of gntdev is mapped there. (The driver takes the next mapping above an
    /// unmapped address.)
    fn offset_for_vaddr(&self, address: usize) -> Result<(u64, usize)> {
        type Arg = abi::GntdevGetOffsetForVaddr;
        let mut call = Call::get_offset_for_vaddr(address as u64);
        self.device
            .call(&mut call, |_| format!("address {address:#x}"))?;
        let count = call.get_u32(offset_of!(Arg, count));
        Ok((call.get_u64(offset_of!(Arg, offset)), count as usize))
    }

    /// `ioctl(fd, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, struct ioctl_gntdev_unmap_notify *)`,
    /// `gntdev_ioctl_notify`. One notify a map; a second call replaces it, and no action clears it.
    ///
    /// # Errors
    /// ENOENT: no such range. EINVAL: the byte of a read-only map, or a port that is not open
    /// through an evtchn file. Before the range is mapped, the driver does not know that it will
    /// be read-only: arm it after mmap.
    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()> {
        self.device
            .set_unmap_notify("IOCTL_GNTDEV_SET_UNMAP_NOTIFY", offset, notify)
    }

    /// `ioctl(fd, IOCTL_GNTDEV_SET_MAX_GRANTS, struct ioctl_gntdev_set_max_grants *)`. In the
    /// header, but not in current drivers: the limit is a module parameter.
    ///
    /// # Errors
    /// ENOTTY, to be ignored.
    fn set_max_grants(&self, count: u32) -> Result<()> {
        let detail =
            |_| format!("{count} grants; the limit is /sys/module/xen_gntdev/parameters/limit");
        self.device
            .call(&mut Call::set_max_grants(count), detail)
            .map(drop)
    }

    /// `ioctl(fd, IOCTL_GNTDEV_GRANT_COPY, struct ioctl_gntdev_grant_copy *)`,
    /// `gntdev_ioctl_grant_copy`. The statuses count only after success; after an error earlier
    /// segments may have been copied.
    ///
    /// # Errors
    /// EINVAL: both sides local, or a grant side past its page. EFAULT: a local side outside its
    /// pages, or a destination that is mapped read-only (both refused before the call), or pages
    /// that the kernel cannot pin. ENOMEM.
    fn grant_copy(&self, segments: &mut [CopySegment<'_>]) -> Result<()> {
        copy::grant_copy(&self.device, segments)
    }

    fn dmabuf_export(&self, domid: DomId, grefs: &[GrantRef], flags: u32) -> Result<OwnedFd> {
        dmabuf::export(&self.device, domid, grefs, flags)
    }

    fn dmabuf_wait_released(&self, dmabuf: BorrowedFd<'_>, wait: Duration) -> Result<()> {
        dmabuf::wait_released(&self.device, dmabuf, wait)
    }

    fn dmabuf_import(
        &self,
        domid: DomId,
        dmabuf: BorrowedFd<'_>,
        pages: usize,
    ) -> Result<Vec<GrantRef>> {
        dmabuf::import(&self.device, domid, dmabuf, pages)
    }

    fn dmabuf_import_release(&self, dmabuf: BorrowedFd<'_>) -> Result<()> {
        dmabuf::import_release(&self.device, dmabuf)
    }
}

fn describe(grants: &[ForeignGrant]) -> String {
    match grants {
        [] => "no grants".to_owned(),
        [one] => one.to_string(),
        [first, ..] => format!("{} grants, the first {first}", grants.len()),
    }
}
