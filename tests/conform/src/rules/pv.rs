//! What is true on PV only: its gntdev has a notifier, and unmaps in it. What a rule here says of the
//! hypervisor it sees by the granter, who has let go of the page and gets it back.
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::{On, Rule};
use crate::things::{Bell, peek, refused, same};
use libgnt::types::UnmapNotify;
use libgnt::{Access, ForeignGrant, GrantRef, PAGE_SIZE};
use pv_harness::hand::Pages;
use pv_harness::hand::device::{Mapping, Share};
use pv_harness::memory::write_from;
use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use std::os::fd::AsFd;
use std::time::Duration;

const NOTIFIER: &str = "drivers/xen/gntdev.c: gntdev_invalidate, unmap_grant_pages";
const RW: Access = Access::ReadWrite;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "pv-munmap-unmaps-at-once",
        "On PV munmap alone ends the hypervisor's mapping; the event waits for UNMAP_GRANT_REF.",
        NOTIFIER,
        munmap_unmaps,
    )
    .on(On::Pv),
    Rule::new(
        "pv-partial-munmap-unmaps-its-pages",
        "On PV munmap of one page of a map ends that page's mapping, and no other's.",
        NOTIFIER,
        part_unmaps,
    )
    .on(On::Pv),
    Rule::new(
        "pv-mprotect-unmaps",
        "On PV mprotect of a page ends its mapping, and no later mprotect brings it back.",
        NOTIFIER,
        mprotect_unmaps,
    )
    .on(On::Pv),
    Rule::new(
        "pv-madvise-dontneed-unmaps",
        "On PV MADV_DONTNEED of a page ends its mapping.",
        NOTIFIER,
        dont_need_unmaps,
    )
    .on(On::Pv),
    Rule::new(
        "pv-failed-mmap-keeps-nothing",
        "On PV the good grants of a failed mmap are unmapped before it returns.",
        "drivers/xen/gntdev.c: gntdev_mmap (out_put_map, use_ptemod)",
        failed_mmap,
    )
    .on(On::Pv),
    Rule::new(
        "pv-byte-goes-with-its-page",
        "On PV the notify byte is cleared when its page is unmapped; the event comes with the last use.",
        "drivers/xen/gntdev.c: __unmap_grant_pages, gntdev_put_map",
        byte_with_page,
    )
    .on(On::Pv),
    Rule::new(
        "pv-maps-its-own-grants",
        "A PV domain maps grants of its own, and both mappings show the same page.",
        "drivers/xen/gntdev.c: find_grant_ptes; xen/arch/x86/pv/grant_table.c: create_grant_pv_mapping",
        own_grants,
    )
    .on(On::Pv),
];

/// Comes last: what the kernel does after it shows nothing.
pub(super) const DAMAGE: &[Rule] = &[Rule::new(
    "pv-unmap-of-a-held-page-is-damage",
    "On PV munmap of a held page leaves its grant in use for ever, and says that it is released.",
    "drivers/xen/gntdev.c: __unmap_grant_pages_done; xen/arch/x86/mm.c: put_page_from_l1e",
    held_is_damage,
)
.on(On::PvDamage)];

/// Mapped pages that only this domain's mapping keeps in use.
fn alone(bench: &Bench, pages: usize) -> Outcome<(Vec<ForeignGrant>, Mapping)> {
    let granted = bench.granted(pages, RW)?;
    let map = Mapping::new(bench.platform(), &granted.grants, RW)?;
    bench.peer()?.let_go(granted.share)?;
    Ok((granted.grants, map))
}

fn munmap_unmaps(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (grants, mut map) = alone(bench, 1)?;
    map.arm(0, bell.event())?;
    bench.serves(grants[0], "it is mapped")?;
    map.munmap()?;
    bench.ends(grants[0], "munmap unmapped it")?;
    bell.silent("the reservation is there")?;
    map.give_back()?;
    bell.expect("the last use went")
}

fn part_unmaps(bench: &Bench) -> Outcome {
    let (grants, map) = alone(bench, 3)?;
    bench.cut_first_page(map.pages()?)?;
    bench.ends(grants[0], "its page was unmapped")?;
    for grant in &grants[1..] {
        bench.serves(*grant, "its page is mapped")?;
    }
    let pages = map.pages()?;
    pages.write(2 * PAGE_SIZE, b"live");
    same(
        "the last page",
        peek(pages, 2 * PAGE_SIZE, 4),
        b"live".to_vec(),
    )
}

/// The first page is not there for anybody, the kernel included.
fn gone(map: &Mapping) -> Outcome {
    let (_read, write) = rustix::pipe::pipe()?;
    let written = write_from(map.pages()?, write.as_fd());
    same("write(2) from the page", written, Err(Errno::FAULT))
}

fn mprotect_unmaps(bench: &Bench) -> Outcome {
    let (grants, map) = alone(bench, 3)?;
    bench.protect(map.pages()?, 0, 1, MprotectFlags::empty())?;
    bench.ends(grants[0], "its protection was changed")?;
    bench.serves(grants[1], "its protection was not changed")?;
    let all = MprotectFlags::READ | MprotectFlags::WRITE;
    bench.protect(map.pages()?, 0, 1, all)?;
    gone(&map)
}

fn dont_need_unmaps(bench: &Bench) -> Outcome {
    let (grants, map) = alone(bench, 2)?;
    bench.drop_first_page(map.pages()?)?;
    bench.ends(grants[0], "its entry was dropped")?;
    bench.serves(grants[1], "its entry is there")?;
    gone(&map)
}

fn failed_mmap(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, RW)?;
    let bad = bench.of_peer(GrantRef(400));
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[granted.grants[0], bad, granted.grants[1]])?;
    let failed = file.mmap(index, 3, RW);
    refused("good, bad, good", failed, Errno::INVAL)?;
    bench.peer()?.let_go(granted.share)?;
    for grant in granted.grants {
        bench.ends(grant, "the failed mmap has unmapped it")?;
    }
    file.unmap_grant_ref(index, 3)?;
    Ok(())
}

fn byte_with_page(bench: &Bench) -> Outcome {
    const BYTE: usize = PAGE_SIZE + 5;
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(2, RW)?;
    let theirs = Pages::Share(granted.share);
    let mut map = Mapping::new(bench.platform(), &granted.grants, RW)?;
    map.pages()?.write(BYTE, &[1]);
    let both = UnmapNotify {
        clear_byte: true,
        ..bell.event()
    };
    map.arm(BYTE, both)?;
    bench.cut_first_page(map.pages()?)?;
    let byte = bench.peer()?.peek(theirs, BYTE, 1)?;
    same("the byte, its page mapped", byte, vec![1])?;
    map.munmap()?;
    let byte = bench.peer()?.peek(theirs, BYTE, 1)?;
    same("the byte, its page unmapped", byte, vec![0])?;
    bell.silent("the reservation is there")?;
    map.give_back()?;
    bell.expect("the last use went")
}

fn own_grants(bench: &Bench) -> Outcome {
    let own = bench.own();
    let mut share = Share::new(bench.platform(), own, 2, RW)?;
    let grants: Vec<_> = share
        .grefs
        .iter()
        .map(|gref| ForeignGrant {
            domid: own,
            gref: *gref,
        })
        .collect();
    let mut map = Mapping::new(bench.platform(), &grants, RW)?;
    map.pages()?.write(PAGE_SIZE, b"mapped");
    let seen = peek(share.pages()?, PAGE_SIZE, 6);
    same("what the granter sees", seen, b"mapped".to_vec())?;
    share.pages()?.write(0, b"granted");
    let seen = peek(map.pages()?, 0, 7);
    same("what the mapper sees", seen, b"granted".to_vec())?;
    share.dealloc()?;
    share.munmap()?;
    bench.serves(grants[0], "it is mapped")?;
    map.munmap()?;
    map.give_back()?;
    bench.ends(grants[0], "it was unmapped")
}

fn held_is_damage(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (grants, mut map) = alone(bench, 2)?;
    map.arm(0, bell.event())?;
    let held = bench.hold(map.pages()?, 0, 1)?;
    map.munmap()?;
    map.give_back()?;
    bell.expect("the entries' references are gone, so the kernel thinks that nobody holds a page")?;
    // Longer than the granter's kernel takes to look again.
    std::thread::sleep(Duration::from_millis(2500));
    // The other page's goes the same way, unless the retry comes while munmap is at work: the kernel
    // that says `Bad page map` first has time for that (6.1).
    bench.serves(grants[0], "the kernel has nothing left to unmap it by")?;
    // What letting go does to a kernel that has dropped the reference itself is not tried.
    std::mem::forget(held);
    Ok(())
}
