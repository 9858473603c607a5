//! The seam between the library and what is below it: the three Xen devices of Linux, one trait
//! each, as narrow as their ioctls. `linux` performs them; `sim` plays them.
//!
//! Callers use [`crate::grant`], [`crate::event`] and [`crate::ring`] instead: everything there is
//! written once, on these traits. The rules and errnos of each call are the drivers'
//! (`drivers/xen/gntdev.c`, `gntalloc.c`, `evtchn.c`, Linux 5.10 to 6.12).

use crate::error::Result;
use crate::shm::SharedPages;
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, GrantStatus, UnmapNotify};
use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// What kind of guest the kernel below is (`/sys/hypervisor/guest_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum GuestType {
    /// Paravirtualised: a deferred unmap damages the kernel there, so nobody should hold references.
    Pv,
    /// PVH: hardware page tables; deferral is safe.
    Pvh,
    /// HVM: as PVH.
    Hvm,
}

/// One Xen domain's view of grants, events and xenstore.
pub trait Platform: Send + Sync + fmt::Debug {
    /// `linux` or `sim:DIR`, for messages and reports.
    fn name(&self) -> String;

    /// Where this domain's programs keep what has to outlive them, but not the domain: `/run` on a
    /// real Xen. A simulated one has a place for each domain beside its socket.
    fn run_dir(&self) -> PathBuf;

    /// The guest type.
    ///
    /// # Errors
    /// Where the kernel does not say.
    fn guest_type(&self) -> Result<GuestType>;

    /// Opens `/dev/xen/gntdev`.
    ///
    /// # Errors
    /// [`Error::NotAvailable`](crate::Error::NotAvailable) naming the node, the cause and the cure.
    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>>;

    /// Opens `/dev/xen/gntalloc`.
    ///
    /// # Errors
    /// As [`Platform::open_gntdev`].
    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>>;

    /// Opens `/dev/xen/evtchn`.
    ///
    /// # Errors
    /// As [`Platform::open_gntdev`].
    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>>;

    /// Opens a byte stream that speaks xenstore's wire protocol (`xen/include/public/io/xs_wire.h`)
    /// with this domain's rights: `/dev/xen/xenbus`, or the daemon's socket in dom0.
    ///
    /// # Errors
    /// As [`Platform::open_gntdev`].
    fn open_xenstore(&self) -> Result<OwnedFd>;

    /// Which of our own grants the hypervisor shows as in use by the peer, where that can be seen.
    /// A real kernel keeps it to itself (`None`): gntalloc's calls succeed while the peer still maps.
    ///
    /// # Errors
    /// [`Error::HostGone`](crate::Error::HostGone).
    fn grants_in_use(&self, grefs: &[GrantRef]) -> Result<Option<Vec<GrantRef>>>;

    /// Who, besides the mapper itself, holds references to pages of these grants that this domain
    /// mapped, where that can be seen. A real kernel does not say (empty).
    ///
    /// # Errors
    /// [`Error::HostGone`](crate::Error::HostGone).
    fn holders(&self, grants: &[ForeignGrant]) -> Result<Vec<Holder>> {
        let _ = grants;
        Ok(Vec::new())
    }

    /// What this platform can do and the seam does not know, for who knows the platform behind it:
    /// the simulated Xen gives its `SimPlatform`, a real one nothing. A platform that wraps another
    /// passes on what that one gives.
    fn extension(&self) -> Option<&dyn Any> {
        None
    }
}

/// `/dev/xen/gntdev`: map grants of other domains.
pub trait Gntdev: Send + Sync + fmt::Debug {
    /// `IOCTL_GNTDEV_MAP_GRANT_REF`: reserves a range, checks no grant yet. Returns the index: a
    /// byte offset for [`Gntdev::mmap`].
    ///
    /// # Errors
    /// EINVAL if there are none or more than the limit (65536); ENOMEM.
    fn map_grant_ref(&self, grants: &[ForeignGrant]) -> Result<u64>;

    /// The open device, for what this library does not wrap; `None`: no device of a kernel's.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// `mmap` of a whole reserved range, once: the grants are mapped here.
    ///
    /// # Errors
    /// EINVAL if one grant is bad (not saying which), the range is not exactly one reserved
    /// range, or it was mapped before.
    fn mmap(&self, index: u64, pages: usize, access: Access) -> Result<SharedPages>;

    /// `IOCTL_GNTDEV_UNMAP_GRANT_REF`: gives the range back. Never waits; succeeds while still mmapped.
    ///
    /// # Errors
    /// ENOENT if there is no such range.
    fn unmap_grant_ref(&self, index: u64, pages: usize) -> Result<()>;

    /// `IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR`: the index and page count of the map at an address.
    ///
    /// # Errors
    /// EINVAL if the address is in no mapping of gntdev, this file's or another's.
    fn offset_for_vaddr(&self, address: usize) -> Result<(u64, usize)>;

    /// `IOCTL_GNTDEV_SET_UNMAP_NOTIFY`; `offset` is the index plus the byte's place in the range.
    ///
    /// # Errors
    /// ENOENT: no such range. EINVAL: CLEAR_BYTE on a read-only map, or a port that is not ours.
    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()>;

    /// `IOCTL_GNTDEV_SET_MAX_GRANTS`.
    ///
    /// # Errors
    /// ENOTTY on current kernels, to be ignored.
    fn set_max_grants(&self, count: u32) -> Result<()>;

    /// `IOCTL_GNTDEV_GRANT_COPY`. Succeeds even when a segment failed: read every `status`.
    ///
    /// # Errors
    /// EINVAL: both sides local, or a grant side that leaves its page. Earlier segments may
    /// have been copied. A local side that is itself a mapped grant is a status, `BAD_PAGE`.
    fn grant_copy(&self, segments: &mut [CopySegment<'_>]) -> Result<()>;

    /// `IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS`.
    ///
    /// # Errors
    /// ENOTTY where the kernel has no CONFIG_XEN_GNTDEV_DMABUF (and on the simulator); EINVAL on PV.
    fn dmabuf_export(&self, domid: DomId, grefs: &[GrantRef], flags: u32) -> Result<OwnedFd>;

    /// `IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED`.
    ///
    /// # Errors
    /// ENOENT: no such buffer. ETIMEDOUT. ENOTTY as [`Gntdev::dmabuf_export`].
    fn dmabuf_wait_released(&self, dmabuf: BorrowedFd<'_>, wait: Duration) -> Result<()>;

    /// `IOCTL_GNTDEV_DMABUF_IMP_TO_REFS`: grants the pages of a dma-buf.
    ///
    /// # Errors
    /// EINVAL: the buffer is not exactly `pages` pages. ENOTTY as [`Gntdev::dmabuf_export`].
    fn dmabuf_import(
        &self,
        domid: DomId,
        dmabuf: BorrowedFd<'_>,
        pages: usize,
    ) -> Result<Vec<GrantRef>>;

    /// `IOCTL_GNTDEV_DMABUF_IMP_RELEASE`.
    ///
    /// # Errors
    /// ENOENT: no such buffer. ENOTTY as [`Gntdev::dmabuf_export`].
    fn dmabuf_import_release(&self, dmabuf: BorrowedFd<'_>) -> Result<()>;
}

/// One side of a grant copy.
#[derive(Clone, Copy, Debug)]
pub enum CopySide<'a> {
    /// A page that another domain granted.
    Grant {
        /// Whose, and which.
        grant: ForeignGrant,
        /// Byte in the page; with the length it must stay inside.
        offset: u16,
    },
    /// Memory of this process; may cross pages.
    Local {
        /// The pages.
        pages: &'a SharedPages,
        /// Byte in them.
        offset: usize,
    },
}

/// One segment of a grant copy (`struct gntdev_grant_copy_segment`).
#[derive(Clone, Copy, Debug)]
pub struct CopySegment<'a> {
    /// From.
    pub source: CopySide<'a>,
    /// To.
    pub dest: CopySide<'a>,
    /// Bytes, at most a page on a grant side.
    pub len: u16,
    /// Xen's verdict, after the call.
    pub status: GrantStatus,
}

/// Pages and references that gntalloc gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocatedGrants {
    /// Byte offset for [`Gntalloc::mmap`] and [`Gntalloc::dealloc_gref`].
    pub index: u64,
    /// One reference a page.
    pub grefs: Vec<GrantRef>,
}

/// `/dev/xen/gntalloc`: grant pages of our own.
pub trait Gntalloc: Send + Sync + fmt::Debug {
    /// `IOCTL_GNTALLOC_ALLOC_GREF`: allocates zeroed pages, granted to `peer` at once.
    ///
    /// # Errors
    /// ENOSPC: over `xen_gntalloc.limit` (global, 1024 pages by default), or the grant table is full. ENOMEM.
    fn alloc_gref(&self, peer: DomId, pages: usize, access: Access) -> Result<AllocatedGrants>;

    /// Maps a run, or a contiguous part of one, writable; may be done many times.
    ///
    /// # Errors
    /// ENOENT: no such run.
    fn mmap(&self, index: u64, pages: usize) -> Result<SharedPages>;

    /// `IOCTL_GNTALLOC_DEALLOC_GREF`. Succeeds while the peer still maps: the kernel keeps the
    /// page on a deferred list, and reuses neither it nor the reference before the peer lets go.
    ///
    /// # Errors
    /// EINVAL: no such run.
    fn dealloc_gref(&self, index: u64, pages: usize) -> Result<()>;

    /// `IOCTL_GNTALLOC_SET_UNMAP_NOTIFY`: acts when this side's run goes (close or death included).
    ///
    /// # Errors
    /// ENOENT: no such run. EINVAL: bad port.
    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()>;
}

/// `/dev/xen/evtchn`: event channels. The descriptor polls readable while events wait.
///
/// A port is masked when it is delivered, until [`Evtchn::unmask`]: unmask after the work, not before.
pub trait Evtchn: Send + Sync + fmt::Debug + AsFd {
    /// `IOCTL_EVTCHN_BIND_UNBOUND_PORT`: a new port that `remote` may bind to.
    ///
    /// # Errors
    /// ENOSPC: no free port. EACCES: the file is restricted, to whatever domain.
    fn bind_unbound(&self, remote: DomId) -> Result<EvtchnPort>;

    /// `IOCTL_EVTCHN_BIND_INTERDOMAIN`: a new local port, connected to the remote's unbound one.
    ///
    /// # Errors
    /// EINVAL: the remote port is not unbound for us. ESRCH: no such domain. EACCES: restricted.
    fn bind_interdomain(&self, remote: DomId, port: EvtchnPort) -> Result<EvtchnPort>;

    /// `IOCTL_EVTCHN_BIND_VIRQ` (`VIRQ_*`, `xen/include/public/xen.h`).
    ///
    /// # Errors
    /// EEXIST: bound already. EINVAL: no such VIRQ. EACCES: restricted.
    fn bind_virq(&self, virq: u32) -> Result<EvtchnPort>;

    /// `IOCTL_EVTCHN_UNBIND`.
    ///
    /// # Errors
    /// ENOTCONN: not a port of this descriptor. EINVAL: out of range.
    fn unbind(&self, port: EvtchnPort) -> Result<()>;

    /// `IOCTL_EVTCHN_NOTIFY`: raises the remote's port. Silent when the peer is gone.
    ///
    /// # Errors
    /// ENOTCONN: not a port of this descriptor.
    fn notify(&self, port: EvtchnPort) -> Result<()>;

    /// Reads pending ports into `ports` without blocking; they are masked now. Returns how many came.
    ///
    /// # Errors
    /// EFBIG after an overflow of the kernel's queue: [`Evtchn::reset`] recovers.
    fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize>;

    /// Writes ports back: they may be delivered again. Unknown ports are ignored.
    ///
    /// # Errors
    /// What write says.
    fn unmask(&self, ports: &[EvtchnPort]) -> Result<()>;

    /// `IOCTL_EVTCHN_RESET`: empties the queue and clears an overflow.
    ///
    /// # Errors
    /// None known.
    fn reset(&self) -> Result<()>;

    /// `IOCTL_EVTCHN_RESTRICT_DOMID`: from now on only channels with this domain, for ever.
    ///
    /// # Errors
    /// EACCES: restricted already.
    fn restrict(&self, remote: DomId) -> Result<()>;
}

/// Somebody who holds references to the page behind a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Holder {
    /// The grant.
    pub grant: ForeignGrant,
    /// The process, as it named itself.
    pub process: String,
    /// Its pid.
    pub pid: u32,
}
