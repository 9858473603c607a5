//! Each way to break the machine, in the shortest history that shows it, next to the same history
//! on the machine as it is. A check that has never failed proves nothing.

use super::*;
use crate::sim::core::{Config, Input, KernelSabotage};
use crate::sim::wire::{HoldKind, Request, UnmapMode};
use crate::types::Access;
use std::time::Duration;

/// Plays a history on both machines; the check must say `why` on the broken one only.
#[track_caller]
fn caught(unmap: UnmapMode, how: KernelSabotage, why: &str, history: impl Fn(Rig) -> Rig) {
    let sound = history(Rig::with(Config {
        unmap,
        ..Config::default()
    }));
    assert_eq!(sound.check(), Ok(()), "{how:?}");
    let broken = history(Rig::sabotaged(unmap, how));
    match broken.check() {
        Err(said) => assert!(said.contains(why), "{how:?}: {said}"),
        Ok(()) => panic!("{how:?} goes unnoticed"),
    }
}

/// A mapper whose first page is held, in munmap and UNMAP_GRANT_REF.
fn unmapped_while_held(w: Rig) -> (Pair, crate::sim::wire::HoldId) {
    let mut pair = Pair::mapped(w, 2);
    let hold = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
    let (back, file, index) = (pair.back, pair.gntdev, pair.map.0);
    let munmap = pair.munmap();
    pair.w.send_unchecked(back, munmap);
    pair.w.send_unchecked(
        back,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 2,
        },
    );
    (pair, hold)
}

#[test]
fn an_unmap_under_a_holder_is_noticed() {
    let how = KernelSabotage::UnmapIgnoresReferences;
    caught(UnmapMode::Async, how, "(d)", |w| unmapped_while_held(w).0.w);
}

#[test]
fn a_map_freed_with_its_work_pending_is_noticed() {
    let how = KernelSabotage::NoMapReferenceAcrossAsync;
    caught(UnmapMode::Async, how, "(c)", |w| unmapped_while_held(w).0.w);
}

#[test]
fn a_second_unmap_of_one_handle_is_noticed() {
    caught(UnmapMode::Async, KernelSabotage::DoubleUnmap, "(b)", |w| {
        let (mut pair, hold) = unmapped_while_held(w);
        let back = pair.back;
        pair.w.send_unchecked(back, Request::HoldRelease { hold });
        pair.w.now += Duration::from_millis(5);
        pair.w.step_unchecked(Input::Timer);
        pair.w
    });
}

#[test]
fn an_event_that_comes_before_the_unmap_is_noticed() {
    let history = |w| {
        let (mut pair, hold) = unmapped_while_held(w);
        let heard = (pair.evtchn, pair.event.1);
        let early = pair.w.raises().contains(&heard);
        let back = pair.back;
        pair.w.send_unchecked(back, Request::HoldRelease { hold });
        pair.w.pass(Duration::from_secs(1));
        (early, pair.w.raises().contains(&heard))
    };
    assert_eq!(history(Rig::new()), (false, true));
    let broken = Rig::sabotaged(UnmapMode::Async, KernelSabotage::EventBeforeUnmap);
    assert_eq!(history(broken), (true, true));
}

#[test]
fn a_page_reused_while_mapped_is_noticed() {
    let how = KernelSabotage::ReuseWhileInUse;
    caught(UnmapMode::Async, how, "(e)", |w| {
        let mut pair = Pair::mapped(w, 1);
        let (front, file, index) = (pair.front, pair.front_alloc, pair.alloc.index);
        pair.w.send_unchecked(
            front,
            Request::DeallocGref {
                file,
                index,
                pages: 1,
            },
        );
        pair.w
    });
}

#[test]
fn a_release_that_is_never_woken_is_noticed() {
    let how = KernelSabotage::LostWakeup;
    caught(UnmapMode::Sync, how, "never woken", |w| {
        let mut pair = Pair::mapped(w, 2);
        let other = pair.w.join(BACKEND, "other");
        let i915 = pair.w.pin(pair.back, pair.map.1, 1, 1, HoldKind::I915);
        pair.w.attach(other, i915);
        let plain = pair.w.pin(pair.back, pair.map.1, 0, 1, HoldKind::Plain);
        let (conn, vma) = (pair.back, pair.map.1);
        let request = Request::Munmap {
            vma,
            first_page: 0,
            pages: 1,
        };
        pair.w.step(Input::Request {
            conn,
            tag: None,
            request,
        });
        pair.w.send(other, Request::HoldRelease { hold: i915 });
        pair.w
            .send_unchecked(conn, Request::HoldRelease { hold: plain });
        pair.w
    });
}

#[test]
fn a_hold_that_outlives_its_owner_is_noticed() {
    let how = KernelSabotage::HoldOutlivesOwner;
    caught(UnmapMode::Async, how, "outlives its owner", |w| {
        let (mut pair, _) = unmapped_while_held(w);
        let conn = pair.back;
        pair.w.step_unchecked(Input::Disconnected { conn });
        pair.w
    });
}

#[test]
fn a_quota_that_is_not_checked_is_noticed() {
    let how = KernelSabotage::NoQuota;
    caught(UnmapMode::Async, how, "the limit is", |w| {
        let mut pair = Pair::granted(w, 1);
        let (file, peer, access) = (pair.front_alloc, BACKEND, Access::ReadWrite);
        let request = Request::AllocGref {
            file,
            peer,
            access,
            pages: 1024,
        };
        pair.w.send_unchecked(pair.front, request);
        pair.w
    });
}
