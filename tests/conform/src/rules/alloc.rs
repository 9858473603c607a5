//! gntalloc: allocation, indexes, limits, and mmap of what was allocated.
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::things::{peek, refused, same};
use libgnt::{Access, PAGE_SIZE};
use pv_harness::hand::Pages;
use pv_harness::hand::device::Share;
use rustix::io::Errno;

const ALLOC: &str = "drivers/xen/gntalloc.c: gntalloc_ioctl_alloc";
const FIND: &str = "drivers/xen/gntalloc.c: find_grefs";
const MMAP: &str = "drivers/xen/gntalloc.c: gntalloc_mmap, find_grefs";
const RW: Access = Access::ReadWrite;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "alloc-gives-zeroed-pages",
        "New pages are zero, and the peer may map them at once.",
        "drivers/xen/gntalloc.c: add_grefs",
        zeroed,
    ),
    Rule::new(
        "alloc-indexes-never-come-back",
        "Indexes of a file count up from 0 in bytes; a deallocated one is not given again.",
        ALLOC,
        indexes,
    ),
    Rule::new(
        "alloc-over-the-limit-is-enospc",
        "More pages than xen_gntalloc.limit leaves are ENOSPC, and take no index.",
        ALLOC,
        over_the_limit,
    ),
    Rule::new(
        "alloc-limit-counts-all-files",
        "The limit is for all files of the kernel together, and a closed file's pages count no more.",
        ALLOC,
        all_files,
    ),
    Rule::new(
        "alloc-limit-is-each-domains-own",
        "Another domain's allocations do not count: its kernel has a limit of its own.",
        ALLOC,
        each_domains_own,
    ),
    Rule::new(
        "alloc-limit-is-credited-while-the-peer-maps",
        "DEALLOC_GREF gives the pages' part of the limit back at once, though the peer maps them.",
        "drivers/xen/gntalloc.c: __del_gref",
        credited,
    ),
    Rule::new(
        "alloc-mmap-of-an-unknown-run-is-enoent",
        "mmap is ENOENT at an index that is not there, and beyond the last page.",
        MMAP,
        unknown_run,
    ),
    Rule::new(
        "alloc-mmap-of-a-part",
        "Any contiguous part of a run can be mapped.",
        MMAP,
        part,
    ),
    Rule::new(
        "alloc-mmap-many-times",
        "A run can be mapped many times; all mappings are the same pages.",
        MMAP,
        many_times,
    ),
    Rule::new(
        "alloc-mmap-across-allocations",
        "Pages of two allocations that follow each other can be mapped in one piece.",
        FIND,
        across,
    ),
    Rule::new(
        "alloc-mmap-after-dealloc-is-enoent",
        "What was deallocated cannot be mapped any more.",
        MMAP,
        after_dealloc,
    ),
    Rule::new(
        "alloc-runs-are-the-files-own",
        "A file knows no run of another file.",
        FIND,
        files_own,
    ),
];

fn page(n: u64) -> u64 {
    n * PAGE_SIZE as u64
}

fn zeroed(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    // What a page was before must not show.
    let dirty = Share::new(bench.platform(), bench.peer_id(), 8, RW)?;
    dirty.pages()?.fill(0, 8 * PAGE_SIZE, 0xaa);
    drop(dirty);
    let share = Share::new(bench.platform(), bench.peer_id(), 8, RW)?;
    let bytes = peek(share.pages()?, 0, 8 * PAGE_SIZE);
    same(
        "bytes that are not 0",
        bytes.iter().filter(|b| **b != 0).count(),
        0,
    )?;
    share.pages()?.write(PAGE_SIZE, b"at once");
    let map = peer.map(grants(bench, &share), RW)?;
    let there = peer.peek(Pages::Map(map), PAGE_SIZE, 7)?;
    same("what the peer sees", there, b"at once".to_vec())
}

fn grants(bench: &Bench, share: &Share) -> Vec<libgnt::ForeignGrant> {
    let domid = bench.own();
    let grefs = share.grefs.iter();
    grefs
        .map(|&gref| libgnt::ForeignGrant { domid, gref })
        .collect()
}

fn indexes(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    let next = || file.alloc_gref(bench.peer_id(), 2, RW).map(|run| run.index);
    same("the first", next()?, 0)?;
    same("the second", next()?, page(2))?;
    file.dealloc_gref(0, 2)?;
    file.dealloc_gref(page(2), 2)?;
    same("after both went", next()?, page(4))
}

fn over_the_limit(bench: &Bench) -> Outcome {
    let limit = bench.gntalloc_limit()?;
    let file = bench.platform().open_gntalloc()?;
    let peer = bench.peer_id();
    let too_many = file.alloc_gref(peer, limit + 1, RW);
    refused("one too many at once", too_many, Errno::NOSPC)?;
    let first = file.alloc_gref(peer, 3, RW)?;
    let too_many = file.alloc_gref(peer, limit - 2, RW);
    refused("one too many together", too_many, Errno::NOSPC)?;
    let second = file.alloc_gref(peer, 1, RW)?;
    same("the indexes", [first.index, second.index], [0, page(3)])
}

fn all_files(bench: &Bench) -> Outcome {
    let limit = bench.gntalloc_limit()?;
    let peer = bench.peer_id();
    let one = bench.platform().open_gntalloc()?;
    let other = bench.platform().open_gntalloc()?;
    one.alloc_gref(peer, limit - 1, RW)?;
    refused("two more", other.alloc_gref(peer, 2, RW), Errno::NOSPC)?;
    other.alloc_gref(peer, 1, RW)?;
    drop(one);
    other.alloc_gref(peer, limit - 1, RW)?;
    Ok(())
}

fn each_domains_own(bench: &Bench) -> Outcome {
    let most = bench.gntalloc_limit()?;
    // Not the whole limit: this many references do not fit in a message.
    let theirs = most / 8;
    bench.peer()?.share(bench.own(), theirs, RW)?;
    let file = bench.platform().open_gntalloc()?;
    file.alloc_gref(bench.peer_id(), most, RW)?;
    Ok(())
}

fn credited(bench: &Bench) -> Outcome {
    let limit = bench.gntalloc_limit()?;
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 16, RW)?;
    let map = peer.map(grants(bench, &share), RW)?;
    share.dealloc()?;
    share.munmap()?;
    let file = bench.platform().open_gntalloc()?;
    file.alloc_gref(bench.peer_id(), limit, RW)?;
    // The peer has its pages all the while.
    peer.peek(Pages::Map(map), 0, 1)?;
    Ok(())
}

fn unknown_run(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    refused("an empty file", file.mmap(0, 1), Errno::NOENT)?;
    file.alloc_gref(bench.peer_id(), 2, RW)?;
    refused("behind it", file.mmap(page(2), 1), Errno::NOENT)?;
    refused("beyond its end", file.mmap(page(1), 2), Errno::NOENT)
}

fn part(bench: &Bench) -> Outcome {
    let share = Share::new(bench.platform(), bench.peer_id(), 4, RW)?;
    let middle = share.file()?.mmap(share.index + page(1), 2)?;
    middle.write(PAGE_SIZE, b"third page");
    let whole = peek(share.pages()?, 2 * PAGE_SIZE, 10);
    same("the third page", whole, b"third page".to_vec())
}

fn many_times(bench: &Bench) -> Outcome {
    let share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    let file = share.file()?;
    let more: libgnt::Result<Vec<_>> = (0..5).map(|_| file.mmap(share.index, 1)).collect();
    let more = more?;
    more[0].write(0, b"same");
    for pages in &more {
        same("a further mapping", peek(pages, 0, 4), b"same".to_vec())?;
    }
    Ok(())
}

fn across(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    file.alloc_gref(bench.peer_id(), 2, RW)?;
    file.alloc_gref(bench.peer_id(), 2, RW)?;
    let both = file.mmap(page(1), 2)?;
    both.write(PAGE_SIZE, b"second");
    let second = file.mmap(page(2), 1)?;
    same("the second run", peek(&second, 0, 6), b"second".to_vec())
}

fn after_dealloc(bench: &Bench) -> Outcome {
    let share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    share.dealloc()?;
    let again = share.file()?.mmap(share.index, 1);
    refused("a deallocated run", again, Errno::NOENT)
}

fn files_own(bench: &Bench) -> Outcome {
    let share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    let other = bench.platform().open_gntalloc()?;
    refused("mmap", other.mmap(share.index, 1), Errno::NOENT)?;
    refused("dealloc", other.dealloc_gref(share.index, 1), Errno::INVAL)
}
