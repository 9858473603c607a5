//! A third consumer holds pages: on a real kernel a pipe (vmsplice), on the simulator its memory
//! manager's pin. The unmap is asynchronous and waits for it.
use crate::bench::{Bench, Granted};
use crate::outcome::{Outcome, Stop};
use crate::rule::{On, Rule};
use crate::things::{Bell, same};
use libgnt::types::UnmapNotify;
use libgnt::{Access, PAGE_SIZE};
use pv_harness::hand::Pages;
use pv_harness::hand::device::Mapping;
use pv_harness::holder::{Held, HoldName, kernel_holder, sha256};
use std::time::{Duration, Instant};

const ASYNC: &str =
    "drivers/xen/gntdev.c: __unmap_grant_pages; drivers/xen/grant-table.c: gnttab_unmap_refs_async";

/// Returning at once is at most this, on an emulated processor.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "held-unmap-returns-at-once",
        "munmap, UNMAP_GRANT_REF and close do not wait for whoever holds the pages.",
        ASYNC,
        returns_at_once,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-byte-is-cleared-at-the-begin",
        "The notify byte is cleared when the unmap begins, though the pages are held.",
        ASYNC,
        byte_at_begin,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-event-waits-for-the-release",
        "The notify event comes after the holder let go, and not before.",
        "drivers/xen/gntdev.c: gntdev_put_map, __unmap_grant_pages_done",
        event_after_release,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-grant-stays-in-use",
        "The granter gets neither page nor reference back while a page is held.",
        "drivers/xen/grant-table.c: gnttab_unmap_work; gnttab_end_foreign_access_ref_v1",
        grant_in_use,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-page-is-the-granters-live-page",
        "The holder sees what the granter writes after the mapper has unmapped.",
        ASYNC,
        live_page,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-page-holds-its-whole-map",
        "One held page keeps every grant of its map.",
        "drivers/xen/grant-table.c: __gnttab_unmap_refs_async (page_count)",
        whole_map,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-maps-are-independent",
        "A held map delays no other map of the same file.",
        ASYNC,
        independent,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "held-release-is-noticed-soon",
        "After a hold of a second the unmap follows the release within 105 ms, and the machine's own delay.",
        "drivers/xen/grant-table.c: __gnttab_unmap_refs_async (5 ms times age)",
        noticed_soon,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "fork-holds-the-map",
        "A forked child has the mapping too: neither byte nor event comes before it ends.",
        "drivers/xen/gntdev.c: gntdev_vma_open",
        fork_holds,
    )
    .on(On::NotPv("a fork copies no mapping (VM_DONTCOPY)"))
    .but_the_sim("the simulator is not told of forks; hold with pin there"),
    Rule::new(
        "fork-copies-no-marked-map",
        "A mapping that is marked MADV_DONTFORK, as libgnt marks its own, is not in a forked child.",
        "kernel/fork.c: dup_mmap (VM_DONTCOPY)",
        fork_copies_no_marked,
    )
    .on(On::NotPv("a fork copies no mapping (VM_DONTCOPY)")),
];

struct Case {
    granted: Granted,
    map: Mapping,
    bell: Bell,
    held: Box<dyn Held>,
}

/// Mapped pages, the first of them held, with byte 9 and a bell armed.
fn held(bench: &Bench, pages: usize) -> Outcome<Case> {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(pages, Access::ReadWrite)?;
    let map = Mapping::new(bench.platform(), &granted.grants, Access::ReadWrite)?;
    map.pages()?.write(9, &[1]);
    let both = UnmapNotify {
        clear_byte: true,
        ..bell.event()
    };
    map.arm(9, both)?;
    let held = bench.hold(map.pages()?, 0, 1)?;
    Ok(Case {
        granted,
        map,
        bell,
        held,
    })
}

impl Case {
    fn theirs(&self) -> Pages {
        Pages::Share(self.granted.share)
    }

    fn unmap(&mut self) -> Outcome {
        self.map.munmap()?;
        Ok(self.map.give_back()?)
    }
}

fn returns_at_once(bench: &Bench) -> Outcome {
    let mut case = held(bench, 1)?;
    let begun = Instant::now();
    case.unmap()?;
    case.map.file = None;
    let took = begun.elapsed();
    case.held.release()?;
    if took > AT_ONCE {
        return Err(Stop::Differs(format!("it took {took:?}")));
    }
    case.bell.expect("the holder let go")
}

fn byte_at_begin(bench: &Bench) -> Outcome {
    let mut case = held(bench, 1)?;
    same(
        "the byte",
        bench.peer()?.peek(case.theirs(), 9, 1)?,
        vec![1],
    )?;
    case.unmap()?;
    same(
        "the byte",
        bench.peer()?.peek(case.theirs(), 9, 1)?,
        vec![0],
    )?;
    case.bell.silent("the page is held")?;
    case.held.release()?;
    case.bell.expect("the holder let go")
}

fn event_after_release(bench: &Bench) -> Outcome {
    let mut case = held(bench, 2)?;
    case.unmap()?;
    for _ in 0..4 {
        case.bell.silent("the page is held")?;
    }
    case.held.release()?;
    case.bell.expect("the holder let go")
}

fn grant_in_use(bench: &Bench) -> Outcome {
    let mut case = held(bench, 1)?;
    case.unmap()?;
    bench.peer()?.let_go(case.granted.share)?;
    // The granter's kernel looks every second.
    std::thread::sleep(Duration::from_millis(1500));
    bench.serves(case.granted.grants[0], "somebody holds the mapper's page")?;
    case.held.release()?;
    case.bell.expect("the holder let go")?;
    bench.ends(case.granted.grants[0], "the mapper's unmap is done")
}

fn live_page(bench: &Bench) -> Outcome {
    let mut case = held(bench, 1)?;
    case.unmap()?;
    let page: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(PAGE_SIZE)
        .collect();
    // In pieces: a message through xenstore has 4096 bytes.
    for (n, piece) in page.chunks(256).enumerate() {
        bench.peer()?.poke(case.theirs(), n * 256, piece)?;
    }
    let seen = case.held.checksum()?;
    same("what the holder sees", seen, Some(sha256(&page)))?;
    case.held.release()?;
    Ok(())
}

fn whole_map(bench: &Bench) -> Outcome {
    let mut case = held(bench, 3)?;
    case.unmap()?;
    bench.peer()?.let_go(case.granted.share)?;
    std::thread::sleep(Duration::from_millis(1200));
    for grant in &case.granted.grants {
        bench.serves(*grant, "the first page of its map is held")?;
    }
    case.held.release()?;
    for grant in &case.granted.grants {
        bench.ends(*grant, "nothing is held any more")?;
    }
    Ok(())
}

fn independent(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(2, Access::ReadWrite)?;
    let file = bench.platform().open_gntdev()?;
    let one = file.map_grant_ref(&granted.grants[..1])?;
    let other = file.map_grant_ref(&granted.grants[1..])?;
    let first = file.mmap(one, 1, Access::ReadWrite)?;
    let second = file.mmap(other, 1, Access::ReadWrite)?;
    let held = bench.hold(&first, 0, 1)?;
    first.unmap()?;
    file.unmap_grant_ref(one, 1)?;
    file.set_unmap_notify(other, bell.event())?;
    second.unmap()?;
    file.unmap_grant_ref(other, 1)?;
    bell.expect("nobody holds the second map")?;
    held.release()?;
    Ok(())
}

fn noticed_soon(bench: &Bench) -> Outcome {
    let mut case = held(bench, 1)?;
    case.unmap()?;
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    case.held.release()?;
    case.bell.expect("the holder let go")?;
    let gap = begun.elapsed();
    // The rest is for a slow or busy machine; without the retries it would never come.
    if gap > Duration::from_millis(105) + AT_ONCE {
        return Err(Stop::Differs(format!("it took {gap:?}")));
    }
    Ok(())
}

fn fork_holds(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(1, Access::ReadWrite)?;
    let theirs = Pages::Share(granted.share);
    let mut map = Mapping::new(bench.platform(), &granted.grants, Access::ReadWrite)?;
    map.pages()?.write(9, &[1]);
    let both = UnmapNotify {
        clear_byte: true,
        ..bell.event()
    };
    map.arm(9, both)?;
    let holder = kernel_holder(HoldName::Fork)?;
    let held = holder.import(holder.hold(map.pages()?, 0, 1)?)?;
    map.munmap()?;
    map.give_back()?;
    let silence = bell.silent("the child has the mapping");
    let byte = bench.peer()?.peek(theirs, 9, 1)?;
    held.release()?;
    silence?;
    same("the byte, while the child had it", byte, vec![1])?;
    bell.expect("the child is gone")?;
    let byte = bench.peer()?.peek(theirs, 9, 1)?;
    same("the byte, after the child", byte, vec![0])
}

fn fork_copies_no_marked(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let granted = bench.granted(2, Access::ReadWrite)?;
    let (kept, marked) = granted.grants.split_at(1);
    let mut kept = Mapping::new(bench.platform(), kept, Access::ReadWrite)?;
    let mut marked = Mapping::new(bench.platform(), marked, Access::ReadWrite)?;
    marked.arm(0, bell.event())?;
    let holder = kernel_holder(HoldName::Fork)?;
    // The holder lets its child have this one only.
    let held = holder.import(holder.hold(kept.pages()?, 0, 1)?)?;
    marked.munmap()?;
    marked.give_back()?;
    let over = bell.expect("the child lives, and has no copy");
    held.release()?;
    kept.munmap()?;
    kept.give_back()?;
    over
}
