//! gntdev's mmap, and what the mapping then shows.
use crate::bench::Bench;
use crate::outcome::{Outcome, Stop};
use crate::rule::{Rule, Since};
use crate::things::{must, peek, refused, same};
use libgnt::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE, SharedPages};
use pv_harness::hand::device::{Mapping, Share};
use pv_harness::hand::{Order, Pages};
use pv_harness::kernel::LinuxVersion;
use pv_harness::memory::{read_into, widen_private};
use rustix::io::Errno;

const MMAP: &str = "drivers/xen/gntdev.c: gntdev_mmap";
const GRANT: &str = "drivers/xen/gntdev.c: gntdev_map_grant_pages; xen/common/grant_table.c: map_grant_ref, _set_status_v1";
const VADDR: &str = "drivers/xen/gntdev.c: gntdev_ioctl_get_offset_for_vaddr";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "mmap-shows-the-granters-live-pages",
        "What either side writes the other sees, in the order of the references.",
        GRANT,
        live_pages,
    ),
    Rule::new(
        "mmap-must-be-the-whole-reservation",
        "mmap of fewer pages, more pages or another offset than the reservation's is EINVAL.",
        MMAP,
        whole_reservation,
    ),
    Rule::new(
        "mmap-a-second-time-is-einval",
        "A reservation is mmapped once: a second mmap is EINVAL, even after munmap.",
        MMAP,
        second_mmap,
    ),
    Rule::new(
        "mmap-of-a-stranger-is-einval",
        "mmap is EINVAL for a reference beyond the table, one not granted, and a domain that is not there.",
        GRANT,
        strangers,
    ),
    Rule::new(
        "mmap-of-anothers-grant-is-einval",
        "A grant serves the one domain that it names.",
        GRANT,
        anothers,
    ),
    Rule::new(
        "mmap-of-an-ended-grant-is-einval",
        "A grant that ended between MAP_GRANT_REF and mmap makes mmap fail with EINVAL.",
        GRANT,
        ended_grant,
    ),
    Rule::new(
        "mmap-writable-of-a-read-only-grant-is-einval",
        "A read-only grant can be mapped read-only, and not writable.",
        GRANT,
        read_only_grant,
    ),
    Rule::new(
        "mmap-read-only-of-a-writable-grant",
        "A writable grant can be mapped read-only; it shows the live page.",
        GRANT,
        read_only_map,
    ),
    Rule::new(
        "mmap-with-one-bad-grant-fails-whole",
        "One bad grant among good ones makes the whole mmap fail with EINVAL.",
        GRANT,
        one_bad,
    ),
    Rule::new(
        "mmap-that-failed-stays-reserved",
        "After a failed mmap the reservation is there, cannot be mmapped again, and is given back once.",
        MMAP,
        failed_stays,
    ),
    Rule::new(
        "mmap-of-the-same-grant-twice",
        "One grant can be mapped several times, in one reservation and in several.",
        GRANT,
        same_grant,
    ),
    Rule::new(
        "mmap-after-unmap-ioctl-is-einval",
        "A reservation that was given back cannot be mmapped.",
        MMAP,
        given_back,
    ),
    Rule::new(
        "mprotect-cannot-widen-a-read-only-map",
        "Nothing that a process does to a read-only mapping lets it write to the granter's page.",
        "drivers/xen/gntdev.c: gntdev_mmap (GNTMAP_readonly); xen/arch/x86/hvm/hvm.c: hvm_hap_nested_page_fault",
        trespass,
    ),
    Rule::new(
        "private-map-stays-read-only",
        "A private mapping is read-only, and mprotect cannot make it writable: EACCES.",
        MMAP,
        private_map,
    )
    .since(Since {
        with: &[LinuxVersion(6, 12, 117)],
        without: &[LinuxVersion(6, 1, 192), LinuxVersion(7, 2, 13)],
        before: "mprotect makes it writable",
    }),
    Rule::new(
        "vaddr-gives-index-and-whole-count",
        "GET_OFFSET_FOR_VADDR gives the reservation's index and whole count for any address in it.",
        VADDR,
        vaddr,
    ),
    Rule::new(
        "vaddr-knows-every-gntdev-file",
        "GET_OFFSET_FOR_VADDR answers for mappings of other gntdev files too.",
        VADDR,
        vaddr_other_file,
    ),
    Rule::new(
        "vaddr-of-other-memory-is-einval",
        "GET_OFFSET_FOR_VADDR is EINVAL for memory that is no gntdev mapping, gntalloc's included.",
        VADDR,
        vaddr_other_memory,
    ),
    Rule::new(
        "vaddr-after-the-unmap-ioctl",
        "GET_OFFSET_FOR_VADDR still answers for a mapping whose reservation was given back.",
        VADDR,
        vaddr_given_back,
    ),
];

fn live_pages(bench: &Bench) -> Outcome {
    let granted = bench.granted(3, Access::ReadWrite)?;
    let theirs = Pages::Share(granted.share);
    // Backwards: the order is the references', not the run's.
    let grants: Vec<_> = granted.grants.iter().rev().copied().collect();
    let map = Mapping::new(bench.platform(), &grants, Access::ReadWrite)?;
    let pages = map.pages()?;
    for page in 0..3 {
        bench
            .peer()?
            .poke(theirs, page * PAGE_SIZE, &[page as u8 + 1])?;
    }
    let seen: Vec<u8> = (0..3).flat_map(|n| peek(pages, n * PAGE_SIZE, 1)).collect();
    same("the first bytes", seen, vec![3, 2, 1])?;
    pages.write(2 * PAGE_SIZE + 5, b"written");
    let there = bench.peer()?.peek(theirs, 5, 7)?;
    same("what the granter sees", there, b"written".to_vec())
}

fn whole_reservation(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&granted.grants)?;
    let page = PAGE_SIZE as u64;
    let try_it = |index, pages| file.mmap(index, pages, Access::ReadWrite);
    refused("fewer pages", try_it(index, 1), Errno::INVAL)?;
    refused("more pages", try_it(index, 3), Errno::INVAL)?;
    refused("the second page", try_it(index + page, 1), Errno::INVAL)?;
    refused("behind it", try_it(index + 2 * page, 2), Errno::INVAL)?;
    // None of these has used the one mmap up.
    try_it(index, 2)?;
    Ok(())
}

fn second_mmap(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let mut map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    let again = map.file()?.mmap(map.index, 1, Access::ReadWrite);
    refused("while mapped", again, Errno::INVAL)?;
    map.munmap()?;
    let again = map.file()?.mmap(map.index, 1, Access::ReadWrite);
    refused("after munmap", again, Errno::INVAL)
}

fn try_map(bench: &Bench, grant: ForeignGrant, access: Access) -> libgnt::Result<Mapping> {
    Mapping::new(bench.platform(), &[grant], access)
}

fn strangers(bench: &Bench) -> Outcome {
    let beyond = bench.of_peer(GrantRef(1 << 24));
    let result = try_map(bench, beyond, Access::ReadWrite);
    refused("a reference beyond the table", result, Errno::INVAL)?;
    let never = bench.of_peer(GrantRef(400));
    let result = try_map(bench, never, Access::ReadWrite);
    refused("a reference that is not granted", result, Errno::INVAL)?;
    let nowhere = ForeignGrant {
        domid: DomId(0x7000),
        gref: GrantRef(8),
    };
    let result = try_map(bench, nowhere, Access::ReadWrite);
    refused("no such domain", result, Errno::INVAL)
}

fn anothers(bench: &Bench) -> Outcome {
    let third = DomId(0x6fff);
    let (_, grefs) = bench.peer()?.share(third, 1, Access::ReadWrite)?;
    let result = try_map(bench, bench.of_peer(grefs[0]), Access::ReadOnly);
    refused("a grant for another domain", result, Errno::INVAL)
}

fn ended_grant(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[grant])?;
    bench.peer()?.let_go(share)?;
    let result = file.mmap(index, 1, Access::ReadWrite);
    refused("an ended grant", result, Errno::INVAL)
}

fn read_only_grant(bench: &Bench) -> Outcome {
    let granted = bench.granted(1, Access::ReadOnly)?;
    let grant = granted.grants[0];
    let result = try_map(bench, grant, Access::ReadWrite);
    refused("a writable mapping", result, Errno::INVAL)?;
    let map = try_map(bench, grant, Access::ReadOnly)?;
    let theirs = Pages::Share(granted.share);
    bench.peer()?.poke(theirs, 9, b"x")?;
    same("the byte", peek(map.pages()?, 9, 1), b"x".to_vec())
}

fn read_only_map(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let map = try_map(bench, grant, Access::ReadOnly)?;
    let theirs = Pages::Share(share);
    bench.peer()?.poke(theirs, 9, b"y")?;
    same("the byte", peek(map.pages()?, 9, 1), b"y".to_vec())?;
    // The kernel's own copy to it finds the page read-only, too.
    let (read, write) = rustix::pipe::pipe()?;
    rustix::io::write(&write, b"z")?;
    let file = std::os::fd::AsFd::as_fd(&read);
    let into = read_into(map.pages()?, file);
    same("read(2) into the mapping", into, Err(Errno::FAULT))
}

fn one_bad(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let bad = bench.of_peer(GrantRef(400));
    let grants = [granted.grants[0], bad, granted.grants[1]];
    let result = Mapping::new(bench.platform(), &grants, Access::ReadWrite);
    refused("good, bad, good", result, Errno::INVAL)
}

fn failed_stays(bench: &Bench) -> Outcome {
    let granted = bench.granted(1, Access::ReadWrite)?;
    let bad = bench.of_peer(GrantRef(400));
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[granted.grants[0], bad])?;
    let failed = file.mmap(index, 2, Access::ReadWrite);
    refused("a bad grant", failed, Errno::INVAL)?;
    let again = file.mmap(index, 2, Access::ReadWrite);
    refused("again", again, Errno::INVAL)?;
    let next = file.map_grant_ref(&[bad])?;
    same("the next index", next, index + 2 * PAGE_SIZE as u64)?;
    file.unmap_grant_ref(index, 2)?;
    refused("given back", file.unmap_grant_ref(index, 2), Errno::NOENT)
}

fn same_grant(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let twice = Mapping::new(bench.platform(), &[grant, grant], Access::ReadWrite)?;
    let once = try_map(bench, grant, Access::ReadOnly)?;
    twice.pages()?.write(PAGE_SIZE, b"!");
    same("in the first", peek(twice.pages()?, 0, 1), b"!".to_vec())?;
    same("in the other", peek(once.pages()?, 0, 1), b"!".to_vec())?;
    // All of them must go before the grant can end.
    bench.peer()?.let_go(share)?;
    drop(twice);
    bench.serves(grant, "one mapping of three is left")?;
    drop(once);
    bench.ends(grant, "the last mapping went")
}

fn given_back(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&[grant])?;
    file.unmap_grant_ref(index, 1)?;
    let result = file.mmap(index, 1, Access::ReadWrite);
    refused("a reservation given back", result, Errno::INVAL)
}

fn trespass(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let theirs = Pages::Share(share);
    bench.peer()?.poke(theirs, 0, b"safe")?;
    let victim = bench.neighbour()?;
    let map = victim.map(vec![grant], Access::ReadOnly)?;
    // A refusal, a silent loss of the write and death are all the same to the granter.
    let how = victim.ask(&Order::Trespass(map));
    let bytes = bench.peer()?.peek(theirs, 0, 4)?;
    must(
        &format!("the granter's page keeps its bytes ({how:?})"),
        bytes == b"safe",
    )
}

fn private_map(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let file = bench.platform().open_gntdev()?;
    let Some(device) = file.descriptor() else {
        return Err(Stop::NotHere("no mapping is private here".into()));
    };
    let index = file.map_grant_ref(&[grant])?;
    let widened = widen_private(device, index, 1)
        .map_err(|errno| Stop::differs(format!("mmap, private and read-only: {errno}")))?;
    must("mprotect is EACCES", widened == Err(Errno::ACCESS))
}

fn vaddr(bench: &Bench) -> Outcome {
    let granted = bench.granted(3, Access::ReadWrite)?;
    let file = bench.platform().open_gntdev()?;
    file.map_grant_ref(&[bench.of_peer(GrantRef(400))])?;
    let index = file.map_grant_ref(&granted.grants)?;
    let pages = file.mmap(index, 3, Access::ReadWrite)?;
    for offset in [0, 1, PAGE_SIZE, 3 * PAGE_SIZE - 1] {
        let found = file.offset_for_vaddr(pages.address() + offset)?;
        same(&format!("at byte {offset}"), found, (index, 3))?;
    }
    Ok(())
}

fn vaddr_other_file(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let map = try_map(bench, grant, Access::ReadWrite)?;
    let other = bench.platform().open_gntdev()?;
    let found = other.offset_for_vaddr(map.pages()?.address())?;
    same("the other file's answer", found, (map.index, 1))
}

fn vaddr_other_memory(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let anonymous = SharedPages::anonymous(1)?;
    let found = file.offset_for_vaddr(anonymous.address());
    refused("anonymous memory", found, Errno::INVAL)?;
    let share = Share::new(bench.platform(), bench.peer_id(), 1, Access::ReadWrite)?;
    let found = file.offset_for_vaddr(share.pages()?.address());
    refused("gntalloc's", found, Errno::INVAL)?;
    let (_, grant) = bench.granted_page()?;
    let mut map = try_map(bench, grant, Access::ReadWrite)?;
    let was = map.pages()?.address();
    map.munmap()?;
    let found = file.offset_for_vaddr(was);
    refused("a mapping that went", found, Errno::INVAL)
}

fn vaddr_given_back(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let map = try_map(bench, grant, Access::ReadWrite)?;
    map.give_back()?;
    let found = map.file()?.offset_for_vaddr(map.pages()?.address())?;
    same("the answer", found, (map.index, 1))
}
