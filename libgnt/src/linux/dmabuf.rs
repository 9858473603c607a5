//! gntdev's dma-buf calls (`drivers/xen/gntdev-dmabuf.c`, Linux 6.1).
//!
//! All answer ENOTTY where the kernel was built without `CONFIG_XEN_GNTDEV_DMABUF` (Debian's; Qubes
//! has it), and EINVAL on PV guests before anything else. On x86 HVM and PVH the hypervisor refuses
//! the device map that an export needs, so exporting works on Arm only.
#![allow(
    unsafe_code,
    reason = "takes over a descriptor that the driver installed"
)]

use super::abi;
use super::device::{Device, MAX_PAGES};
use super::ioctl::{Call, Kernel};
use crate::error::Result;
use crate::types::{DomId, GrantRef};
use rustix::io::Errno;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// `ioctl(fd, IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS, struct ioctl_gntdev_dmabuf_exp_from_refs *)`:
/// maps the grants and wraps them as a dma-buf, close-on-exec.
///
/// # Errors
/// EINVAL: no grants or over the limit, write-combined and coherent together, a grant is bad, or
/// a PV guest. ENOMEM, EMFILE. ENOTTY.
pub(super) fn export<K: Kernel>(
    device: &Device<K>,
    domid: DomId,
    grefs: &[GrantRef],
    flags: u32,
) -> Result<OwnedFd> {
    type Arg = abi::GntdevDmabufExpFromRefs;
    const OPERATION: &str = "IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS";
    let what = || format!("{} grants of {domid}", grefs.len());
    if grefs.len() > MAX_PAGES {
        return Err(device.error(OPERATION, Errno::INVAL, what()));
    }
    let mut call = Call::dmabuf_exp_from_refs(domid.0, flags, grefs);
    device.call(&mut call, |errno| explain(errno, what()))?;
    match RawFd::try_from(call.get_u32(offset_of!(Arg, fd))) {
        // SAFETY: the driver has just installed this descriptor in our table, for us.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(_) => Err(device.error(OPERATION, Errno::BADF, "success, but no descriptor")),
    }
}

/// `ioctl(fd, IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED, struct ioctl_gntdev_dmabuf_exp_wait_released *)`.
/// Waits in the kernel, where no signal ends it before its time; rounded up to a millisecond.
/// The driver knows the buffer by descriptor number: it must be the one that [`export`] gave.
///
/// # Errors
/// ENOENT: no such buffer, or it is released already. ETIMEDOUT. ENOMEM. ENOTTY.
pub(super) fn wait_released<K: Kernel>(
    device: &Device<K>,
    dmabuf: BorrowedFd<'_>,
    wait: Duration,
) -> Result<()> {
    let ms = u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
    let mut call = Call::dmabuf_exp_wait_released(number(dmabuf), ms);
    device
        .call(&mut call, |errno| {
            explain(errno, format!("descriptor {}, {ms} ms", number(dmabuf)))
        })
        .map(drop)
}

/// `ioctl(fd, IOCTL_GNTDEV_DMABUF_IMP_TO_REFS, struct ioctl_gntdev_dmabuf_imp_to_refs *)`: grants
/// every page of the buffer, writable.
///
/// # Errors
/// EINVAL: no pages or over the limit, the buffer is not exactly `pages` long or does not begin at
/// a page, it is no dma-buf, or a PV guest. ENOSPC: the grant table is full. ENOMEM. ENOTTY.
pub(super) fn import<K: Kernel>(
    device: &Device<K>,
    domid: DomId,
    dmabuf: BorrowedFd<'_>,
    pages: usize,
) -> Result<Vec<GrantRef>> {
    let count = device.page_count("IOCTL_GNTDEV_DMABUF_IMP_TO_REFS", pages)?;
    let mut call = Call::dmabuf_imp_to_refs(number(dmabuf), domid.0, count);
    device.call(&mut call, |errno| {
        explain(
            errno,
            format!("descriptor {}, {pages} pages, for {domid}", number(dmabuf)),
        )
    })?;
    let refs = offset_of!(abi::GntdevDmabufImpToRefs, refs);
    Ok(call.get_u32s(refs, count).map(GrantRef).collect())
}

/// `ioctl(fd, IOCTL_GNTDEV_DMABUF_IMP_RELEASE, struct ioctl_gntdev_dmabuf_imp_release *)`: ends the
/// grants (the kernel defers those that the peer still maps) and lets the buffer go.
///
/// # Errors
/// ENOENT: not imported through this file. ENOTTY.
pub(super) fn import_release<K: Kernel>(device: &Device<K>, dmabuf: BorrowedFd<'_>) -> Result<()> {
    device
        .call(&mut Call::dmabuf_imp_release(number(dmabuf)), |errno| {
            explain(errno, format!("descriptor {}", number(dmabuf)))
        })
        .map(drop)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn explain(errno: Errno, what: String) -> String {
    match errno {
        Errno::NOTTY => {
            format!("{what}: needs a kernel with CONFIG_XEN_GNTDEV_DMABUF, which this one lacks")
        }
        Errno::INVAL => format!("{what}: PV guests cannot, nor can bad grants or sizes"),
        _ => what,
    }
}
