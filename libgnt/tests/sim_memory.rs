//! Grants of the simulated Xen through the platform traits: memory that is really shared,
//! permissions that really hold, errnos of the real drivers.
#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]
#![allow(unsafe_code, reason = "mprotect, to see that the kernel refuses it")]

mod sim_common;

use libgnt::platform::{CopySegment, CopySide, Gntalloc, Gntdev, Platform};
use libgnt::types::{Access, DomId, ForeignGrant, GrantRef, GrantStatus, PAGE_SIZE};
use libgnt::{Error, SharedPages};
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, mprotect};
use sim_common::{Xen, byte, errno, eventually, grants};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

#[test]
fn both_sides_see_each_others_writes() {
    let xen = Xen::start();
    let (front, back) = (xen.join(5, "front"), xen.join(0, "back"));
    let gntalloc = front.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(0), 3, Access::ReadWrite).unwrap();
    assert_eq!(run.grefs.len(), 3);
    let ours = gntalloc.mmap(run.index, 3).unwrap();

    let gntdev = back.open_gntdev().unwrap();
    // Out of order, so that a page's place comes from its reference and not from its address.
    let order = [run.grefs[2], run.grefs[0], run.grefs[1]];
    let index = gntdev.map_grant_ref(&grants(5, &order)).unwrap();
    let theirs = gntdev.mmap(index, 3, Access::ReadWrite).unwrap();
    for page in 0..3 {
        ours.write(page * PAGE_SIZE, &[page as u8 + 1]);
    }
    assert_eq!(
        [0, 1, 2].map(|page| byte(&theirs, page * PAGE_SIZE)),
        [3, 1, 2]
    );
    theirs.write(PAGE_SIZE + 7, b"from the back end");
    let mut there = [0; 17];
    ours.read(7, &mut there);
    assert_eq!(&there, b"from the back end");

    assert_eq!(
        gntdev
            .offset_for_vaddr(theirs.address() + PAGE_SIZE + 5)
            .unwrap(),
        (index, 3)
    );
    assert_eq!(errno(gntdev.offset_for_vaddr(ours.address())), Errno::INVAL);
    let address = theirs.address();
    assert_eq!(
        front.grants_in_use(&run.grefs).unwrap(),
        Some(run.grefs.clone())
    );
    theirs.unmap().unwrap();
    assert_eq!(errno(gntdev.offset_for_vaddr(address)), Errno::INVAL);
    gntdev.unmap_grant_ref(index, 3).unwrap();
    eventually("the unmap", || {
        front
            .grants_in_use(&run.grefs)
            .unwrap()
            .is_some_and(|g| g.is_empty())
    });
}

#[test]
fn a_read_only_grant_cannot_be_written_through() {
    let xen = Xen::start();
    let (front, back) = (xen.join(5, "front"), xen.join(0, "back"));
    let gntalloc = front.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(0), 1, Access::ReadOnly).unwrap();
    let ours = gntalloc.mmap(run.index, 1).unwrap();
    let gntdev = back.open_gntdev().unwrap();

    let index = gntdev.map_grant_ref(&grants(5, &run.grefs)).unwrap();
    assert_eq!(
        errno(gntdev.mmap(index, 1, Access::ReadWrite)),
        Errno::INVAL
    );
    gntdev.unmap_grant_ref(index, 1).unwrap();

    let index = gntdev.map_grant_ref(&grants(5, &run.grefs)).unwrap();
    let theirs = gntdev.mmap(index, 1, Access::ReadOnly).unwrap();
    ours.write(0, b"x");
    assert_eq!(byte(&theirs, 0), b'x');
    let address = theirs.address() as *mut std::ffi::c_void;
    // SAFETY: a mapping of ours; the call is expected to change nothing.
    let forced = unsafe {
        mprotect(
            address,
            PAGE_SIZE,
            MprotectFlags::READ | MprotectFlags::WRITE,
        )
    };
    assert_eq!(
        forced,
        Err(Errno::ACCESS),
        "the descriptor must forbid it, not only our flags"
    );
}

#[test]
fn one_bad_reference_fails_the_whole_mmap() {
    let xen = Xen::start();
    let (front, back) = (xen.join(5, "front"), xen.join(0, "back"));
    let gntalloc = front.open_gntalloc().unwrap();
    let run = gntalloc.alloc_gref(DomId(0), 2, Access::ReadWrite).unwrap();
    let gntdev = back.open_gntdev().unwrap();
    let batch = [run.grefs[0], GrantRef(9999), run.grefs[1]];
    let index = gntdev
        .map_grant_ref(&grants(5, &batch))
        .expect("nothing is checked yet");
    assert_eq!(
        errno(gntdev.mmap(index, 3, Access::ReadWrite)),
        Errno::INVAL
    );
    gntdev.unmap_grant_ref(index, 3).unwrap();
    eventually("the good ones let go", || {
        front
            .grants_in_use(&run.grefs)
            .unwrap()
            .is_some_and(|g| g.is_empty())
    });
    let inspection = back.inspect().unwrap();
    assert!(
        inspection.grants.iter().all(|grant| grant.maps == 0),
        "{inspection:?}"
    );
}

#[test]
fn errnos_are_the_drivers() {
    let xen = Xen::start();
    let (front, back) = (xen.join(5, "front"), xen.join(0, "back"));
    let gntdev = back.open_gntdev().unwrap();
    assert_eq!(errno(gntdev.map_grant_ref(&[])), Errno::INVAL);
    assert_eq!(errno(gntdev.unmap_grant_ref(0x7000, 1)), Errno::NOENT);
    assert_eq!(
        errno(gntdev.mmap(0x7000, 1, Access::ReadOnly)),
        Errno::INVAL
    );
    assert_eq!(errno(gntdev.set_max_grants(1)), Errno::NOTTY);
    assert_eq!(
        errno(gntdev.dmabuf_export(DomId(5), &[GrantRef(8)], 0)),
        Errno::NOTTY
    );
    let gntalloc = front.open_gntalloc().unwrap();
    assert_eq!(errno(gntalloc.mmap(0x7000, 1)), Errno::NOENT);
    assert_eq!(errno(gntalloc.dealloc_gref(0x7000, 1)), Errno::INVAL);
    let over = gntalloc.alloc_gref(DomId(0), 1025, Access::ReadWrite);
    assert_eq!(errno(over), Errno::NOSPC);
    let all = gntalloc
        .alloc_gref(DomId(0), 1024, Access::ReadWrite)
        .unwrap();
    let other = back.open_gntalloc().unwrap();
    let more = other.alloc_gref(DomId(5), 1, Access::ReadWrite);
    more.expect("each domain's kernel has a limit of its own");
    let more = front
        .open_gntalloc()
        .unwrap()
        .alloc_gref(DomId(0), 1, Access::ReadWrite);
    assert_eq!(errno(more), Errno::NOSPC, "not each file");
    gntalloc.dealloc_gref(all.index, 1024).unwrap();
    gntalloc
        .alloc_gref(DomId(0), 1, Access::ReadWrite)
        .expect("there is room again");
}

#[test]
fn a_map_of_hundreds_of_runs_gets_all_its_descriptors() {
    let xen = Xen::start();
    let (front, back) = (xen.join(5, "front"), xen.join(0, "back"));
    let gntalloc = front.open_gntalloc().unwrap();
    let mut grefs = Vec::new();
    for mark in 0..600u32 {
        let run = gntalloc.alloc_gref(DomId(0), 1, Access::ReadWrite).unwrap();
        gntalloc
            .mmap(run.index, 1)
            .unwrap()
            .store_u32(8, mark, Ordering::Release);
        grefs.extend(run.grefs);
    }
    let gntdev = back.open_gntdev().unwrap();
    let index = gntdev.map_grant_ref(&grants(5, &grefs)).unwrap();
    let all = gntdev.mmap(index, 600, Access::ReadOnly).unwrap();
    for mark in 0..600 {
        assert_eq!(
            all.load_u32(mark * PAGE_SIZE + 8, Ordering::Acquire),
            mark as u32
        );
    }
}

fn copy_segment<'a>(source: CopySide<'a>, dest: CopySide<'a>, len: u16) -> CopySegment<'a> {
    CopySegment {
        source,
        dest,
        len,
        status: GrantStatus::GENERAL_ERROR,
    }
}

fn of(grant: ForeignGrant, offset: u16) -> CopySide<'static> {
    CopySide::Grant { grant, offset }
}

struct CopyTest {
    xen: Xen,
    gntalloc: Box<dyn Gntalloc>,
    gntdev: Box<dyn Gntdev>,
    local: SharedPages,
}

impl CopyTest {
    fn new() -> Self {
        let xen = Xen::start();
        let gntalloc = xen.join(5, "front").open_gntalloc().unwrap();
        let gntdev = xen.join(0, "back").open_gntdev().unwrap();
        CopyTest {
            xen,
            gntalloc,
            gntdev,
            local: SharedPages::anonymous(2).unwrap(),
        }
    }

    fn local(&self, offset: usize) -> CopySide<'_> {
        CopySide::Local {
            pages: &self.local,
            offset,
        }
    }
}

#[test]
fn a_copy_goes_both_ways_and_costs_no_message_once_attached() {
    let t = CopyTest::new();
    let run = t
        .gntalloc
        .alloc_gref(DomId(0), 2, Access::ReadWrite)
        .unwrap();
    let ours = t.gntalloc.mmap(run.index, 2).unwrap();
    let [first, second] = [0, 1].map(|n| grants(5, &run.grefs)[n]);
    ours.write(100, b"payload");
    let round = || {
        let mut segments = [
            // A local side may cross pages.
            copy_segment(of(first, 100), t.local(PAGE_SIZE - 3), 7),
            copy_segment(t.local(PAGE_SIZE - 3), of(second, 4089), 7),
            copy_segment(of(second, 4089), of(first, 0), 7),
        ];
        t.gntdev.grant_copy(&mut segments).unwrap();
        assert!(
            segments.iter().all(|segment| segment.status.is_okay()),
            "{segments:?}"
        );
    };
    round();
    let mut there = [0; 7];
    ours.read(PAGE_SIZE + 4089, &mut there);
    assert_eq!(&there, b"payload");
    ours.read(0, &mut there);
    assert_eq!(&there, b"payload");
    let before = t.xen.host.stats().requests();
    for _ in 0..1000 {
        round();
    }
    assert_eq!(
        t.xen.host.stats().requests(),
        before,
        "a copy asked the host"
    );
}

#[test]
fn a_copy_is_checked_as_the_driver_and_xen_do() {
    let t = CopyTest::new();
    let run = t
        .gntalloc
        .alloc_gref(DomId(0), 1, Access::ReadOnly)
        .unwrap();
    let ours = t.gntalloc.mmap(run.index, 1).unwrap();
    ours.write(0, b"good");
    let grant = grants(5, &run.grefs)[0];
    let bad = ForeignGrant {
        gref: GrantRef(7777),
        ..grant
    };
    let mut segments = [
        copy_segment(of(bad, 0), t.local(0), 4),
        copy_segment(of(grant, 0), t.local(64), 4),
        copy_segment(t.local(0), of(grant, 0), 4),
    ];
    t.gntdev
        .grant_copy(&mut segments)
        .expect("statuses, not an errno");
    assert_eq!(segments[0].status, GrantStatus::BAD_GNTREF);
    assert_eq!(segments[1].status, GrantStatus::OKAY);
    assert!(!segments[2].status.is_okay(), "wrote to a read-only grant");
    let mut there = [0; 4];
    t.local.read(64, &mut there);
    assert_eq!(&there, b"good");

    let refused = [
        (copy_segment(t.local(0), t.local(64), 4), Errno::INVAL),
        (copy_segment(of(grant, 4093), t.local(0), 4), Errno::INVAL),
        (
            copy_segment(of(grant, 0), t.local(2 * PAGE_SIZE - 3), 4),
            Errno::FAULT,
        ),
    ];
    for (segment, expected) in refused {
        assert_eq!(errno(t.gntdev.grant_copy(&mut [segment])), expected);
    }
}

#[test]
fn a_copy_from_an_ended_grant_fails_although_it_was_cached() {
    let t = CopyTest::new();
    let run = t
        .gntalloc
        .alloc_gref(DomId(0), 1, Access::ReadWrite)
        .unwrap();
    let grant = grants(5, &run.grefs)[0];
    let copy = || {
        let mut segments = [copy_segment(of(grant, 0), t.local(0), 8)];
        t.gntdev.grant_copy(&mut segments).unwrap();
        segments[0].status
    };
    assert_eq!(copy(), GrantStatus::OKAY);
    t.gntalloc.dealloc_gref(run.index, 1).unwrap();
    // Xen's own word for an entry that is not in use.
    assert_eq!(copy(), GrantStatus::GENERAL_ERROR);
}

/// Copies run while the grant ends, and its reference is granted anew, again and again. A copy
/// that began after a grant was gone never succeeds with that grant's page.
#[test]
fn no_copy_sees_a_page_after_its_grant_is_gone() {
    let t = Arc::new(CopyTest::new());
    let back = t.xen.join(0, "toolstack");
    let first = t
        .gntalloc
        .alloc_gref(DomId(0), 1, Access::ReadWrite)
        .unwrap();
    let grant = grants(5, &first.grefs)[0];
    t.gntalloc.dealloc_gref(first.index, 1).unwrap();
    // Every grant's page is full of its own number, or still zero.
    let newest_gone = Arc::new(AtomicU8::new(0));
    let newest_copied = Arc::new(AtomicU8::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let copier = {
        let (t, done) = (Arc::clone(&t), Arc::clone(&done));
        let (gone, newest) = (Arc::clone(&newest_gone), Arc::clone(&newest_copied));
        std::thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                let gone = gone.load(Ordering::Acquire);
                let mut segments = [copy_segment(of(grant, 0), t.local(0), 4096)];
                t.gntdev.grant_copy(&mut segments).unwrap();
                if segments[0].status.is_okay() {
                    let mut page = [0; PAGE_SIZE];
                    t.local.read(0, &mut page);
                    for number in page {
                        assert!(
                            number == 0 || number > gone,
                            "copied grant {number} after {gone}"
                        );
                        newest.fetch_max(number, Ordering::AcqRel);
                    }
                }
            }
        })
    };
    let mut regranted = 0;
    for number in 1..=200 {
        let run = t
            .gntalloc
            .alloc_gref(DomId(0), 1, Access::ReadWrite)
            .unwrap();
        let ours = t.gntalloc.mmap(run.index, 1).unwrap();
        ours.fill(0, PAGE_SIZE, number);
        if run.grefs[0] == grant.gref {
            regranted += 1;
            eventually("a copy", || {
                copier.is_finished() || newest_copied.load(Ordering::Acquire) == number
            });
        }
        ours.unmap().unwrap();
        t.gntalloc.dealloc_gref(run.index, 1).unwrap();
        eventually("the grant's end", || {
            back.inspect().unwrap().grants.is_empty()
        });
        newest_gone.store(number, Ordering::Release);
    }
    done.store(true, Ordering::Release);
    copier.join().unwrap();
    assert!(
        regranted > 1,
        "the reference never came back: the test shows nothing"
    );
}

#[test]
fn no_host_is_said_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let error = libgnt::sim::client::connect(dir.path(), None, "lonely").expect_err("no host");
    assert!(matches!(error, Error::NotAvailable { .. }));
    let text = error.to_string();
    let cure = format!("host that serves {}", dir.path().display());
    assert!(text.contains(&cure), "{text}");
}
