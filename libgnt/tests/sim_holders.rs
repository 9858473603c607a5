//! The third consumer: it holds references to pages that somebody else has mapped.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use libgnt::platform::{Gntdev, Platform};
use libgnt::sim::client::{SimPlatform, connect};
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::types::{Access, DomId, EvtchnPort, GrantRef, PAGE_SIZE, UnmapNotify};
use libgnt::{Error, SharedPages};
use rustix::io::Errno;
use sim_common::{Process, Xen, byte, errno, eventually, grants, hear, role, say, wait_events};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Two pages of domain 5, mapped in domain 0.
struct Mapped {
    front: Arc<SimPlatform>,
    back: Arc<SimPlatform>,
    ours: SharedPages,
    theirs: SharedPages,
    grefs: Vec<GrantRef>,
    gntdev: Box<dyn Gntdev>,
    index: u64,
}

impl Mapped {
    fn new(xen: &Xen) -> Self {
        let (front, back) = (xen.join(5, "front"), xen.join(0, "back"));
        let gntalloc = front.open_gntalloc().unwrap();
        let run = gntalloc.alloc_gref(DomId(0), 2, Access::ReadWrite).unwrap();
        let ours = gntalloc.mmap(run.index, 2).unwrap();
        let gntdev = back.open_gntdev().unwrap();
        let index = gntdev.map_grant_ref(&grants(5, &run.grefs)).unwrap();
        let theirs = gntdev.mmap(index, 2, Access::ReadWrite).unwrap();
        Mapped {
            front,
            back,
            ours,
            theirs,
            grefs: run.grefs,
            gntdev,
            index,
        }
    }

    fn in_use(&self) -> usize {
        self.front
            .grants_in_use(&self.grefs)
            .unwrap()
            .map_or(0, |grefs| grefs.len())
    }
}

fn memory(platform: &SimPlatform) -> &SimPlatform {
    SimPlatform::of(platform).expect("the simulated one")
}

#[test]
fn an_unmap_returns_while_a_consumer_holds_the_pages() {
    if let Some((_, dir)) = role() {
        let xen = connect(&dir, Some(DomId(0)), "gpu").unwrap();
        let hold = HoldId(hear().unwrap().parse().unwrap());
        let pages = memory(&xen).attach(hold).unwrap();
        say(pages.pages());
        while let Some(line) = hear() {
            match line.as_str() {
                "read" => say(byte(&pages, 3)),
                "release" => {
                    memory(&xen).release(hold).unwrap();
                    say("released");
                }
                other => panic!("{other}"),
            }
        }
        return;
    }
    let xen = Xen::start();
    let m = Mapped::new(&xen);
    let evtchn = m.back.open_evtchn().unwrap();
    let far = evtchn.bind_unbound(DomId(0)).unwrap();
    let port: EvtchnPort = evtchn.bind_interdomain(DomId(0), far).unwrap();
    // The event that a bound port starts with comes after the bind's reply.
    assert_eq!(wait_events(&*evtchn), [port]);
    evtchn.unmask(&[port]).unwrap();
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: Some(port),
    };
    m.gntdev.set_unmap_notify(m.index + 1, notify).unwrap();
    m.ours.write(0, &[9, 1, 9, 42]);

    let hold = memory(&m.back)
        .pin(&m.theirs, 0, 1, HoldKind::Plain)
        .unwrap();
    let test = "an_unmap_returns_while_a_consumer_holds_the_pages";
    let mut gpu = Process::spawn(test, "gpu", xen.dir.path());
    gpu.say(&hold.0.to_string());
    assert_eq!(gpu.hear(), "1");
    let holders = m.back.holders(&grants(5, &m.grefs)).unwrap();
    let named: Vec<_> = holders
        .iter()
        .map(|h| (h.process.as_str(), h.pid))
        .collect();
    assert_eq!(named, [("gpu", gpu.pid())]);

    let Mapped {
        front,
        back,
        ours,
        theirs,
        grefs,
        gntdev,
        index,
    } = m;
    let start = Instant::now();
    theirs.unmap().unwrap();
    gntdev.unmap_grant_ref(index, 2).unwrap();
    let took = start.elapsed();
    assert!(took.as_secs() < 5, "the unmap waited: {took:?}");
    eventually("the byte", || byte(&ours, 1) == 0);
    assert_eq!(
        front.grants_in_use(&grefs).unwrap(),
        Some(grefs.clone()),
        "one page holds its run"
    );
    assert_eq!(back.inspect().unwrap().unmapping.len(), 1);
    let mut none = Vec::new();
    assert_eq!(
        evtchn.read(&mut none).unwrap(),
        0,
        "the event came before the release"
    );
    // The consumer still sees the live page.
    ours.write(3, &[43]);
    gpu.say("read");
    assert_eq!(gpu.hear(), "43");

    gpu.say("release");
    assert_eq!(gpu.hear(), "released");
    assert_eq!(wait_events(&*evtchn), [far]);
    assert_eq!(front.grants_in_use(&grefs).unwrap(), Some(Vec::new()));
    let inspection = back.inspect().unwrap();
    assert!(inspection.unmapping.is_empty());
    assert!(
        inspection.deferred_unmaps >= 1 && inspection.unmap_retries >= 1,
        "{inspection:?}"
    );
    gpu.finish();
}

#[test]
fn a_killed_consumer_lets_go() {
    if let Some((_, dir)) = role() {
        let xen = connect(&dir, Some(DomId(0)), "gpu").unwrap();
        let _pages = memory(&xen)
            .attach(HoldId(hear().unwrap().parse().unwrap()))
            .unwrap();
        say("attached");
        hear();
        unreachable!("killed before");
    }
    let xen = Xen::start();
    let m = Mapped::new(&xen);
    let hold = memory(&m.back)
        .pin(&m.theirs, 0, 2, HoldKind::Plain)
        .unwrap();
    let mut gpu = Process::spawn("a_killed_consumer_lets_go", "gpu", xen.dir.path());
    gpu.say(&hold.0.to_string());
    assert_eq!(gpu.hear(), "attached");
    let Mapped {
        front,
        back,
        ours: _ours,
        theirs,
        grefs,
        gntdev,
        index,
    } = m;
    theirs.unmap().unwrap();
    gntdev.unmap_grant_ref(index, 2).unwrap();
    assert_eq!(front.grants_in_use(&grefs).unwrap(), Some(grefs.clone()));
    gpu.kill();
    eventually("the unmap", || {
        front
            .grants_in_use(&grefs)
            .unwrap()
            .is_some_and(|grefs| grefs.is_empty())
    });
    assert!(back.inspect().unwrap().holders.is_empty());
}

#[test]
fn what_cannot_be_held_is_refused() {
    let xen = Xen::start();
    let m = Mapped::new(&xen);
    let mm = memory(&m.back);
    let anonymous = SharedPages::anonymous(1).unwrap();
    assert_eq!(
        errno(mm.pin(&anonymous, 0, 1, HoldKind::Plain)),
        Errno::FAULT
    );
    assert_eq!(
        errno(mm.pin(&m.theirs, 0, 3, HoldKind::Plain)),
        Errno::FAULT
    );
    assert_eq!(
        errno(mm.pin(&m.theirs, 2, usize::MAX, HoldKind::Plain)),
        Errno::FAULT
    );
    assert_eq!(
        errno(mm.pin(&m.theirs, 0, 0, HoldKind::Plain)),
        Errno::INVAL
    );
    assert_eq!(errno(mm.attach(HoldId(4711))), Errno::NOENT);
    assert_eq!(errno(mm.release(HoldId(4711))), Errno::NOENT);
    let hold = mm.pin(&m.theirs, 1, 1, HoldKind::I915).unwrap();
    let held = mm.attach(hold).unwrap();
    assert_eq!((held.pages(), held.access()), (1, Access::ReadOnly));
    m.ours.store_u8(PAGE_SIZE + 5, 99, Ordering::Release);
    assert_eq!(byte(&held, 5), 99);
    assert_eq!(errno(mm.attach(hold)), Errno::BUSY);
    mm.release(hold).unwrap();
    assert_eq!(errno(mm.release(hold)), Errno::NOENT);
    assert_eq!(m.in_use(), 2);
}

/// QubesOS/qubes-issues#7481 as it was before Linux 5.19: the unmap waits for the references in the
/// middle of an invalidation, and the holder's release waits for the invalidation.
#[test]
fn the_synchronous_unmap_deadlocks_with_an_i915_holder_and_is_told() {
    let xen = Xen::sync();
    let m = Mapped::new(&xen);
    let gpu = xen.join(0, "gpu");
    let hold = memory(&m.back)
        .pin(&m.theirs, 0, 2, HoldKind::I915)
        .unwrap();
    let _live = memory(&gpu).attach(hold).unwrap();
    let Mapped {
        back,
        theirs,
        gntdev,
        front,
        grefs,
        ours: _ours,
        index,
    } = m;
    let unmap = std::thread::spawn(move || theirs.unmap());
    eventually("the unmap to wait", || {
        !back.inspect().unwrap().unmapping.is_empty()
    });
    let release = memory(&gpu).release(hold);
    let unmap = unmap.join().unwrap();
    let results = [unmap, release];
    let cycle = results
        .iter()
        .find_map(|result| match result {
            Err(Error::Deadlock { cycle }) => Some(cycle),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no deadlock: {results:?}"));
    let text = cycle.join("\n");
    assert!(
        cycle.len() >= 2 && text.contains("gpu") && text.contains("back"),
        "{text}"
    );
    assert_eq!(xen.journal.deadlocks.lock().unwrap().len(), 1);
    // It was broken: everything can end.
    let _ = memory(&gpu).release(hold);
    gntdev.unmap_grant_ref(index, 2).unwrap();
    drop(gpu);
    eventually("the unmap", || {
        front
            .grants_in_use(&grefs)
            .unwrap()
            .is_some_and(|grefs| grefs.is_empty())
    });
}

#[test]
fn the_synchronous_unmap_waits_for_a_plain_holder_and_no_longer() {
    let xen = Xen::sync();
    let m = Mapped::new(&xen);
    let gpu = xen.join(0, "gpu");
    let hold = memory(&m.back)
        .pin(&m.theirs, 0, 1, HoldKind::Plain)
        .unwrap();
    let _live = memory(&gpu).attach(hold).unwrap();
    let Mapped {
        back,
        theirs,
        gntdev: _gntdev,
        ..
    } = m;
    let unmap = std::thread::spawn(move || theirs.unmap());
    eventually("the unmap to wait", || {
        !back.inspect().unwrap().unmapping.is_empty()
    });
    assert!(!unmap.is_finished());
    memory(&gpu).release(hold).unwrap();
    unmap.join().unwrap().unwrap();
    assert!(xen.journal.deadlocks.lock().unwrap().is_empty());
}
