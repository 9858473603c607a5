//! The asynchronous unmap: who waits, for what, and how long.

use super::*;
use crate::sim::core::Action;
use crate::sim::wire::{DeviceKind, HoldKind, Request};
use crate::types::{Access, UnmapNotify};
use std::time::Duration;

#[test]
fn unheld_pages_are_unmapped_at_once() {
    let mut pair = Pair::mapped(Rig::new(), 4);
    assert_eq!(pair.mapped_pages(), 4);
    pair.unmap();
    assert_eq!(pair.mapped_pages(), 0);
    assert!(pair.byte_cleared());
    pair.assert_events(1);
    let state = pair.w.inspect();
    assert_eq!(
        (state.unmaps, state.deferred_unmaps, state.unmap_retries),
        (4, 0, 0)
    );
}

#[test]
fn nothing_is_unmapped_before_both_munmap_and_the_list_are_done() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    let request = pair.munmap();
    pair.w.done(pair.back, request);
    assert_eq!(pair.mapped_pages(), 2, "munmap alone");
    pair.assert_events(0);
    let (file, index, pages) = (pair.gntdev, pair.map.0, 2);
    pair.w
        .done(pair.back, Request::UnmapGrantRef { file, index, pages });
    assert_eq!(pair.mapped_pages(), 0);

    let mut pair = Pair::mapped(Rig::new(), 2);
    let (file, index, pages) = (pair.gntdev, pair.map.0, 2);
    pair.w
        .done(pair.back, Request::UnmapGrantRef { file, index, pages });
    assert_eq!(pair.mapped_pages(), 2, "UNMAP_GRANT_REF alone");
    let request = pair.munmap();
    pair.w.done(pair.back, request);
    assert_eq!(pair.mapped_pages(), 0);
    pair.assert_events(1);
}

#[test]
fn every_piece_of_a_split_mapping_counts() {
    let mut pair = Pair::mapped(Rig::new(), 5);
    let (file, index, pages) = (pair.gntdev, pair.map.0, 5);
    pair.w
        .done(pair.back, Request::UnmapGrantRef { file, index, pages });
    for (first_page, pages) in [(2, 1), (2, 1), (0, 1), (1, 2), (4, 1)] {
        assert_eq!(pair.mapped_pages(), 5, "before {first_page}+{pages}");
        let vma = pair.map.1;
        pair.w.done(
            pair.back,
            Request::Munmap {
                vma,
                first_page,
                pages,
            },
        );
    }
    assert_eq!(pair.mapped_pages(), 5, "page 3 is left");
    let vma = pair.map.1;
    pair.w.done(
        pair.back,
        Request::Munmap {
            vma,
            first_page: 3,
            pages: 1,
        },
    );
    assert_eq!(pair.mapped_pages(), 0);
    pair.assert_events(1);
}

#[test]
fn a_mapping_pins_its_file() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    let file = pair.gntdev;
    pair.w.done(pair.back, Request::Close { file });
    assert_eq!(pair.mapped_pages(), 1);
    let request = pair.munmap();
    pair.w.done(pair.back, request);
    assert_eq!(pair.mapped_pages(), 0);
    pair.assert_events(1);
}

/// The whole story, for both kinds of holder: the asynchronous kernel blocks neither side.
#[test]
fn a_held_page_defers_its_whole_run_and_blocks_nobody() {
    for kind in [HoldKind::Plain, HoldKind::I915] {
        let mut pair = Pair::mapped(Rig::new(), 4);
        let consumer = pair.w.join(BACKEND, "consumer");
        let hold = pair.w.pin(pair.back, pair.map.1, 2, 1, kind);
        assert_eq!(pair.w.attach(consumer, hold).len(), 1);
        pair.unmap();
        pair.dealloc();
        assert!(pair.byte_cleared(), "the byte goes when the unmap begins");
        assert_eq!(pair.mapped_pages(), 4, "one held page holds its run");
        assert_eq!(pair.w.inspect().unmapping.len(), 1);
        pair.w.pass(Duration::from_secs(1));
        assert_eq!(pair.mapped_pages(), 4);
        pair.assert_events(0);
        // The release itself unmaps nothing: the next retry does.
        pair.w.done(consumer, Request::HoldRelease { hold });
        assert_eq!(pair.mapped_pages(), 4);
        assert_eq!(pair.w.inspect().unmap_retries, 19);
        let retry = pair.w.machine.next_timer().unwrap();
        assert!(retry - pair.w.now <= Duration::from_millis(100));
        pair.w.pass(retry - pair.w.now);
        assert_eq!(pair.mapped_pages(), 0);
        pair.assert_events(1);
        assert!(pair.w.deadlocks().is_empty());
        pair.w.drain();
        let state = pair.w.inspect();
        assert!(state.grants.is_empty() && state.unmapping.is_empty() && state.holders.is_empty());
        assert_eq!((state.unmaps, state.deferred_unmaps), (4, 4));
    }
}

/// 5 ms, then 5 ms more each time, without a cap.
#[test]
fn retries_follow_the_kernels_schedule() {
    for (seconds, retries, gap_ms) in [(1, 19, 100), (10, 62, 315), (60, 154, 775)] {
        let mut pair = Pair::mapped(Rig::new(), 1);
        pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
        pair.unmap();
        pair.w.pass(Duration::from_secs(seconds));
        assert_eq!(pair.w.inspect().unmap_retries, retries, "{seconds} s");
        let state = pair.w.inspect();
        let [unmapping] = &state.unmapping[..] else {
            panic!("{state:?}")
        };
        assert_eq!(u64::from(unmapping.retries), retries);
        assert_eq!(unmapping.age_ms, seconds * 1000);
        assert_eq!(unmapping.grants, pair.grants());
        let began = pair.w.now - Duration::from_secs(seconds);
        let next = pair.w.machine.next_timer().unwrap() - began;
        // The sum of 5, 10, 15, ... is the time of each retry.
        let n = retries + 1;
        assert_eq!(next.as_millis() as u64, 5 * n * (n + 1) / 2);
        assert_eq!(5 * n, gap_ms);
    }
}

#[test]
fn two_holders_both_count() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    let one = pair.w.pin(pair.back, pair.map.1, 0, 2, HoldKind::Plain);
    let two = pair.w.pin(pair.back, pair.map.1, 1, 1, HoldKind::I915);
    pair.unmap();
    for hold in [one, two] {
        pair.w.pass(Duration::from_secs(2));
        assert_eq!(pair.mapped_pages(), 2);
        pair.w.done(pair.back, Request::HoldRelease { hold });
    }
    pair.w.pass(Duration::from_secs(2));
    assert_eq!(pair.mapped_pages(), 0);
}

#[test]
fn the_event_is_sent_even_when_the_mappers_files_are_closed() {
    // The notify keeps its own port; a second process of the domain hears it.
    let mut pair = Pair::granted(Rig::new(), 1);
    let watcher = pair.w.join(BACKEND, "watcher");
    let file = pair.w.open(watcher, DeviceKind::Evtchn);
    let heard = pair.w.port(
        watcher,
        Request::BindUnbound {
            file,
            remote: BACKEND,
        },
    );
    let bind = Request::BindInterdomain {
        file: pair.evtchn,
        remote: BACKEND,
        port: heard,
    };
    let port = pair.w.port(pair.back, bind);
    let grants = pair.grants();
    pair.map = pair.w.map(pair.back, pair.gntdev, &grants);
    let notify = UnmapNotify {
        clear_byte: false,
        send_event: Some(port),
    };
    pair.w.notify(pair.back, pair.gntdev, pair.map.0, notify);
    let hold = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
    pair.w.attach(watcher, hold);
    // The bind itself raised a port.
    pair.w.out.clear();
    pair.w.kill(pair.back);
    pair.w.pass(Duration::from_secs(1));
    assert_eq!(pair.mapped_pages(), 1);
    assert_eq!(pair.w.raises(), []);
    pair.w.done(watcher, Request::HoldRelease { hold });
    pair.w.pass(Duration::from_secs(1));
    assert_eq!(pair.mapped_pages(), 0);
    assert_eq!(pair.w.raises(), [(file, heard)]);
    // The port went with its last use: the watcher's end is unbound again.
    assert_eq!(pair.w.inspect().event_channels, 1);
}

#[test]
fn a_map_without_an_mmap_sends_the_event_and_clears_nothing() {
    let mut pair = Pair::granted(Rig::new(), 1);
    let grants = pair.grants();
    let index = pair.w.reserve(pair.back, pair.gntdev, &grants);
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: Some(pair.event.0),
    };
    pair.w.notify(pair.back, pair.gntdev, index, notify);
    let file = pair.gntdev;
    pair.w.done(
        pair.back,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 1,
        },
    );
    pair.assert_events(1);
    assert!(!pair.byte_cleared());
}

#[test]
fn a_byte_is_never_cleared_through_a_read_only_map() {
    let mut pair = Pair::granted(Rig::new(), 1);
    let grants = pair.grants();
    let index = pair.w.reserve(pair.back, pair.gntdev, &grants);
    // Armed before the mmap, when the driver cannot know yet.
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: None,
    };
    pair.w.notify(pair.back, pair.gntdev, index, notify);
    let file = pair.gntdev;
    let access = Access::ReadOnly;
    pair.w
        .call(
            pair.back,
            Request::Mmap {
                file,
                index,
                pages: 1,
                access,
            },
        )
        .unwrap();
    pair.w.kill(pair.back);
    assert_eq!(pair.mapped_pages(), 0);
    assert!(
        !pair
            .w
            .out
            .iter()
            .any(|o| matches!(o, Action::ClearByte { .. }))
    );
}

/// The granter's kernel retries each second, ten entries at a time, and complains once.
#[test]
fn ending_access_is_deferred_and_retried() {
    let mut pair = Pair::mapped(Rig::new(), 12);
    pair.dealloc();
    assert_eq!(
        pair.w.inspect().gntalloc_pages,
        0,
        "the quota is credited at once"
    );
    assert_eq!(pair.w.logs().len(), 12);
    assert!(
        pair.grants()
            .iter()
            .all(|g| pair.w.grant(*g) == Some((1, true)))
    );
    pair.unmap();
    assert_eq!(pair.w.inspect().grants.len(), 12, "freed by the timer only");
    pair.w.pass(Duration::from_millis(999));
    assert_eq!(pair.w.inspect().grants.len(), 12);
    pair.w.pass(Duration::from_millis(1));
    assert_eq!(pair.w.inspect().grants.len(), 2);
    pair.w.pass(Duration::from_secs(1));
    assert_eq!(pair.w.inspect().grants.len(), 0);
    assert!(pair.w.runs.is_empty());
    assert_eq!(pair.w.machine.next_timer(), None);
}

#[test]
fn a_grant_that_stays_in_use_is_reported_after_a_minute() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    pair.dealloc();
    pair.w.out.clear();
    pair.w.pass(Duration::from_secs(59));
    assert_eq!(pair.w.logs(), Vec::<String>::new());
    pair.w.pass(Duration::from_secs(1));
    assert_eq!(pair.w.logs(), ["d1: g.e. 0x8 still pending"]);
    pair.w.pass(Duration::from_secs(300));
    assert_eq!(pair.w.logs().len(), 1, "once");
}

#[test]
fn a_reference_in_use_is_not_given_out_again() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    pair.dealloc();
    let next = pair.w.alloc(pair.front, pair.front_alloc, BACKEND, 1);
    assert_ne!(next.grefs, pair.alloc.grefs);
    pair.unmap();
    pair.w.pass(Duration::from_secs(1));
    let next = pair.w.alloc(pair.front, pair.front_alloc, BACKEND, 1);
    assert_eq!(
        next.grefs, pair.alloc.grefs,
        "free again: last freed, first reused"
    );
}
