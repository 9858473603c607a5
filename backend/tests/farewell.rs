//! A back end that cannot go on tells its front end: a state 4 with nobody behind it lets a guest hang.

mod common;

use common::{FRONT, Front, Running, World};
use libgnt::platform::{Evtchn, Gntalloc, Gntdev, GuestType, Platform};
use libgnt::proto::blkif::{Operation, Status};
use libgnt::{DomId, Error, EvtchnPort, GrantRef, Result};
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::read_error;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A kernel whose first file of event channels, the rings', breaks one day.
#[derive(Debug)]
struct Breaking(Arc<dyn Platform>, Arc<AtomicBool>, AtomicBool);

impl Platform for Breaking {
    fn name(&self) -> String {
        self.0.name()
    }
    fn run_dir(&self) -> PathBuf {
        self.0.run_dir()
    }
    fn guest_type(&self) -> Result<GuestType> {
        self.0.guest_type()
    }
    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        self.0.open_gntdev()
    }
    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        self.0.open_gntalloc()
    }
    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        if self.2.swap(true, Ordering::Relaxed) {
            return self.0.open_evtchn();
        }
        let (inner, broken) = (self.0.open_evtchn()?, Arc::clone(&self.1));
        Ok(Box::new(Channels { inner, broken }))
    }
    fn open_xenstore(&self) -> Result<OwnedFd> {
        self.0.open_xenstore()
    }
    fn grants_in_use(&self, grefs: &[GrantRef]) -> Result<Option<Vec<GrantRef>>> {
        self.0.grants_in_use(grefs)
    }
}

#[derive(Debug)]
struct Channels {
    inner: Box<dyn Evtchn>,
    broken: Arc<AtomicBool>,
}

impl AsFd for Channels {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Evtchn for Channels {
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
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::device(
                "/dev/xen/evtchn",
                "read",
                Errno::IO,
                "a test",
            ));
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

#[test]
fn an_error_that_ends_the_service_is_told_to_the_front_end() {
    let world = World::new();
    let broken = Arc::new(AtomicBool::new(false));
    let below = world.platform(DomId::DOM0, "backend");
    let platform = Arc::new(Breaking(below, Arc::clone(&broken), AtomicBool::new(false)));
    let back = Running::start_on(platform, |config| config.spin = std::time::Duration::ZERO);
    let mut front = Front::new(&world);
    front.connect(&world);
    back.wait_connected();
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    broken.store(true, Ordering::Relaxed);
    front.channel.notify().expect("notify");
    world.wait_back(XenbusState::Closed);
    let reason = read_error(&world.store, &world.back_dir()).expect("read");
    assert!(
        reason.as_ref().is_some_and(|r| r.contains("evtchn")),
        "{reason:?}"
    );
    let ended = back.stop().expect_err("it failed");
    assert!(ended.to_string().contains("/dev/xen/evtchn"), "{ended}");
    assert_eq!(FRONT, DomId(1));
}
