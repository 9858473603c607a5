//! The synchronous unmap: who blocks, and the deadlock of QubesOS/qubes-issues#7481.

use super::*;
use crate::inspect::WaitEdge;
use crate::sim::core::{ConnId, Input};
use crate::sim::wire::{HoldId, HoldKind, Reply, Request};
use crate::types::DomId;
use rustix::io::Errno;
use std::time::Duration;

/// A mapper whose pages somebody else in its domain holds.
fn held(kind: HoldKind) -> (Pair, ConnId, HoldId) {
    let mut pair = Pair::mapped(Rig::sync(), 4);
    let consumer = pair.w.join(BACKEND, "consumer");
    let hold = pair.w.pin(pair.back, pair.map.1, 1, 2, kind);
    pair.w.attach(consumer, hold);
    (pair, consumer, hold)
}

#[test]
fn munmap_waits_for_the_references_and_unmaps_at_once() {
    let (mut pair, consumer, hold) = held(HoldKind::Plain);
    let request = pair.munmap();
    let tag = pair.w.send(pair.back, request);
    assert_eq!(pair.w.take(tag), None);
    assert!(pair.byte_cleared());
    pair.w.pass(Duration::from_secs(100));
    assert_eq!(pair.w.take(tag), None, "no timeout");
    assert_eq!(pair.mapped_pages(), 4);
    let state = pair.w.inspect();
    assert_eq!((state.unmapping.len(), state.unmap_retries), (1, 0));
    pair.w.done(consumer, Request::HoldRelease { hold });
    assert_eq!(pair.w.take(tag), Some(Ok(Reply::Done)));
    assert_eq!(pair.mapped_pages(), 0);
    pair.assert_events(0);
    let (file, index) = (pair.gntdev, pair.map.0);
    pair.w.done(
        pair.back,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 4,
        },
    );
    pair.assert_events(1);
}

#[test]
fn munmap_of_pages_that_nobody_holds_returns() {
    let (mut pair, _, _) = held(HoldKind::I915);
    let vma = pair.map.1;
    pair.w.done(
        pair.back,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 1,
        },
    );
    assert_eq!(pair.mapped_pages(), 3);
    pair.w.done(
        pair.back,
        Request::Munmap {
            vma,
            first_page: 3,
            pages: 1,
        },
    );
    assert_eq!(pair.mapped_pages(), 2);
    let tag = pair.w.send(
        pair.back,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 4,
        },
    );
    assert_eq!(pair.w.take(tag), None);
}

#[test]
fn a_release_waits_for_another_mappings_invalidation() {
    // The invalidation is of the whole address space: a second mapping's is as good.
    let (mut pair, consumer, hold) = held(HoldKind::Plain);
    let more = pair
        .w
        .alloc(pair.front, pair.front_alloc, BACKEND, 1)
        .of(GUEST);
    let (_, vma) = pair.w.map(pair.back, pair.gntdev, &more);
    let other = pair.w.join(BACKEND, "other");
    let i915 = pair.w.pin(pair.back, vma, 0, 1, HoldKind::I915);
    pair.w.attach(other, i915);
    let request = pair.munmap();
    let munmap = pair.w.send(pair.back, request);
    let release = pair.w.send(other, Request::HoldRelease { hold: i915 });
    assert_eq!((pair.w.take(munmap), pair.w.take(release)), (None, None));
    pair.w
        .refused(other, Request::HoldRelease { hold: i915 }, Errno::BUSY);
    assert!(
        pair.w.deadlocks().is_empty(),
        "no cycle: the consumer can still let go"
    );
    pair.w.done(consumer, Request::HoldRelease { hold });
    assert_eq!(pair.w.take(munmap), Some(Ok(Reply::Done)));
    assert_eq!(pair.w.take(release), Some(Ok(Reply::Done)));
}

#[test]
fn the_i915_deadlock_is_named_edge_by_edge_and_broken() {
    let (mut pair, consumer, hold) = held(HoldKind::I915);
    pair.w.now = Duration::from_millis(1234);
    let request = pair.munmap();
    let munmap = pair.w.send(pair.back, request);
    assert!(
        pair.w.deadlocks().is_empty(),
        "not yet: the consumer is free to release"
    );
    let release = pair.w.send(consumer, Request::HoldRelease { hold });

    let [deadlock] = &pair.w.deadlocks()[..] else {
        panic!("{:?}", pair.w.out)
    };
    assert_eq!(deadlock.at_ms, 1234);
    let backend = "back (pid 102)".to_string();
    let holder = "consumer (pid 103)".to_string();
    let pages = "page references of grant 0x9 of domain 1 and 1 more".to_string();
    let expected = [
        WaitEdge {
            waiter: backend.clone(),
            call: "munmap".into(),
            holds: "the running invalidation of its address space".into(),
            waits_for: pages.clone(),
            owner: holder.clone(),
        },
        WaitEdge {
            waiter: holder,
            call: "the release of a pinned buffer".into(),
            holds: pages,
            waits_for: format!("the end of the invalidation of {backend}'s address space"),
            owner: backend,
        },
    ];
    assert_eq!(deadlock.edges, expected);

    let Some(Err(error)) = pair.w.take(munmap) else {
        panic!("munmap should fail")
    };
    assert_eq!(error.errno, Errno::DEADLK.raw_os_error());
    assert_eq!(error.cycle, expected.map(|edge| edge.to_string()));
    assert_eq!(pair.w.take(release), Some(Ok(Reply::Done)));
    // The unmap goes on by itself.
    assert_eq!(pair.mapped_pages(), 4);
    pair.w.pass(Duration::from_millis(5));
    assert_eq!(pair.mapped_pages(), 0);
    let (file, index) = (pair.gntdev, pair.map.0);
    pair.w.done(
        pair.back,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 4,
        },
    );
    pair.assert_events(1);
}

/// The other order: the release first finds no invalidation, so there is nothing to wait for.
#[test]
fn a_release_before_the_munmap_is_no_deadlock() {
    let (mut pair, consumer, hold) = held(HoldKind::I915);
    pair.w.done(consumer, Request::HoldRelease { hold });
    let request = pair.munmap();
    pair.w.done(pair.back, request);
    assert!(pair.w.deadlocks().is_empty());
}

#[test]
fn the_same_history_on_the_asynchronous_kernel_has_no_deadlock() {
    let mut pair = Pair::mapped(Rig::new(), 4);
    let consumer = pair.w.join(BACKEND, "consumer");
    let hold = pair.w.pin(pair.back, pair.map.1, 1, 2, HoldKind::I915);
    pair.w.attach(consumer, hold);
    pair.unmap();
    pair.w.done(consumer, Request::HoldRelease { hold });
    pair.w.pass(Duration::from_millis(5));
    assert_eq!(pair.mapped_pages(), 0);
    assert!(pair.w.deadlocks().is_empty());
}

/// A munmap that nobody waits for (a `Drop`) runs an invalidation all the same.
#[test]
fn a_munmap_without_a_reply_can_be_part_of_a_cycle() {
    let (mut pair, consumer, hold) = held(HoldKind::I915);
    let (conn, request) = (pair.back, pair.munmap());
    pair.w.step(Input::Request {
        conn,
        tag: None,
        request,
    });
    let release = pair.w.send(consumer, Request::HoldRelease { hold });
    assert_eq!(pair.w.deadlocks().len(), 1);
    assert_eq!(pair.w.take(release), Some(Ok(Reply::Done)));
    pair.w.pass(Duration::from_millis(5));
    assert_eq!(pair.mapped_pages(), 0);
    assert!(pair.w.replies.is_empty());
}

#[test]
fn a_process_that_drops_a_mapping_may_still_release_what_it_holds() {
    for (tag, deadlocks) in [(None, 0), (Some(9999), 1)] {
        let mut pair = Pair::mapped(Rig::sync(), 1);
        let hold = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
        pair.w.attach(pair.back, hold);
        let (conn, request) = (pair.back, pair.munmap());
        pair.w.step(Input::Request { conn, tag, request });
        // Blocked in munmap, it is the one who would have to let go.
        assert_eq!(pair.w.deadlocks().len(), deadlocks, "{tag:?}");
        pair.w.done(pair.back, Request::HoldRelease { hold });
        pair.w.pass(Duration::from_millis(5));
        assert_eq!(pair.mapped_pages(), 0);
    }
}

/// A hold that is on its way to another process keeps the munmap waiting, not dead.
#[test]
fn a_hold_that_nobody_has_taken_is_no_edge() {
    let mut pair = Pair::mapped(Rig::sync(), 1);
    let hold = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
    let request = pair.munmap();
    let munmap = pair.w.send(pair.back, request);
    assert!(pair.w.deadlocks().is_empty());
    let consumer = pair.w.join(BACKEND, "consumer");
    pair.w.attach(consumer, hold);
    assert_eq!(pair.w.take(munmap), None);
    pair.w.done(consumer, Request::HoldRelease { hold });
    assert_eq!(pair.w.take(munmap), Some(Ok(Reply::Done)));
}

/// Two mappers, each of which has the other's pages.
#[test]
fn two_munmaps_that_wait_for_each_other_are_a_cycle() {
    let mut one = Pair::mapped(Rig::sync(), 1);
    let other = one.w.join(BACKEND, "other");
    let other_file = one.w.open(other, crate::sim::wire::DeviceKind::Gntdev);
    let more = one
        .w
        .alloc(one.front, one.front_alloc, BACKEND, 1)
        .of(GUEST);
    let (_, vma) = one.w.map(other, other_file, &more);
    let back = one.back;
    let hold = one.w.pin(back, one.map.1, 0, 1, HoldKind::Plain);
    one.w.attach(other, hold);
    let hold = one.w.pin(other, vma, 0, 1, HoldKind::Plain);
    one.w.attach(back, hold);
    let request = one.munmap();
    let first = one.w.send(back, request);
    let second = one.w.send(
        other,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 1,
        },
    );
    let [deadlock] = &one.w.deadlocks()[..] else {
        panic!("{:?}", one.w.out)
    };
    let waiters: Vec<_> = deadlock.edges.iter().map(|e| &e.waiter[..]).collect();
    assert_eq!(waiters, ["back (pid 102)", "other (pid 103)"]);
    assert_eq!(deadlock.edges[0].owner, deadlock.edges[1].waiter);
    assert_eq!(deadlock.edges[1].owner, deadlock.edges[0].waiter);
    // One of the two is enough: the other waits on, for a process that can act again.
    let failed = one.w.take(first);
    assert!(matches!(failed, Some(Err(e)) if e.errno == Errno::DEADLK.raw_os_error()));
    assert_eq!(one.w.take(second), None);
    one.w.done(back, Request::HoldRelease { hold });
    assert_eq!(one.w.take(second), Some(Ok(Reply::Done)));
}

#[test]
fn death_in_a_blocked_call_leaves_nothing_behind() {
    // Who dies: the mapper in munmap, or the consumer in whose hands the pages are.
    for mapper_dies in [true, false] {
        for kind in [HoldKind::Plain, HoldKind::I915] {
            let (mut pair, consumer, hold) = held(kind);
            let request = pair.munmap();
            let munmap = pair.w.send(pair.back, request);
            if mapper_dies {
                let back = pair.back;
                pair.w.kill(back);
                assert_eq!(pair.mapped_pages(), 4, "the consumer still holds");
                // The address space is gone, and with it whatever a release could wait for.
                pair.w.done(consumer, Request::HoldRelease { hold });
                pair.w.pass(Duration::from_millis(5));
            } else {
                pair.w.kill(consumer);
                assert_eq!(pair.w.take(munmap), Some(Ok(Reply::Done)));
            }
            assert_eq!(pair.mapped_pages(), 0);
            assert!(pair.w.replies.is_empty());
            for conn in [pair.front, pair.back, consumer] {
                pair.w.kill(conn);
            }
            pair.w.drain();
            pair.w.assert_empty();
        }
    }
}

#[test]
fn a_blocked_release_goes_on_when_the_mapper_dies() {
    let (mut pair, consumer, hold) = held(HoldKind::Plain);
    let other = pair.w.join(BACKEND, "other");
    let i915 = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::I915);
    pair.w.attach(other, i915);
    // An untagged munmap of the held pages, so that the release below is no cycle by itself.
    let (conn, vma) = (pair.back, pair.map.1);
    let request = Request::Munmap {
        vma,
        first_page: 1,
        pages: 2,
    };
    pair.w.step(Input::Request {
        conn,
        tag: None,
        request,
    });
    let release = pair.w.send(other, Request::HoldRelease { hold: i915 });
    assert_eq!(pair.w.take(release), None);
    pair.w.kill(conn);
    assert_eq!(pair.w.take(release), Some(Ok(Reply::Done)));
    pair.w.done(consumer, Request::HoldRelease { hold });
    pair.w.drain();
    assert_eq!(pair.mapped_pages(), 0);
}

#[test]
fn a_destroyed_domain_ends_its_blocked_calls() {
    let (mut pair, consumer, hold) = held(HoldKind::I915);
    let dom0 = pair.w.join(DomId::DOM0, "xl");
    let request = pair.munmap();
    let munmap = pair.w.send(pair.back, request);
    pair.w.done(dom0, Request::DestroyDomain { domid: BACKEND });
    assert_eq!(pair.w.take(munmap), None, "its connection is cut");
    assert_eq!(pair.mapped_pages(), 0);
    pair.w
        .refused(consumer, Request::HoldRelease { hold }, Errno::PERM);
}
