//! gntalloc's calls.

use super::*;
use crate::sim::core::{Action, Config};
use crate::sim::wire::{DeviceKind, Reply, Request};
use crate::types::{Access, DomId, EvtchnPort, GrantRef, UnmapNotify};
use rustix::io::Errno;
use std::time::Duration;

#[test]
fn the_limit_is_each_domains_own() {
    let mut w = Rig::with(Config {
        gntalloc_limit: 5,
        ..Config::default()
    });
    let one = w.join(GUEST, "one");
    let two = w.join(BACKEND, "two");
    let one_file = w.open(one, DeviceKind::Gntalloc);
    let two_file = w.open(two, DeviceKind::Gntalloc);
    let alloc = |file, pages| Request::AllocGref {
        file,
        peer: DOM0,
        access: Access::ReadWrite,
        pages,
    };
    w.refused(one, alloc(one_file, u32::MAX), Errno::NOSPC);
    let first = w.alloc(one, one_file, DOM0, 3);
    w.refused(one, alloc(one_file, 3), Errno::NOSPC);
    w.alloc(two, two_file, DOM0, 5);
    w.refused(two, alloc(two_file, 1), Errno::NOSPC);
    w.alloc(one, one_file, DOM0, 2);
    w.refused(one, alloc(one_file, 1), Errno::NOSPC);
    assert_eq!(w.inspect().gntalloc_pages, 10);
    let index = first.index;
    w.done(
        one,
        Request::DeallocGref {
            file: one_file,
            index,
            pages: 3,
        },
    );
    w.alloc(one, one_file, DOM0, 3);
}

#[test]
fn a_full_grant_table_refuses_the_whole_allocation() {
    let mut w = Rig::with(Config {
        grant_entries: 12,
        ..Config::default()
    });
    let front = w.join(GUEST, "front");
    let file = w.open(front, DeviceKind::Gntalloc);
    let first = w.alloc(front, file, DOM0, 3);
    assert_eq!(first.grefs, [GrantRef(8), GrantRef(9), GrantRef(10)]);
    let too_many = Request::AllocGref {
        file,
        peer: DOM0,
        access: Access::ReadWrite,
        pages: 2,
    };
    w.refused(front, too_many, Errno::NOSPC);
    assert_eq!(w.inspect().grants.len(), 3, "nothing of it is left");
    assert_eq!(w.inspect().gntalloc_pages, 3);
    // The driver has used the indexes up by then.
    let last = w.alloc(front, file, DOM0, 1);
    assert_eq!(
        (last.index, &last.grefs[..]),
        (5 * PAGE, &[GrantRef(11)][..])
    );
}

#[test]
fn mmap_takes_any_contiguous_pages_any_number_of_times() {
    let mut w = Rig::new();
    let front = w.join(GUEST, "front");
    let file = w.open(front, DeviceKind::Gntalloc);
    let a = w.alloc(front, file, BACKEND, 3);
    let b = w.alloc(front, file, BACKEND, 2);
    let request = |index, pages| Request::Mmap {
        file,
        index,
        pages,
        access: Access::ReadWrite,
    };
    for (index, pages) in [
        (5 * PAGE, 1),
        (4 * PAGE, 2),
        (0, 6),
        (u64::MAX - PAGE + 1, 2),
    ] {
        w.refused(front, request(index, pages), Errno::NOENT);
    }
    w.refused(front, request(0, 0), Errno::INVAL);
    w.refused(front, request(8, 1), Errno::INVAL);
    for _ in 0..2 {
        assert_eq!(w.mmap(front, file, a.index + PAGE, 1).1.len(), 1);
        // Two allocations with neighbouring indexes are found as one, in two runs of memory.
        let (_, pieces) = w.mmap(front, file, 0, 5);
        assert_eq!(
            pieces
                .iter()
                .map(|p| (p.first_page, p.pages))
                .collect::<Vec<_>>(),
            [(0, 3), (0, 2)]
        );
    }
    w.done(
        front,
        Request::DeallocGref {
            file,
            index: b.index,
            pages: 1,
        },
    );
    w.refused(front, request(0, 4), Errno::NOENT);
    // Another file has its own.
    let other = w.open(front, DeviceKind::Gntalloc);
    let elsewhere = Request::Mmap {
        file: other,
        index: 0,
        pages: 1,
        access: Access::ReadWrite,
    };
    w.refused(front, elsewhere, Errno::NOENT);
}

#[test]
fn dealloc_wants_pages_that_are_there() {
    let mut w = Rig::new();
    let front = w.join(GUEST, "front");
    let file = w.open(front, DeviceKind::Gntalloc);
    let alloc = w.alloc(front, file, BACKEND, 3);
    let dealloc = |index, pages| Request::DeallocGref { file, index, pages };
    for (index, pages) in [
        (0, 0),
        (0, 4),
        (3 * PAGE, 1),
        (1, 1),
        (u64::MAX - 4095, u32::MAX),
    ] {
        w.refused(front, dealloc(index, pages), Errno::INVAL);
    }
    w.done(front, dealloc(alloc.index + PAGE, 1));
    w.refused(front, dealloc(0, 3), Errno::INVAL);
    w.done(front, dealloc(0, 1));
    assert_eq!(w.runs.len(), 1, "the last page keeps the run");
    w.done(front, dealloc(2 * PAGE, 1));
    assert!(w.runs.is_empty());
}

#[test]
fn a_mapped_page_outlives_dealloc_and_close() {
    let mut w = Rig::new();
    let front = w.join(GUEST, "front");
    let file = w.open(front, DeviceKind::Gntalloc);
    let alloc = w.alloc(front, file, BACKEND, 3);
    let (vma, _) = w.mmap(front, file, alloc.index, 3);
    w.done(
        front,
        Request::DeallocGref {
            file,
            index: alloc.index,
            pages: 3,
        },
    );
    assert_eq!(w.inspect().gntalloc_pages, 3);
    w.done(front, Request::Close { file });
    assert_eq!(w.inspect().grants.len(), 3);
    for (first_page, pages) in [(1, 1), (0, 1)] {
        w.done(
            front,
            Request::Munmap {
                vma,
                first_page,
                pages,
            },
        );
        // After a split, the pages go together with the last piece.
        assert_eq!(w.inspect().grants.len(), 3);
    }
    w.done(
        front,
        Request::Munmap {
            vma,
            first_page: 2,
            pages: 1,
        },
    );
    assert_eq!(w.inspect().grants.len(), 0);
    w.kill(front);
    w.assert_empty();
}

#[test]
fn dealloc_succeeds_under_the_peer_and_keeps_the_page() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    pair.dealloc();
    assert_eq!(pair.w.inspect().gntalloc_pages, 0);
    assert_eq!(pair.w.runs.len(), 1);
    let grefs = pair.alloc.grefs.clone();
    let in_use = Request::GrantsInUse {
        grefs: grefs.clone(),
    };
    assert_eq!(
        pair.w.call(pair.front, in_use.clone()),
        Ok(Reply::Grefs { grefs })
    );
    // Its flags stand while it is in use: the peer may even map it again.
    let grants = pair.grants();
    let again = pair.w.map(pair.back, pair.gntdev, &grants[..1]);
    pair.unmap();
    pair.w.pass(Duration::from_secs(2));
    let still = Ok(Reply::Grefs {
        grefs: vec![pair.alloc.grefs[0]],
    });
    assert_eq!(pair.w.call(pair.front, in_use), still);
    pair.w.unmap(pair.back, pair.gntdev, again, 1);
    pair.w.pass(Duration::from_secs(2));
    assert!(pair.w.runs.is_empty());
}

#[test]
fn unmap_notify_acts_when_this_side_goes() {
    let mut w = Rig::new();
    let front = w.join(GUEST, "front");
    let file = w.open(front, DeviceKind::Gntalloc);
    let evtchn = w.open(front, DeviceKind::Evtchn);
    let (port, heard) = w.loopback(front, evtchn);
    let alloc = w.alloc(front, file, BACKEND, 2);
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: Some(port),
    };
    let set = |offset, notify| Request::SetUnmapNotify {
        file,
        offset,
        notify,
    };
    w.refused(front, set(2 * PAGE, notify), Errno::NOENT);
    let bad = UnmapNotify {
        clear_byte: true,
        send_event: Some(EvtchnPort(4000)),
    };
    w.refused(front, set(0, bad), Errno::INVAL);
    // One notify a page.
    w.done(front, set(alloc.index + 9, notify));
    w.done(front, set(alloc.index + PAGE + 62, notify));
    let (vma, _) = w.mmap(front, file, alloc.index, 2);
    w.done(
        front,
        Request::DeallocGref {
            file,
            index: alloc.index,
            pages: 2,
        },
    );
    assert!(w.raises().is_empty(), "still mapped here");
    w.done(
        front,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 2,
        },
    );
    assert_eq!(w.raises(), [(evtchn, heard), (evtchn, heard)]);
    let cleared = |o: &Action| match o {
        Action::ClearByte { offset, .. } => Some(*offset),
        _ => None,
    };
    let cleared: Vec<_> = w.out.iter().filter_map(cleared).collect();
    assert_eq!(cleared, [9, PAGE + 62]);
}

#[test]
fn a_granters_death_notifies_before_access_ends() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    let (front, file) = (pair.front, pair.front_alloc);
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: None,
    };
    pair.w.notify(front, file, pair.alloc.index + 62, notify);
    pair.w.kill(front);
    assert!(
        pair.w
            .out
            .iter()
            .any(|o| matches!(o, Action::ClearByte { offset: 62, .. }))
    );
    assert_eq!(pair.w.grant(pair.grants()[0]), Some((1, true)));
    pair.unmap();
    pair.w.drain();
    assert_eq!(pair.w.grant(pair.grants()[0]), None);
}

#[test]
fn nothing_is_allocated_for_nothing() {
    let mut w = Rig::new();
    let front = w.join(GUEST, "front");
    let file = w.open(front, DeviceKind::Gntalloc);
    assert!(w.alloc(front, file, DomId(9), 0).grefs.is_empty());
    assert!(w.runs.is_empty());
}
