//! gntalloc: how grants end, at once or when the peer lets go.
use crate::bench::{Bench, Partner};
use crate::outcome::{Outcome, Stop};
use crate::rule::Rule;
use crate::things::{PATIENCE, must, peek, refused, same};
use libgnt::types::GrantStatus;
use libgnt::{Access, ForeignGrant, PAGE_SIZE};
use pv_harness::hand::device::Share;
use pv_harness::hand::{Answer, DeviceOrder, MapId, Order, Pages};
use rustix::io::Errno;
use std::time::{Duration, Instant};

const DEALLOC: &str = "drivers/xen/gntalloc.c: gntalloc_ioctl_dealloc, do_cleanup";
const DEFER: &str = "drivers/xen/grant-table.c: gnttab_end_foreign_access, gnttab_add_deferred, gnttab_handle_deferred";
const RW: Access = Access::ReadWrite;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "dealloc-ends-an-unused-grant",
        "DEALLOC_GREF of pages that nobody maps ends their grants at once.",
        DEALLOC,
        ends_at_once,
    ),
    Rule::new(
        "dealloc-of-an-unknown-run-is-einval",
        "DEALLOC_GREF is EINVAL for what is not there: another index, too many pages, no pages, a second time.",
        DEALLOC,
        unknown_run,
    ),
    Rule::new(
        "dealloc-of-a-part",
        "Part of a run can be deallocated; the rest stays.",
        DEALLOC,
        part,
    ),
    Rule::new(
        "dealloc-across-allocations",
        "Pages of two allocations that follow each other can be deallocated in one call.",
        DEALLOC,
        across,
    ),
    Rule::new(
        "dealloc-waits-for-the-granters-own-mapping",
        "While the granter has the pages mapped, DEALLOC_GREF succeeds and the grant goes on.",
        "drivers/xen/gntalloc.c: gntalloc_ioctl_dealloc, gntalloc_vma_close",
        own_mapping,
    ),
    Rule::new(
        "dealloc-succeeds-while-the-peer-maps",
        "DEALLOC_GREF says nothing of a peer that maps the pages; it keeps them.",
        DEFER,
        while_the_peer_maps,
    ),
    Rule::new(
        "ended-grant-in-use-still-serves",
        "Until the peer lets go, an ended grant can even be mapped once more.",
        "drivers/xen/grant-table.c: gnttab_end_foreign_access_ref_v1",
        still_serves,
    ),
    Rule::new(
        "ended-grant-goes-when-the-peer-lets-go",
        "The granter's kernel looks every second, and ends the grant when the peer has let go.",
        DEFER,
        goes_when_let_go,
    ),
    Rule::new(
        "reference-is-not-reused-while-in-use",
        "A reference that the peer maps is not given out again, nor is its page.",
        DEFER,
        not_reused,
    ),
    Rule::new(
        "reference-is-reused-last-freed-first",
        "The reference that was freed last is given out next.",
        "drivers/xen/grant-table.c: put_free_entry, get_free_entries",
        last_freed_first,
    ),
    Rule::new(
        "close-ends-what-was-not-deallocated",
        "The last close of the file ends all its grants.",
        "drivers/xen/gntalloc.c: gntalloc_release",
        close_ends,
    ),
    Rule::new(
        "close-waits-for-the-granters-own-mapping",
        "A mapping pins the file: close ends nothing while it stands.",
        "drivers/xen/gntalloc.c: gntalloc_release, gntalloc_vma_close",
        close_waits,
    ),
];

fn grant(bench: &Bench, share: &Share, page: usize) -> ForeignGrant {
    ForeignGrant {
        domid: bench.own(),
        gref: share.grefs[page],
    }
}

fn all(bench: &Bench, share: &Share) -> Vec<ForeignGrant> {
    (0..share.grefs.len())
        .map(|page| grant(bench, share, page))
        .collect()
}

/// Whether the peer can still use a grant of ours.
fn status(peer: &Partner, grant: ForeignGrant) -> Outcome<GrantStatus> {
    match peer.tell(&Order::CopyStatus(grant))? {
        Answer::Status(status) => Ok(status),
        other => Err(Stop::Broken(format!("{other:?}"))),
    }
}

fn serves(peer: &Partner, grant: ForeignGrant, why: &str) -> Outcome {
    let status = status(peer, grant)?;
    must(
        &format!("{grant} serves, because {why} ({status})"),
        status.is_okay(),
    )
}

fn ended(peer: &Partner, grant: ForeignGrant, why: &str) -> Outcome {
    let status = status(peer, grant)?;
    must(
        &format!("{grant} is ended, because {why} ({status})"),
        status == GrantStatus::GENERAL_ERROR,
    )
}

fn ends(peer: &Partner, grant: ForeignGrant, why: &str) -> Outcome {
    let begun = Instant::now();
    while status(peer, grant)?.is_okay() {
        if begun.elapsed() > PATIENCE {
            return Err(Stop::differs(format!("{grant} must end, because {why}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn ends_at_once(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let file = bench.platform().open_gntalloc()?;
    let run = file.alloc_gref(bench.peer_id(), 1, RW)?;
    let grant = ForeignGrant {
        domid: bench.own(),
        gref: run.grefs[0],
    };
    serves(peer, grant, "it was just made")?;
    file.dealloc_gref(run.index, 1)?;
    ended(peer, grant, "nobody maps it")
}

fn unknown_run(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    let page = PAGE_SIZE as u64;
    refused("an empty file", file.dealloc_gref(0, 1), Errno::INVAL)?;
    let run = file.alloc_gref(bench.peer_id(), 2, RW)?;
    refused("no pages", file.dealloc_gref(run.index, 0), Errno::INVAL)?;
    refused("too many", file.dealloc_gref(run.index, 3), Errno::INVAL)?;
    refused(
        "behind it",
        file.dealloc_gref(run.index + 2 * page, 1),
        Errno::INVAL,
    )?;
    refused(
        "inside a page",
        file.dealloc_gref(run.index + 1, 1),
        Errno::INVAL,
    )?;
    file.dealloc_gref(run.index, 2)?;
    refused(
        "a second time",
        file.dealloc_gref(run.index, 2),
        Errno::INVAL,
    )
}

fn part(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 3, RW)?;
    share.munmap()?;
    let page = PAGE_SIZE as u64;
    share.file()?.dealloc_gref(share.index + page, 1)?;
    serves(peer, grant(bench, &share, 0), "it was not deallocated")?;
    ended(peer, grant(bench, &share, 1), "it was deallocated")?;
    serves(peer, grant(bench, &share, 2), "it was not deallocated")?;
    let over_the_hole = share.file()?.dealloc_gref(share.index, 3);
    refused("all, with one missing", over_the_hole, Errno::INVAL)?;
    let over_the_hole = share.file()?.mmap(share.index, 3);
    refused("mmap of all", over_the_hole, Errno::NOENT)
}

fn across(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    file.alloc_gref(bench.peer_id(), 2, RW)?;
    file.alloc_gref(bench.peer_id(), 2, RW)?;
    let page = PAGE_SIZE as u64;
    file.dealloc_gref(page, 2)?;
    file.dealloc_gref(0, 1)?;
    file.dealloc_gref(3 * page, 1)?;
    refused("all is gone", file.dealloc_gref(0, 1), Errno::INVAL)
}

fn own_mapping(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    share.dealloc()?;
    serves(peer, grant(bench, &share, 0), "the granter has it mapped")?;
    let map = peer.map(all(bench, &share), RW)?;
    share.pages()?.write(0, b"live");
    same(
        "the peer's bytes",
        peer.peek(Pages::Map(map), 0, 4)?,
        b"live".to_vec(),
    )?;
    peer.munmap(Pages::Map(map))?;
    peer.give_back(map)?;
    // The peer's unmap is asynchronous.
    std::thread::sleep(Duration::from_millis(200));
    serves(peer, grant(bench, &share, 0), "the granter has it mapped")?;
    share.munmap()?;
    ends(peer, grant(bench, &share, 0), "the granter's mapping went")
}

/// A share whose peer has it mapped, and which is deallocated and unmapped here.
fn mapped_by_the_peer(bench: &Bench, pages: usize) -> Outcome<(Share, MapId)> {
    let mut share = Share::new(bench.platform(), bench.peer_id(), pages, RW)?;
    share.pages()?.write(0, b"kept");
    let map = bench.peer()?.map(all(bench, &share), RW)?;
    share.dealloc()?;
    share.munmap()?;
    Ok((share, map))
}

fn while_the_peer_maps(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let (_share, map) = mapped_by_the_peer(bench, 1)?;
    // New pages would be zeroed; were it given out again, this would show.
    let more = Share::new(bench.platform(), bench.peer_id(), 64, RW)?;
    more.pages()?.fill(0, 64 * PAGE_SIZE, 0xaa);
    same(
        "the peer's bytes",
        peer.peek(Pages::Map(map), 0, 4)?,
        b"kept".to_vec(),
    )
}

fn still_serves(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let (share, first) = mapped_by_the_peer(bench, 1)?;
    let second = peer.map(all(bench, &share), RW)?;
    peer.munmap(Pages::Map(first))?;
    peer.give_back(first)?;
    std::thread::sleep(Duration::from_millis(1500));
    let bytes = peer.peek(Pages::Map(second), 0, 4)?;
    same("through the second mapping", bytes, b"kept".to_vec())?;
    serves(peer, grant(bench, &share, 0), "the second mapping is there")
}

fn goes_when_let_go(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let (share, map) = mapped_by_the_peer(bench, 1)?;
    serves(peer, grant(bench, &share, 0), "the peer maps it")?;
    peer.munmap(Pages::Map(map))?;
    peer.give_back(map)?;
    ends(peer, grant(bench, &share, 0), "the peer let go")?;
    let again = peer.ask(&Order::Device(DeviceOrder::Map {
        grants: all(bench, &share),
        access: RW,
    }))?;
    match again {
        Answer::Refused(refusal) if refusal.errno() == Some(Errno::INVAL) => Ok(()),
        other => Err(Stop::differs(format!("mapping it again: {other:?}"))),
    }
}

fn not_reused(bench: &Bench) -> Outcome {
    let (share, _map) = mapped_by_the_peer(bench, 2)?;
    let more = Share::new(bench.platform(), bench.peer_id(), 128, RW)?;
    let again: Vec<_> = more
        .grefs
        .iter()
        .filter(|g| share.grefs.contains(g))
        .collect();
    must(
        &format!("no reference comes back: {again:?}"),
        again.is_empty(),
    )
}

fn last_freed_first(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    let run = file.alloc_gref(bench.peer_id(), 3, RW)?;
    let page = PAGE_SIZE as u64;
    file.dealloc_gref(run.index, 1)?;
    file.dealloc_gref(run.index + 2 * page, 1)?;
    let next = file.alloc_gref(bench.peer_id(), 2, RW)?;
    same("the next two", next.grefs, vec![run.grefs[2], run.grefs[0]])
}

fn close_ends(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 2, RW)?;
    share.munmap()?;
    serves(peer, grant(bench, &share, 1), "its file is open")?;
    share.file = None;
    ends(peer, grant(bench, &share, 0), "its file was closed")?;
    ends(peer, grant(bench, &share, 1), "its file was closed")
}

fn close_waits(bench: &Bench) -> Outcome {
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    share.file = None;
    serves(peer, grant(bench, &share, 0), "the mapping keeps the file")?;
    share.pages()?.write(0, b"still");
    same(
        "the granter's page",
        peek(share.pages()?, 0, 5),
        b"still".to_vec(),
    )?;
    share.munmap()?;
    ends(
        peer,
        grant(bench, &share, 0),
        "the mapping went, and the file with it",
    )
}
