//! What is different on PV: the notifier unmaps before the entries go, and a page that is held then
//! is damage.

use super::*;
use crate::platform::GuestType;
use crate::sim::core::{Action, ConnId, Input};
use crate::sim::wire::{HoldId, HoldKind, Reply, Request, UnmapMode};
use rustix::io::Errno;
use std::time::Duration;

fn on_pv() -> Rig {
    Rig::of(UnmapMode::Async, GuestType::Pv)
}

fn munmap_part(pair: &Pair, first_page: u32, pages: u32) -> Request {
    let vma = pair.map.1;
    Request::Munmap {
        vma,
        first_page,
        pages,
    }
}

fn mprotect(pair: &Pair, first_page: u32, pages: u32) -> Request {
    let vma = pair.map.1;
    Request::Invalidate {
        vma,
        first_page,
        pages,
    }
}

fn give_back(pair: &Pair) -> Request {
    Request::UnmapGrantRef {
        file: pair.gntdev,
        index: pair.map.0,
        pages: pair.pages,
    }
}

/// A mapper whose page 1 somebody else in its domain holds.
fn held(w: Rig, pages: u32) -> (Pair, ConnId, HoldId) {
    let mut pair = Pair::mapped(w, pages);
    let consumer = pair.w.join(BACKEND, "consumer");
    let hold = pair.w.pin(pair.back, pair.map.1, 1, 1, HoldKind::Plain);
    pair.w.attach(consumer, hold);
    (pair, consumer, hold)
}

#[test]
fn each_domain_is_the_kind_of_guest_that_it_was_created_as() {
    let mut w = Rig::new();
    let dom0 = w.join(DOM0, "xl");
    let create = |domid, guest| Request::CreateDomain {
        domid,
        name: "guest".into(),
        guest,
    };
    w.done(dom0, create(GUEST, Some(GuestType::Pv)));
    w.done(dom0, create(BACKEND, None));
    let kinds: Vec<_> = w.inspect().domains.iter().map(|d| d.guest).collect();
    assert_eq!(kinds, [GuestType::Pvh, GuestType::Pv, GuestType::Pvh]);
}

#[test]
fn munmap_unmaps_at_once_and_the_event_comes_with_the_last_use() {
    let mut pair = Pair::mapped(on_pv(), 3);
    let (back, munmap) = (pair.back, munmap_part(&pair, 1, 1));
    pair.w.done(back, munmap);
    assert_eq!(pair.mapped_pages(), 2);
    assert!(!pair.byte_cleared(), "its page is mapped");
    let munmap = munmap_part(&pair, 0, 3);
    pair.w.done(back, munmap);
    assert_eq!(pair.mapped_pages(), 0);
    assert!(pair.byte_cleared());
    pair.assert_events(0);
    let give_back = give_back(&pair);
    pair.w.done(back, give_back);
    pair.assert_events(1);
    assert_eq!(pair.w.inspect().damage, []);
}

#[test]
fn the_ioctl_leaves_a_mapping_alone() {
    let mut pair = Pair::mapped(on_pv(), 2);
    let (back, give_back) = (pair.back, give_back(&pair));
    pair.w.done(back, give_back);
    assert_eq!(pair.mapped_pages(), 2);
    let munmap = pair.munmap();
    pair.w.done(back, munmap);
    assert_eq!(pair.mapped_pages(), 0);
    pair.assert_events(1);
}

#[test]
fn mprotect_unmaps_and_the_page_cannot_be_held_any_more() {
    let mut pair = Pair::mapped(on_pv(), 3);
    let (back, mprotect) = (pair.back, mprotect(&pair, 1, 1));
    pair.w.done(back, mprotect.clone());
    assert_eq!(pair.mapped_pages(), 2);
    let vma = pair.map.1;
    let pin = |first_page| Request::Pin {
        vma,
        first_page,
        pages: 1,
        kind: HoldKind::Plain,
    };
    pair.w.refused(back, pin(1), Errno::FAULT);
    pair.w.done(back, mprotect);
    assert_eq!(pair.mapped_pages(), 2, "once is enough");
    let mut pvh = Pair::mapped(Rig::new(), 3);
    let (back, mprotect) = (pvh.back, self::mprotect(&pvh, 1, 1));
    pvh.w.done(back, mprotect);
    assert_eq!(pvh.mapped_pages(), 3, "no notifier");
}

#[test]
fn a_failed_mmap_leaves_nothing_mapped() {
    let mut pair = Pair::granted(on_pv(), 2);
    let mut grants = pair.grants();
    grants.push(crate::types::ForeignGrant {
        domid: GUEST,
        gref: crate::types::GrantRef(400),
    });
    let index = pair.w.reserve(pair.back, pair.gntdev, &grants);
    let mmap = Request::Mmap {
        file: pair.gntdev,
        index,
        pages: 3,
        access: crate::types::Access::ReadWrite,
    };
    pair.w.refused(pair.back, mmap, Errno::INVAL);
    assert_eq!(pair.mapped_pages(), 0);
}

#[test]
fn the_exit_of_a_process_unmaps_without_a_trace() {
    let mut pair = Pair::mapped(on_pv(), 2);
    let back = pair.back;
    pair.w.kill(back);
    assert_eq!(pair.mapped_pages(), 0);
    assert_eq!(pair.w.inspect().damage, []);
}

#[test]
fn a_held_page_damages_the_whole_run_and_its_grants_never_come_back() {
    let (mut pair, consumer, hold) = held(on_pv(), 3);
    let (back, munmap, give_back) = (pair.back, pair.munmap(), give_back(&pair));
    pair.w.done(back, munmap);
    let [damage] = &pair.w.inspect().damage[..] else {
        panic!("{:?}", pair.w.inspect().damage);
    };
    assert_eq!((damage.domid, damage.grants.len()), (BACKEND, 3));
    let told = damage.to_string();
    assert!(told.contains("d2") || told.contains("domain 2"), "{told}");
    assert!(pair.w.logs().iter().any(|l| l.contains("Bad page map")));
    pair.w.done(back, give_back);
    assert_eq!(pair.mapped_pages(), 3);
    // The references are gone with the entries: the retry finds the pages free.
    pair.w.pass(Duration::from_millis(5));
    pair.assert_events(1);
    assert!(pair.w.logs().iter().any(|l| l.contains("WARNING")));
    pair.w.done(consumer, Request::HoldRelease { hold });
    pair.dealloc();
    pair.w.pass(Duration::from_secs(100));
    assert_eq!(
        pair.mapped_pages(),
        3,
        "the kernel has no way to unmap them"
    );
    let dom0 = pair.w.join(DOM0, "xl");
    pair.w.done(dom0, Request::DestroyDomain { domid: BACKEND });
    pair.w.pass(Duration::from_secs(2));
    assert_eq!(pair.mapped_pages(), 0, "the hypervisor has");
}

#[test]
fn a_held_page_that_is_let_go_in_time_does_no_harm() {
    let (mut pair, consumer, hold) = held(on_pv(), 3);
    pair.w.done(consumer, Request::HoldRelease { hold });
    pair.unmap();
    pair.assert_events(1);
    assert_eq!(pair.w.inspect().damage, []);
}

#[test]
fn a_destroyed_pv_domain_has_no_kernel_to_damage() {
    let (mut pair, ..) = held(on_pv(), 2);
    let dom0 = pair.w.join(DOM0, "xl");
    pair.w.done(dom0, Request::DestroyDomain { domid: BACKEND });
    assert_eq!(pair.w.inspect().damage, []);
    assert_eq!(pair.mapped_pages(), 0);
}

#[test]
fn the_synchronous_unmap_of_a_pvh_guest_waits_in_the_last_use_and_has_no_cycle() {
    let mut pair = Pair::mapped(Rig::of(UnmapMode::Sync, GuestType::Pvh), 3);
    let consumer = pair.w.join(BACKEND, "consumer");
    let hold = pair.w.pin(pair.back, pair.map.1, 1, 1, HoldKind::I915);
    pair.w.attach(consumer, hold);
    let (back, munmap, give_back) = (pair.back, pair.munmap(), give_back(&pair));
    pair.w.done(back, munmap);
    assert_eq!(pair.mapped_pages(), 3);
    let tag = pair.w.send(back, give_back);
    assert_eq!(pair.w.take(tag), None);
    // No invalidation runs, so an i915 lets go as anybody does.
    pair.w.done(consumer, Request::HoldRelease { hold });
    assert_eq!(pair.w.deadlocks(), []);
    assert_eq!(pair.w.take(tag), Some(Ok(Reply::Done)));
    assert_eq!(pair.mapped_pages(), 0);
    pair.assert_events(1);
}

#[test]
fn closed_first_a_pvh_guest_waits_in_munmap() {
    let mut pair = Pair::mapped(Rig::of(UnmapMode::Sync, GuestType::Pvh), 1);
    let hold = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
    let consumer = pair.w.join(BACKEND, "consumer");
    pair.w.attach(consumer, hold);
    let (back, file, munmap) = (pair.back, pair.gntdev, pair.munmap());
    pair.w.done(back, Request::Close { file });
    let tag = pair.w.send(back, munmap);
    assert_eq!(pair.w.take(tag), None);
    pair.w.step(Input::Disconnected { conn: consumer });
    assert_eq!(pair.w.take(tag), Some(Ok(Reply::Done)));
    let no_cycle = |o: &Action| !matches!(o, Action::Deadlock(_));
    assert!(pair.w.out.iter().all(no_cycle));
}
