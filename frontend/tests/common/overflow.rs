//! A platform whose queue of events overflows: `/dev/xen/evtchn` answers EFBIG from then on, until
//! it is reset, and what was queued is lost, its port masked.

use libgnt::platform::{Evtchn, Gntalloc, Gntdev, GuestType, Platform};
use libgnt::{DomId, Error, EvtchnPort, GrantRef, Result};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[derive(Debug)]
pub struct Overflowing {
    inner: Arc<dyn Platform>,
    overflow: Arc<Overflow>,
}

#[derive(Debug, Default)]
pub struct Overflow {
    /// The next event finds no room.
    armed: AtomicBool,
    /// It found none.
    is_over: AtomicBool,
    resets: AtomicU32,
}

impl Overflow {
    pub fn at_the_next_event(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::SeqCst)
    }
}

impl Overflowing {
    pub fn around(inner: Arc<dyn Platform>) -> (Arc<dyn Platform>, Arc<Overflow>) {
        let overflow = Arc::new(Overflow::default());
        let platform = Overflowing {
            inner,
            overflow: Arc::clone(&overflow),
        };
        (Arc::new(platform), overflow)
    }
}

impl Platform for Overflowing {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn run_dir(&self) -> std::path::PathBuf {
        self.inner.run_dir()
    }
    fn guest_type(&self) -> Result<GuestType> {
        self.inner.guest_type()
    }
    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        self.inner.open_gntdev()
    }
    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        self.inner.open_gntalloc()
    }
    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        Ok(Box::new(OverflowingEvtchn {
            inner: self.inner.open_evtchn()?,
            overflow: Arc::clone(&self.overflow),
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
struct OverflowingEvtchn {
    inner: Box<dyn Evtchn>,
    overflow: Arc<Overflow>,
}

impl Evtchn for OverflowingEvtchn {
    fn bind_unbound(&self, remote: DomId) -> Result<EvtchnPort> {
        self.inner.bind_unbound(remote)
    }
    fn bind_interdomain(&self, remote: DomId, port: EvtchnPort) -> Result<EvtchnPort> {
        self.inner.bind_interdomain(remote, port)
    }
    fn bind_virq(&self, virq: u32) -> Result<EvtchnPort> {
        self.inner.bind_virq(virq)
    }
    fn unbind(&self, port: EvtchnPort) -> Result<()> {
        self.inner.unbind(port)
    }
    fn notify(&self, port: EvtchnPort) -> Result<()> {
        self.inner.notify(port)
    }
    fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        let mut lost = Vec::new();
        let count = self.inner.read(&mut lost)?;
        let Overflow { armed, is_over, .. } = &*self.overflow;
        if count > 0 && armed.swap(false, Ordering::SeqCst) {
            is_over.store(true, Ordering::SeqCst);
        }
        if is_over.load(Ordering::SeqCst) {
            return Err(Error::device("/dev/xen/evtchn", "read", Errno::FBIG, ""));
        }
        ports.append(&mut lost);
        Ok(count)
    }
    fn unmask(&self, ports: &[EvtchnPort]) -> Result<()> {
        self.inner.unmask(ports)
    }
    fn reset(&self) -> Result<()> {
        self.overflow.is_over.store(false, Ordering::SeqCst);
        self.overflow.resets.fetch_add(1, Ordering::SeqCst);
        self.inner.reset()
    }
    fn restrict(&self, remote: DomId) -> Result<()> {
        self.inner.restrict(remote)
    }
}

impl AsFd for OverflowingEvtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
