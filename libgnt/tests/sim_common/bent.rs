//! The simulated Xen's devices, bent: calls that fail on demand, and are counted.

use libgnt::platform::{CopySegment, CopySide, Evtchn, Gntalloc, Gntdev, GuestType, Platform};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, GrantStatus, UnmapNotify};
use libgnt::{Error, Result, SharedPages};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is wrong now.
#[derive(Debug, Default)]
pub struct Bend {
    /// So many more `SET_UNMAP_NOTIFY` with an event fail with EINVAL.
    pub no_notice: AtomicUsize,
    /// The guest type is not known, as in a container.
    pub no_guest_type: AtomicBool,
    /// The next read of an evtchn file loses what is pending, and says EFBIG.
    pub overflow: AtomicBool,
    /// Reads of the evtchn file that was opened first fail with EIO.
    pub first_evtchn_breaks: AtomicBool,
    /// One was opened.
    pub evtchn_opened: AtomicBool,
    /// These pages are paged out: their maps fail with EAGAIN, their copies with `GNTST_eagain`.
    pub paged_out: Mutex<Vec<GrantRef>>,
    /// So many more maps fail with EAGAIN.
    pub map_again: AtomicUsize,
    /// So many more copies leave their segments with `GNTST_eagain`.
    pub copy_again: AtomicUsize,
    /// The next map is held by somebody, as long as he likes.
    pub hold_next: AtomicBool,
    /// Those holds.
    pub holds: Mutex<Vec<HoldId>>,
    /// Calls of gntdev, all together.
    pub gntdev_calls: AtomicUsize,
    /// Binds and unbinds of event channels.
    pub port_calls: AtomicUsize,
}

/// One less, if there was one.
fn one_of(left: &AtomicUsize) -> bool {
    left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
        .is_ok()
}

#[derive(Debug)]
pub struct Bent {
    pub inner: Arc<dyn Platform>,
    pub bend: Arc<Bend>,
}

impl Bent {
    pub fn new(inner: Arc<dyn Platform>) -> (Arc<Bent>, Arc<Bend>) {
        let bend = Arc::<Bend>::default();
        let bent = Bent {
            inner,
            bend: Arc::clone(&bend),
        };
        (Arc::new(bent), bend)
    }
}

impl Platform for Bent {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn run_dir(&self) -> std::path::PathBuf {
        self.inner.run_dir()
    }
    fn guest_type(&self) -> Result<GuestType> {
        if self.bend.no_guest_type.load(Relaxed) {
            return Err(Error::not_available(
                "the guest type",
                "no /sys/hypervisor",
                "-",
            ));
        }
        self.inner.guest_type()
    }
    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        Ok(Box::new(BentGntdev {
            inner: self.inner.open_gntdev()?,
            platform: Arc::clone(&self.inner),
            bend: Arc::clone(&self.bend),
        }))
    }
    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        self.inner.open_gntalloc()
    }
    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        Ok(Box::new(BentEvtchn {
            inner: self.inner.open_evtchn()?,
            is_first: !self.bend.evtchn_opened.swap(true, Relaxed),
            bend: Arc::clone(&self.bend),
        }))
    }
    fn open_xenstore(&self) -> Result<OwnedFd> {
        self.inner.open_xenstore()
    }
    fn grants_in_use(&self, grefs: &[GrantRef]) -> Result<Option<Vec<GrantRef>>> {
        self.inner.grants_in_use(grefs)
    }
}

#[derive(Debug)]
struct BentGntdev {
    inner: Box<dyn Gntdev>,
    platform: Arc<dyn Platform>,
    bend: Arc<Bend>,
}

fn fails<T>(operation: &'static str, errno: Errno) -> Result<T> {
    Err(Error::device("bent gntdev", operation, errno, ""))
}

impl BentGntdev {
    fn is_paged_out(&self, grant: &ForeignGrant) -> bool {
        let paged_out = self.bend.paged_out.lock().expect("no panic");
        paged_out.contains(&grant.gref)
    }

    fn called(&self) -> &dyn Gntdev {
        self.bend.gntdev_calls.fetch_add(1, Relaxed);
        &*self.inner
    }
}

impl Gntdev for BentGntdev {
    fn map_grant_ref(&self, grants: &[ForeignGrant]) -> Result<u64> {
        if grants.iter().any(|grant| self.is_paged_out(grant)) {
            return fails("mmap", Errno::AGAIN);
        }
        self.called().map_grant_ref(grants)
    }
    fn mmap(&self, index: u64, pages: usize, access: Access) -> Result<SharedPages> {
        if one_of(&self.bend.map_again) {
            return fails("mmap", Errno::AGAIN);
        }
        let mapped = self.called().mmap(index, pages, access)?;
        if self.bend.hold_next.swap(false, Relaxed) {
            let memory = SimPlatform::of(&*self.platform).expect("simulated");
            let hold = memory.pin(&mapped, 0, pages, HoldKind::Plain)?;
            self.bend.holds.lock().expect("no panic").push(hold);
        }
        Ok(mapped)
    }
    fn unmap_grant_ref(&self, index: u64, pages: usize) -> Result<()> {
        self.called().unmap_grant_ref(index, pages)
    }
    fn offset_for_vaddr(&self, address: usize) -> Result<(u64, usize)> {
        self.called().offset_for_vaddr(address)
    }
    fn set_unmap_notify(&self, offset: u64, notify: UnmapNotify) -> Result<()> {
        if notify.send_event.is_some() && one_of(&self.bend.no_notice) {
            return fails("SET_UNMAP_NOTIFY", Errno::INVAL);
        }
        self.called().set_unmap_notify(offset, notify)
    }
    fn set_max_grants(&self, count: u32) -> Result<()> {
        self.called().set_max_grants(count)
    }
    fn grant_copy(&self, segments: &mut [CopySegment<'_>]) -> Result<()> {
        let any = segments.iter().any(|segment| {
            [segment.source, segment.dest]
                .iter()
                .any(|side| match side {
                    CopySide::Grant { grant, .. } => self.is_paged_out(grant),
                    CopySide::Local { .. } => false,
                })
        });
        if any || one_of(&self.bend.copy_again) {
            for segment in segments {
                segment.status = GrantStatus::EAGAIN;
            }
            return Ok(());
        }
        self.called().grant_copy(segments)
    }
    fn dmabuf_export(&self, domid: DomId, grefs: &[GrantRef], flags: u32) -> Result<OwnedFd> {
        self.called().dmabuf_export(domid, grefs, flags)
    }
    fn dmabuf_wait_released(&self, dmabuf: BorrowedFd<'_>, wait: Duration) -> Result<()> {
        self.called().dmabuf_wait_released(dmabuf, wait)
    }
    fn dmabuf_import(&self, d: DomId, dmabuf: BorrowedFd<'_>, n: usize) -> Result<Vec<GrantRef>> {
        self.called().dmabuf_import(d, dmabuf, n)
    }
    fn dmabuf_import_release(&self, dmabuf: BorrowedFd<'_>) -> Result<()> {
        self.called().dmabuf_import_release(dmabuf)
    }
}

#[derive(Debug)]
struct BentEvtchn {
    inner: Box<dyn Evtchn>,
    is_first: bool,
    bend: Arc<Bend>,
}

impl BentEvtchn {
    fn bound(&self) -> &dyn Evtchn {
        self.bend.port_calls.fetch_add(1, Relaxed);
        &*self.inner
    }
}

impl AsFd for BentEvtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Evtchn for BentEvtchn {
    fn bind_unbound(&self, remote: DomId) -> Result<EvtchnPort> {
        self.bound().bind_unbound(remote)
    }
    fn bind_interdomain(&self, remote: DomId, port: EvtchnPort) -> Result<EvtchnPort> {
        self.bound().bind_interdomain(remote, port)
    }
    fn bind_virq(&self, virq: u32) -> Result<EvtchnPort> {
        self.bound().bind_virq(virq)
    }
    fn unbind(&self, port: EvtchnPort) -> Result<()> {
        self.bound().unbind(port)
    }
    fn notify(&self, port: EvtchnPort) -> Result<()> {
        self.inner.notify(port)
    }
    fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        if self.is_first && self.bend.first_evtchn_breaks.load(Relaxed) {
            return Err(Error::device("/dev/xen/evtchn", "read", Errno::IO, "bent"));
        }
        if self.bend.overflow.swap(false, Relaxed) {
            // Lost, and masked, as by the driver.
            self.inner.read(&mut Vec::new())?;
            return fails("read", Errno::FBIG);
        }
        self.inner.read(ports)
    }
    fn unmask(&self, ports: &[EvtchnPort]) -> Result<()> {
        self.inner.unmask(ports)
    }
    fn reset(&self) -> Result<()> {
        self.inner.reset()
    }
    fn restrict(&self, remote: DomId) -> Result<()> {
        self.inner.restrict(remote)
    }
}
