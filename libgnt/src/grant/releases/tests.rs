//! Port numbers that are used again, on a device whose events come at the worst moment.

use super::*;
use crate::error::Error;
use crate::platform::{Evtchn, Gntalloc, Gntdev, GuestType};
use crate::types::{DomId, ForeignGrant, GrantRef};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An evtchn file. A bind raises the binder's port, and that event is delivered as late as can be:
/// when the port is closed.
#[derive(Debug)]
struct Late {
    fd: OwnedFd,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    bound: BTreeSet<u32>,
    raised: BTreeSet<u32>,
    queue: Vec<EvtchnPort>,
    /// The next read loses the queue.
    overflow: bool,
    /// What a bind of an offered port says.
    refuses: Option<Errno>,
}

impl Late {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Late {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Evtchn for Late {
    fn bind_unbound(&self, _: DomId) -> Result<EvtchnPort> {
        let mut state = self.lock();
        // The lowest that is free, as Xen gives them.
        let port = (1..).find(|port| !state.bound.contains(port)).unwrap_or(0);
        state.bound.insert(port);
        Ok(EvtchnPort(port))
    }
    fn bind_interdomain(&self, remote: DomId, _: EvtchnPort) -> Result<EvtchnPort> {
        if let Some(errno) = self.lock().refuses {
            return Err(Error::device("late", "BIND_INTERDOMAIN", errno, ""));
        }
        let port = self.bind_unbound(remote)?;
        self.lock().raised.insert(port.0);
        Ok(port)
    }
    fn bind_virq(&self, _: u32) -> Result<EvtchnPort> {
        unreachable!("no mapper binds one")
    }
    fn unbind(&self, port: EvtchnPort) -> Result<()> {
        let mut state = self.lock();
        if state.raised.remove(&port.0) {
            state.queue.push(port);
        }
        state.bound.remove(&port.0);
        Ok(())
    }
    fn notify(&self, _: EvtchnPort) -> Result<()> {
        Ok(())
    }
    fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        let mut state = self.lock();
        if std::mem::take(&mut state.overflow) {
            state.queue.clear();
            return Err(Error::device("late", "read", Errno::FBIG, ""));
        }
        let count = state.queue.len();
        ports.append(&mut state.queue);
        Ok(count)
    }
    fn unmask(&self, _: &[EvtchnPort]) -> Result<()> {
        Ok(())
    }
    fn reset(&self) -> Result<()> {
        self.lock().queue.clear();
        Ok(())
    }
    fn restrict(&self, _: DomId) -> Result<()> {
        Ok(())
    }
}

/// A platform that has nothing but one such file.
#[derive(Debug, Default)]
struct OnlyPorts(Arc<Mutex<State>>);

impl Platform for OnlyPorts {
    fn run_dir(&self) -> std::path::PathBuf {
        "/nowhere".into()
    }
    fn name(&self) -> String {
        String::new()
    }
    fn guest_type(&self) -> Result<GuestType> {
        Ok(GuestType::Pvh)
    }
    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        unreachable!("not opened")
    }
    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        unreachable!("not opened")
    }
    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        Ok(Box::new(Late {
            fd: eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd"),
            state: Arc::clone(&self.0),
        }))
    }
    fn open_xenstore(&self) -> Result<OwnedFd> {
        unreachable!("not opened")
    }
    fn grants_in_use(&self, _: &[GrantRef]) -> Result<Option<Vec<GrantRef>>> {
        Ok(None)
    }
}

/// An unmap that waits for nothing but its event.
fn begun() -> Arc<Mutex<UnmapMachine>> {
    let mut machine = UnmapMachine::new();
    let mut actions = Vec::new();
    machine.step(NO_TIME, Input::Begin { notice: true }, &mut actions);
    while let Some(action) = actions.pop() {
        machine.step(NO_TIME, Input::Done { action, ok: true }, &mut actions);
    }
    Arc::new(Mutex::new(machine))
}

#[test]
fn an_event_of_a_closed_port_releases_nothing_of_the_next_with_its_number() {
    let platform = OnlyPorts::default();
    let ledger = Ledger::new();
    let releases = Releases::open(&platform, ledger.clone()).expect("open");
    let take = || releases.take_pair().expect("ports").expect("a pair");
    let burst: Vec<Pair> = (0..60).map(|_| take()).collect();
    for pair in burst {
        releases.put_back(pair);
    }
    releases.process().expect("process");
    assert!(
        platform.0.lock().expect("state").bound.len() < 120,
        "some were closed"
    );
    // Somebody takes one port: what notified before listens from now on.
    let _other = releases.events.bind_unbound(DomId::SELF).expect("bind");
    let grants: Arc<[ForeignGrant]> = Arc::new([]);
    for _ in 0..60 {
        let entry = ledger.add(
            crate::grant::ledger::EntryKind::Unmapping,
            Arc::clone(&grants),
        );
        releases.expect(take(), &begun(), entry);
    }
    assert_eq!(releases.finished().expect("process"), []);
    assert_eq!(releases.in_progress(), 60);
    // Its own event does release.
    let port = *releases.lock().waiting.keys().next().expect("one waits");
    platform.0.lock().expect("state").queue.push(port);
    assert_eq!(releases.finished().expect("process").len(), 1);
}

#[test]
fn after_an_overflow_it_is_looked_until_it_could_be_looked() {
    let platform = OnlyPorts::default();
    let state = || platform.0.lock().expect("state");
    let ledger = Ledger::new();
    let releases = Releases::open(&platform, ledger.clone()).expect("open");
    let begin = || {
        let pair = releases.take_pair().expect("ports").expect("a pair");
        let kind = crate::grant::ledger::EntryKind::Unmapping;
        let entry = ledger.add(kind, Arc::new([]));
        releases.expect(pair, &begun(), entry)
    };
    let first = begin();
    // gntdev has the port still: no release, and the event comes as ever.
    (state().overflow, state().refuses) = (true, Some(Errno::INVAL));
    assert_eq!(releases.finished().expect("process"), []);
    state().refuses = None;
    assert_eq!(releases.finished().expect("process"), []);
    let port = *releases.lock().waiting.keys().next().expect("one waits");
    state().queue.push(port);
    assert_eq!(releases.finished().expect("process"), [first]);

    // It could not be looked: again, later. Other events are taken in meanwhile.
    let (second, third) = (begin(), begin());
    (state().overflow, state().refuses) = (true, Some(Errno::NOSPC));
    assert_eq!(releases.finished().expect("process"), []);
    let port = *releases.lock().waiting.keys().next().expect("two wait");
    state().queue.push(port);
    let told = releases.finished().expect("process");
    assert_eq!(told.len(), 1, "{told:?}");
    state().refuses = None;
    let looked = releases.finished().expect("process");
    let mut both = [told, looked].concat();
    both.sort_unstable();
    assert_eq!(both, [second, third]);
}
