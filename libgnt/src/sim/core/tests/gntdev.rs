//! gntdev's calls: what each accepts, and how it refuses.

use super::*;
use crate::sim::core::{Action, Attachment, Config};
use crate::sim::wire::{DeviceKind, FileId, HoldKind, Piece, Reply, Request};
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, GrantStatus, UnmapNotify};
use rustix::io::Errno;

fn foreign(domid: DomId, gref: u32) -> ForeignGrant {
    ForeignGrant {
        domid,
        gref: GrantRef(gref),
    }
}

fn mmap_request(file: FileId, index: u64, pages: u32, access: Access) -> Request {
    Request::Mmap {
        file,
        index,
        pages,
        access,
    }
}

#[test]
fn map_only_reserves_and_bounds_its_count() {
    let mut w = Rig::with(Config {
        gntdev_limit: 4,
        ..Config::default()
    });
    let back = w.join(BACKEND, "back");
    let file = w.open(back, DeviceKind::Gntdev);
    let bogus = |n| vec![foreign(DomId(77), 9); n];
    w.refused(
        back,
        Request::MapGrantRef {
            file,
            grants: bogus(0),
        },
        Errno::INVAL,
    );
    w.refused(
        back,
        Request::MapGrantRef {
            file,
            grants: bogus(5),
        },
        Errno::INVAL,
    );
    // No hypercall yet: nobody looks at the grants.
    assert_eq!(w.reserve(back, file, &bogus(4)), 0);
}

/// The driver's list: a new map goes where more room than it needs is free, else to the end.
#[test]
fn indexes_are_given_out_as_the_driver_does() {
    let mut w = Rig::new();
    let back = w.join(BACKEND, "back");
    let file = w.open(back, DeviceKind::Gntdev);
    let grants = |n| vec![foreign(GUEST, 8); n];
    assert_eq!(w.reserve(back, file, &grants(2)), 0);
    assert_eq!(w.reserve(back, file, &grants(3)), 2 * PAGE);
    assert_eq!(w.reserve(back, file, &grants(1)), 5 * PAGE);
    w.done(
        back,
        Request::UnmapGrantRef {
            file,
            index: 2 * PAGE,
            pages: 3,
        },
    );
    assert_eq!(
        w.reserve(back, file, &grants(3)),
        6 * PAGE,
        "an exact fit is passed over"
    );
    assert_eq!(
        w.reserve(back, file, &grants(2)),
        2 * PAGE,
        "the first gap that is larger"
    );
    assert_eq!(w.reserve(back, file, &grants(1)), 9 * PAGE);
    // Of another file, the same indexes.
    let other = w.open(back, DeviceKind::Gntdev);
    assert_eq!(w.reserve(back, other, &grants(1)), 0);
}

#[test]
fn mmap_wants_the_exact_range_once() {
    let mut pair = Pair::granted(Rig::new(), 2);
    let grants = pair.grants();
    let (back, file) = (pair.back, pair.gntdev);
    let index = pair.w.reserve(back, file, &grants);
    for (at, pages) in [
        (index, 1),
        (index, 3),
        (index + PAGE, 1),
        (index + 8 * PAGE, 2),
    ] {
        let request = mmap_request(file, at, pages, Access::ReadWrite);
        pair.w.refused(back, request, Errno::INVAL);
    }
    let odd = mmap_request(file, index + 1, 2, Access::ReadWrite);
    pair.w.refused(back, odd, Errno::INVAL);
    assert_eq!(pair.mapped_pages(), 0);
    pair.w.mmap(back, file, index, 2);
    assert_eq!(pair.mapped_pages(), 2);
    let again = mmap_request(file, index, 2, Access::ReadWrite);
    pair.w.refused(back, again, Errno::INVAL);
}

#[test]
fn an_mmapped_map_cannot_be_mmapped_again_after_munmap() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    let request = pair.munmap();
    pair.w.done(pair.back, request);
    let again = mmap_request(pair.gntdev, pair.map.0, 1, Access::ReadWrite);
    pair.w.refused(pair.back, again, Errno::INVAL);
}

#[test]
fn mmap_replies_with_the_pieces_and_their_memory() {
    let mut pair = Pair::granted(Rig::new(), 3);
    let mut grants = pair.grants();
    let other = pair.w.alloc(pair.front, pair.front_alloc, BACKEND, 1);
    grants.push(other.of(GUEST)[0]);
    grants.push(grants[0]);
    let index = pair.w.reserve(pair.back, pair.gntdev, &grants);
    let request = mmap_request(pair.gntdev, index, 5, Access::ReadWrite);
    let tag = pair.w.send(pair.back, request);
    let (_, answer, attach) = pair.w.replies.remove(&tag).unwrap();
    let Ok(Reply::Mapped { pieces, .. }) = answer else {
        panic!("{answer:?}")
    };
    let runs: Vec<_> = pair.w.runs.iter().copied().collect();
    let access = Access::ReadWrite;
    let piece = |run, first_page, pages| Piece {
        run,
        first_page,
        pages,
        access,
    };
    assert_eq!(
        pieces,
        [
            piece(runs[0], 0, 3),
            piece(runs[1], 0, 1),
            piece(runs[0], 0, 1)
        ]
    );
    let run = |run| Attachment::Run { run, access };
    assert_eq!(attach, [run(runs[0]), run(runs[1])]);
    assert_eq!(
        pair.w.grant(grants[0]),
        Some((2, false)),
        "mapped twice, counted twice"
    );
}

#[test]
fn one_bad_grant_fails_the_whole_mmap() {
    let mut w = Rig::new();
    let front = w.join(GUEST, "front");
    let back = w.join(BACKEND, "back");
    let stranger = w.join(DomId(3), "stranger");
    let alloc_file = w.open(front, DeviceKind::Gntalloc);
    let good = w.alloc(front, alloc_file, BACKEND, 1).of(GUEST)[0];
    let read_only = w
        .alloc_with(front, alloc_file, BACKEND, 1, Access::ReadOnly)
        .of(GUEST)[0];
    let others = w.alloc(front, alloc_file, DomId(3), 1).of(GUEST)[0];
    let own = w.alloc(front, alloc_file, GUEST, 1).of(GUEST)[0];
    let file = w.open(back, DeviceKind::Gntdev);
    let bad = [
        ("of no domain", foreign(DomId(77), 8)),
        ("of DOMID_SELF", foreign(DomId::SELF, 8)),
        ("beyond the table", foreign(GUEST, 60000)),
        ("not granted", foreign(GUEST, 100)),
        ("reserved", foreign(GUEST, 1)),
        ("granted to another", others),
        ("granted to its own domain", own),
        ("read-only, mapped writable", read_only),
    ];
    for (what, grant) in bad {
        let index = w.reserve(back, file, &[good, grant]);
        w.refused(
            back,
            mmap_request(file, index, 2, Access::ReadWrite),
            Errno::INVAL,
        );
        // PVH: the good sibling goes with the list's reference, not before.
        assert_eq!(w.grant(good), Some((1, false)), "{what}");
        w.refused(
            back,
            mmap_request(file, index, 2, Access::ReadWrite),
            Errno::INVAL,
        );
        w.done(
            back,
            Request::UnmapGrantRef {
                file,
                index,
                pages: 2,
            },
        );
        assert_eq!(w.grant(good), Some((0, false)), "{what}");
    }
    let index = w.reserve(back, file, &[read_only]);
    w.call(back, mmap_request(file, index, 1, Access::ReadOnly))
        .unwrap();
    assert_eq!(w.grant(read_only), Some((1, false)));
    // A domain may map what it granted to itself.
    let own_file = w.open(front, DeviceKind::Gntdev);
    w.map(front, own_file, &[own]);
    let strange_file = w.open(stranger, DeviceKind::Gntdev);
    w.map(stranger, strange_file, &[others]);
    for conn in [back, front, stranger] {
        w.kill(conn);
    }
    w.drain();
    w.assert_empty();
}

#[test]
fn closing_recovers_from_a_failed_mmap_too() {
    let mut pair = Pair::granted(Rig::new(), 2);
    let mut grants = pair.grants();
    grants.push(foreign(GUEST, 100));
    let (back, file) = (pair.back, pair.gntdev);
    let index = pair.w.reserve(back, file, &grants);
    pair.w.refused(
        back,
        mmap_request(file, index, 3, Access::ReadWrite),
        Errno::INVAL,
    );
    assert_eq!(pair.mapped_pages(), 2);
    pair.w.done(back, Request::Close { file });
    assert_eq!(pair.mapped_pages(), 0);
}

#[test]
fn unmap_names_a_map_exactly() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    let (back, file, index) = (pair.back, pair.gntdev, pair.map.0);
    for (index, pages) in [(index, 1), (index + PAGE, 1), (index + 2 * PAGE, 2)] {
        pair.w.refused(
            back,
            Request::UnmapGrantRef { file, index, pages },
            Errno::NOENT,
        );
    }
    pair.w.done(
        back,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 2,
        },
    );
    pair.w.refused(
        back,
        Request::UnmapGrantRef {
            file,
            index,
            pages: 2,
        },
        Errno::NOENT,
    );
    // The index is free at once, though the old mapping lives on.
    let grants = pair.grants();
    assert_eq!(pair.w.reserve(back, file, &grants), index);
}

#[test]
fn munmap_and_pin_stay_inside_the_mapping() {
    let mut pair = Pair::mapped(Rig::new(), 4);
    let (back, vma) = (pair.back, pair.map.1);
    for (first_page, pages) in [(0, 0), (0, 5), (4, 1), (3, 2), (u32::MAX, 2)] {
        let request = Request::Munmap {
            vma,
            first_page,
            pages,
        };
        pair.w.refused(back, request, Errno::INVAL);
    }
    let pin = |first_page, pages| Request::Pin {
        vma,
        first_page,
        pages,
        kind: HoldKind::Plain,
    };
    pair.w.refused(back, pin(1, 0), Errno::INVAL);
    pair.w.refused(back, pin(u32::MAX, 2), Errno::INVAL);
    pair.w.refused(back, pin(3, 2), Errno::FAULT);
    pair.w.done(
        back,
        Request::Munmap {
            vma,
            first_page: 1,
            pages: 1,
        },
    );
    pair.w.refused(back, pin(0, 2), Errno::FAULT);
    pair.w.refused(back, pin(1, 1), Errno::FAULT);
    pair.w.pin(back, vma, 2, 2, HoldKind::Plain);
    // munmap of what is not mapped any more is no error.
    pair.w.done(
        back,
        Request::Munmap {
            vma,
            first_page: 1,
            pages: 1,
        },
    );
    pair.w.done(
        back,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 4,
        },
    );
    pair.w.refused(
        back,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 4,
        },
        Errno::INVAL,
    );
    // gntalloc's memory is not for pinning here.
    let (front, file) = (pair.front, pair.front_alloc);
    let (vma, _) = pair.w.mmap(front, file, pair.alloc.index, 1);
    let request = Request::Pin {
        vma,
        first_page: 0,
        pages: 1,
        kind: HoldKind::Plain,
    };
    pair.w.refused(front, request, Errno::FAULT);
}

#[test]
fn notify_refuses_what_the_driver_refuses() {
    let mut pair = Pair::mapped(Rig::new(), 2);
    let (back, file, index) = (pair.back, pair.gntdev, pair.map.0);
    let set = |offset, clear_byte, send_event| Request::SetUnmapNotify {
        file,
        offset,
        notify: UnmapNotify {
            clear_byte,
            send_event,
        },
    };
    let port = pair.event.0;
    pair.w
        .refused(back, set(index + 2 * PAGE, true, None), Errno::NOENT);
    pair.w
        .refused(back, set(index, false, Some(EvtchnPort(99))), Errno::INVAL);
    pair.w
        .refused(back, set(index, false, Some(EvtchnPort(0))), Errno::INVAL);
    // The port is looked at first.
    pair.w.refused(
        back,
        set(index + 2 * PAGE, true, Some(EvtchnPort(99))),
        Errno::INVAL,
    );
    // Another process's port of the domain does as well.
    let other = pair.w.join(BACKEND, "other");
    let other_file = pair.w.open(other, DeviceKind::Evtchn);
    let (others_port, _) = pair.w.loopback(other, other_file);
    pair.w.done(back, set(index, false, Some(others_port)));
    // The last byte of the range, and a change of mind.
    pair.w
        .done(back, set(index + 2 * PAGE - 1, true, Some(port)));
    pair.w.done(back, set(index + PAGE + 5, true, None));
    pair.unmap();
    assert!(
        pair.w
            .out
            .iter()
            .any(|o| matches!(o, Action::ClearByte { offset, .. } if *offset == PAGE + 5))
    );
    pair.assert_events(0);
    pair.w.refused(back, set(index, true, None), Errno::NOENT);
}

#[test]
fn a_read_only_map_has_no_byte_to_clear() {
    let mut pair = Pair::granted(Rig::new(), 1);
    let grants = pair.grants();
    let (back, file) = (pair.back, pair.gntdev);
    let index = pair.w.reserve(back, file, &grants);
    pair.w
        .call(back, mmap_request(file, index, 1, Access::ReadOnly))
        .unwrap();
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: Some(pair.event.0),
    };
    let request = Request::SetUnmapNotify {
        file,
        offset: index,
        notify,
    };
    pair.w.refused(back, request, Errno::INVAL);
    let notify = UnmapNotify {
        clear_byte: false,
        send_event: Some(pair.event.0),
    };
    pair.w.notify(back, file, index, notify);
    pair.w.kill(back);
    assert_eq!(pair.mapped_pages(), 0);
}

#[test]
fn the_byte_is_cleared_with_the_run_that_it_is_in() {
    let mut pair = Pair::mapped(Rig::sync(), 4);
    let (back, vma) = (pair.back, pair.map.1);
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: None,
    };
    pair.w
        .notify(back, pair.gntdev, pair.map.0 + 2 * PAGE + 7, notify);
    let cleared = |w: &Rig| w.out.iter().any(|o| matches!(o, Action::ClearByte { .. }));
    pair.w.done(
        back,
        Request::Munmap {
            vma,
            first_page: 0,
            pages: 2,
        },
    );
    assert!(!cleared(&pair.w));
    pair.w.done(
        back,
        Request::Munmap {
            vma,
            first_page: 2,
            pages: 1,
        },
    );
    assert!(cleared(&pair.w));
}

#[test]
fn copy_attach_gives_xens_verdict() {
    let mut pair = Pair::granted(Rig::new(), 2);
    let read_only = pair
        .w
        .alloc_with(pair.front, pair.front_alloc, BACKEND, 1, Access::ReadOnly)
        .of(GUEST)[0];
    let others = pair
        .w
        .alloc(pair.front, pair.front_alloc, DomId(9), 1)
        .of(GUEST)[0];
    let good = pair.grants()[1];
    let (back, file) = (pair.back, pair.gntdev);
    let cases = [
        (foreign(DomId(77), 8), true, GrantStatus::BAD_DOMAIN),
        (foreign(GUEST, 60000), true, GrantStatus::BAD_GNTREF),
        (foreign(GUEST, 100), true, GrantStatus::GENERAL_ERROR),
        (others, false, GrantStatus::GENERAL_ERROR),
        (read_only, true, GrantStatus::GENERAL_ERROR),
        (read_only, false, GrantStatus::OKAY),
        (good, true, GrantStatus::OKAY),
    ];
    for (grant, write, expected) in cases {
        let tag = pair
            .w
            .send(back, Request::CopyAttach { file, grant, write });
        let (_, answer, attach) = pair.w.replies.remove(&tag).unwrap();
        let Ok(Reply::CopyPage {
            status,
            page,
            generation: 0,
        }) = answer
        else {
            panic!("{answer:?}")
        };
        assert_eq!(status, expected, "{grant}");
        assert_eq!(page, u32::from(grant == good));
        match &attach[..] {
            [] => assert!(!status.is_okay()),
            [
                Attachment::Run { access, .. },
                Attachment::Generations { domid: GUEST },
            ] => {
                assert_eq!(access.writable(), write);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_copied_page_is_free_only_when_no_copy_runs() {
    let mut pair = Pair::granted(Rig::new(), 1);
    let grant = pair.grants()[0];
    let (back, file) = (pair.back, pair.gntdev);
    let attach = Request::CopyAttach {
        file,
        grant,
        write: true,
    };
    pair.w.call(back, attach.clone()).unwrap();
    let in_use = Request::GrantsInUse {
        grefs: vec![grant.gref, GrantRef(99)],
    };
    let nothing = Ok(Reply::Grefs { grefs: vec![] });
    assert_eq!(
        pair.w.call(pair.front, in_use.clone()),
        nothing,
        "attached is not in use"
    );
    pair.dealloc();
    let revoke = |o: &Action| match o {
        Action::RevokeCopy {
            domid: GUEST,
            gref,
            generation,
        } => Some((*gref, *generation)),
        _ => None,
    };
    let revoked: Vec<_> = pair.w.out.iter().filter_map(revoke).collect();
    let [(gref, generation)] = revoked[..] else {
        panic!("{revoked:?}")
    };
    assert_eq!(gref, grant.gref);
    assert_ne!(generation, 0);
    // Revoked for everybody, but the page is not free.
    let Ok(Reply::CopyPage { status, .. }) = pair.w.call(back, attach.clone()) else {
        panic!()
    };
    assert_eq!(status, GrantStatus::GENERAL_ERROR);
    let used = Ok(Reply::Grefs {
        grefs: vec![grant.gref],
    });
    assert_eq!(pair.w.call(pair.front, in_use.clone()), used);
    assert_eq!(pair.w.runs.len(), 1);
    pair.w.drain_copies();
    assert_eq!(pair.w.call(pair.front, in_use), nothing);
    assert!(pair.w.runs.is_empty());
    // The reference comes again, with the word that the last user's copy does not have.
    let next = pair.w.alloc(pair.front, pair.front_alloc, BACKEND, 1);
    assert_eq!(next.grefs, [grant.gref]);
    let Ok(Reply::CopyPage {
        generation: now, ..
    }) = pair.w.call(back, attach)
    else {
        panic!()
    };
    assert_eq!(now, generation);
    // News about copies that never were is ignored.
    pair.w.step(crate::sim::core::Input::CopyDrained {
        domid: DomId(9),
        gref: grant.gref,
    });
    pair.w.step(crate::sim::core::Input::CopyDrained {
        domid: GUEST,
        gref: grant.gref,
    });
    assert_eq!(pair.w.grant(grant), Some((0, false)));
}

#[test]
fn a_page_that_is_mapped_and_copied_waits_for_both() {
    let mut pair = Pair::mapped(Rig::new(), 1);
    let grant = pair.grants()[0];
    let file = pair.gntdev;
    pair.w
        .call(
            pair.back,
            Request::CopyAttach {
                file,
                grant,
                write: false,
            },
        )
        .unwrap();
    pair.dealloc();
    assert!(
        pair.w.revoked.is_empty(),
        "the entry still grants while it is mapped"
    );
    pair.unmap();
    pair.w.pass(std::time::Duration::from_secs(1));
    assert_eq!(pair.w.revoked, [(GUEST, grant.gref)]);
    assert_eq!(pair.w.grant(grant), Some((0, true)));
    pair.w.drain_copies();
    assert_eq!(pair.w.grant(grant), None);
}
