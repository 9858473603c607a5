//! When a mapping lets its grants go. The granter has deallocated them and waits: as long as they
//! still serve a copy, the hypervisor has them mapped here.
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::{On, Rule};
use crate::things::{Bell, peek, refused, same};
use libgnt::{Access, GrantRef, PAGE_SIZE};
use pv_harness::hand::device::Mapping;
use pv_harness::hand::{Pages, ShareId};
use pv_harness::memory::write_from;
use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use std::os::fd::AsFd;

const PUT: &str = "drivers/xen/gntdev.c: gntdev_put_map, gntdev_vma_close";
const CLOSE: &str = "drivers/xen/gntdev.c: gntdev_release, gntdev_put_map";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "release-needs-munmap-and-ioctl",
        "munmap alone releases nothing; the UNMAP_GRANT_REF that follows does.",
        PUT,
        munmap_then_ioctl,
    ),
    Rule::new(
        "unmap-ioctl-leaves-the-mapping",
        "UNMAP_GRANT_REF succeeds while mmapped and the mapping stays live; munmap then releases.",
        PUT,
        ioctl_then_munmap,
    ),
    Rule::new(
        "close-leaves-the-mapping",
        "A mapping pins its file: close releases nothing while it stands, and munmap then does.",
        CLOSE,
        close_then_munmap,
    ),
    Rule::new(
        "close-after-munmap-releases",
        "After munmap the last close releases what UNMAP_GRANT_REF has not.",
        CLOSE,
        munmap_then_close,
    ),
    Rule::new(
        "partial-munmap-releases-nothing",
        "A map goes as a whole: with part of it unmapped, none of its grants is released.",
        "drivers/xen/gntdev.c: gntdev_vma_open, gntdev_vma_close",
        partial_munmap,
    ),
    Rule::new(
        "mprotect-releases-nothing",
        "On PVH and HVM mprotect, which splits the mapping, touches no grant.",
        "drivers/xen/gntdev.c: gntdev_vma_open (use_ptemod is false)",
        mprotect,
    )
    .on(On::NotPv("it unmaps the pages: pv-mprotect-unmaps")),
    Rule::new(
        "madvise-dontneed-cannot-be-undone",
        "After MADV_DONTNEED nothing brings a page of a mapping back: there is no fault handler.",
        "drivers/xen/gntdev.c: gntdev_vmops",
        dont_need,
    ),
    Rule::new(
        "failed-mmap-keeps-its-good-grants",
        "The good grants of a failed mmap stay mapped until the reservation is given back.",
        "drivers/xen/gntdev.c: gntdev_mmap (out_put_map), gntdev_put_map",
        failed_mmap,
    )
    .on(On::NotPv("they go at once: pv-failed-mmap-keeps-nothing")),
    Rule::new(
        "unmap-of-a-reservation-never-mapped",
        "A reservation that was never mmapped is given back without any hypercall.",
        "drivers/xen/gntdev.c: unmap_grant_pages (live_grants)",
        never_mapped,
    ),
];

struct Case<'a> {
    bench: &'a Bench,
    share: ShareId,
    grant: libgnt::ForeignGrant,
    map: Mapping,
    bell: Bell,
}

/// A mapped page whose granter wants it back, and a bell that its release rings.
fn wanted_back<'a>(bench: &'a Bench) -> Outcome<Case<'a>> {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (share, grant) = bench.granted_page()?;
    let map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.arm(0, bell.event())?;
    bench.peer()?.dealloc(share)?;
    Ok(Case {
        bench,
        share,
        grant,
        map,
        bell,
    })
}

impl Case<'_> {
    /// The granter has still its own mapping to write to.
    fn live(&self) -> Outcome {
        let word = fastrand::u32(..).to_le_bytes();
        self.bench
            .peer()?
            .poke(Pages::Share(self.share), 100, &word)?;
        same(
            "what the granter wrote just now",
            peek(self.map.pages()?, 100, 4),
            word.to_vec(),
        )
    }

    fn not_released(&self, why: &str) -> Outcome {
        self.bell.silent(why)?;
        self.bench.serves(self.grant, why)
    }

    fn released(&self, why: &str) -> Outcome {
        self.bell.expect(why)?;
        self.bench.peer()?.munmap(Pages::Share(self.share))?;
        self.bench.ends(self.grant, why)
    }
}

fn munmap_then_ioctl(bench: &Bench) -> Outcome {
    let mut case = wanted_back(bench)?;
    case.map.munmap()?;
    case.not_released("only munmap was done")?;
    case.map.give_back()?;
    case.released("munmap and ioctl were done")
}

fn ioctl_then_munmap(bench: &Bench) -> Outcome {
    let mut case = wanted_back(bench)?;
    case.map.give_back()?;
    case.not_released("it is still mmapped")?;
    case.live()?;
    case.map.munmap()?;
    case.released("ioctl and munmap were done")
}

fn close_then_munmap(bench: &Bench) -> Outcome {
    let mut case = wanted_back(bench)?;
    case.map.file = None;
    case.not_released("the mapping keeps the file")?;
    case.live()?;
    case.map.munmap()?;
    case.released("close and munmap were done")
}

fn munmap_then_close(bench: &Bench) -> Outcome {
    let mut case = wanted_back(bench)?;
    case.map.munmap()?;
    case.not_released("the file is open")?;
    case.map.file = None;
    case.released("munmap and close were done")
}

fn partial_munmap(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(3, Access::ReadWrite)?;
    let mut map = Mapping::new(bench.platform(), &granted.grants, Access::ReadWrite)?;
    map.arm(0, bell.event())?;
    map.give_back()?;
    bench.peer()?.dealloc(granted.share)?;
    bench.cut_first_page(map.pages()?)?;
    bell.silent("two pages of three are still mapped")?;
    bench.serves(granted.grants[0], "its map is not gone")?;
    bench
        .peer()?
        .poke(Pages::Share(granted.share), PAGE_SIZE, b"live")?;
    let second = peek(map.pages()?, PAGE_SIZE, 4);
    same("the second page", second, b"live".to_vec())?;
    map.munmap()?;
    bell.expect("all pages are unmapped")?;
    bench.peer()?.munmap(Pages::Share(granted.share))?;
    bench.ends(granted.grants[0], "all pages are unmapped")
}

fn mprotect(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(3, Access::ReadWrite)?;
    let theirs = Pages::Share(granted.share);
    let mut map = Mapping::new(bench.platform(), &granted.grants, Access::ReadWrite)?;
    map.arm(0, bell.event())?;
    map.give_back()?;
    bench.peer()?.dealloc(granted.share)?;
    bench.protect(map.pages()?, 1, 1, MprotectFlags::empty())?;
    bell.silent("the pages are mapped, one without access")?;
    bench.serves(
        granted.grants[1],
        "its protection is this process's own matter",
    )?;
    bench.peer()?.poke(theirs, PAGE_SIZE, b"live")?;
    bench.protect(
        map.pages()?,
        1,
        1,
        MprotectFlags::READ | MprotectFlags::WRITE,
    )?;
    let page = peek(map.pages()?, PAGE_SIZE, 4);
    same("the page, accessible again", page, b"live".to_vec())?;
    map.munmap()?;
    bell.expect("all pages are unmapped")
}

fn dont_need(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    bench.drop_first_page(map.pages()?)?;
    let (_read, write) = rustix::pipe::pipe()?;
    let written = write_from(map.pages()?, write.as_fd());
    same("write(2) from the page", written, Err(Errno::FAULT))
}

fn failed_mmap(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let bad = bench.of_peer(GrantRef(400));
    let file = bench.platform().open_gntdev()?;
    let grants = [granted.grants[0], bad, granted.grants[1]];
    let index = file.map_grant_ref(&grants)?;
    let failed = file.mmap(index, 3, Access::ReadWrite);
    refused("good, bad, good", failed, Errno::INVAL)?;
    bench.peer()?.let_go(granted.share)?;
    bench.serves(granted.grants[0], "the reservation has it mapped")?;
    bench.serves(granted.grants[1], "the reservation has it mapped")?;
    file.unmap_grant_ref(index, 3)?;
    bench.ends(granted.grants[0], "the reservation was given back")?;
    bench.ends(granted.grants[1], "the reservation was given back")
}

fn never_mapped(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[grant])?;
    file.unmap_grant_ref(index, 1)?;
    let map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.pages()?.write(0, b"ok");
    let there = bench.peer()?.peek(Pages::Share(share), 0, 2)?;
    same("what the granter sees", there, b"ok".to_vec())
}
