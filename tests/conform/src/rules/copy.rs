//! Grant copy: what it moves, and what it refuses.
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::things::{peek, refused, same};
use libgnt::platform::{CopySegment, CopySide};
use libgnt::types::GrantStatus;
use libgnt::{Access, ForeignGrant, PAGE_SIZE, SharedPages};
use pv_harness::hand::Pages;
use pv_harness::hand::device::{Mapping, Share};
use rustix::io::Errno;

const SEGMENT: &str = "drivers/xen/gntdev.c: gntdev_grant_copy_seg";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "copy-moves-bytes-both-ways",
        "Bytes are copied from a granted page and to one, at any offset.",
        "drivers/xen/gntdev.c: gntdev_ioctl_grant_copy; xen/common/grant_table.c: gnttab_copy_one",
        both_ways,
    ),
    Rule::new(
        "copy-from-grant-to-grant",
        "Both sides may be granted pages.",
        SEGMENT,
        grant_to_grant,
    ),
    Rule::new(
        "copy-of-two-local-sides-is-einval",
        "A segment without a grant is EINVAL.",
        SEGMENT,
        two_local,
    ),
    Rule::new(
        "copy-beyond-a-granted-page-is-einval",
        "A grant side that leaves its page is EINVAL; one that ends with it is fine.",
        SEGMENT,
        beyond_the_page,
    ),
    Rule::new(
        "copy-local-side-may-cross-pages",
        "A local side may begin anywhere and cross into the next page.",
        SEGMENT,
        across_pages,
    ),
    Rule::new(
        "copy-into-read-only-memory-is-efault",
        "A local destination that this process may not write to is EFAULT.",
        "drivers/xen/gntdev.c: gntdev_get_page (FOLL_WRITE)",
        into_read_only,
    ),
    Rule::new(
        "copy-of-many-segments",
        "One call takes more segments than the driver's batch of 16.",
        "drivers/xen/gntdev.c: GNTDEV_COPY_BATCH, gntdev_copy",
        many_segments,
    ),
    Rule::new(
        "copy-works-beside-a-mapping",
        "A grant that is mapped can be copied from, too.",
        "xen/common/grant_table.c: acquire_grant_for_copy",
        beside_a_mapping,
    ),
    Rule::new(
        "copy-needs-no-descriptor-of-the-grant",
        "A read-only grant can be copied from.",
        "xen/common/grant_table.c: acquire_grant_for_copy",
        from_read_only,
    ),
    Rule::new(
        "copy-of-a-granters-own-grant",
        "A domain can copy from a page that it granted to itself, which it cannot map.",
        "xen/common/grant_table.c: gnttab_copy_lock_domain",
        own_grant,
    ),
];

pub(super) fn from(grant: ForeignGrant, offset: u16) -> CopySide<'static> {
    CopySide::Grant { grant, offset }
}

pub(super) fn local(pages: &SharedPages, offset: usize) -> CopySide<'_> {
    CopySide::Local { pages, offset }
}

pub(super) fn segment<'a>(source: CopySide<'a>, dest: CopySide<'a>, len: u16) -> CopySegment<'a> {
    CopySegment {
        source,
        dest,
        len,
        status: GrantStatus::GENERAL_ERROR,
    }
}

/// One call; the statuses.
pub(super) fn copy(
    bench: &Bench,
    segments: &mut [CopySegment<'_>],
) -> libgnt::Result<Vec<GrantStatus>> {
    bench.platform().open_gntdev()?.grant_copy(segments)?;
    Ok(segments.iter().map(|segment| segment.status).collect())
}

fn both_ways(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let theirs = Pages::Share(share);
    let here = SharedPages::anonymous(1)?;
    bench.peer()?.poke(theirs, 4000, b"from there")?;
    here.write(33, b"from here");
    let mut segments = [
        segment(from(grant, 4000), local(&here, 7), 10),
        segment(local(&here, 33), from(grant, 1), 9),
    ];
    let statuses = copy(bench, &mut segments)?;
    same("the statuses", statuses, vec![GrantStatus::OKAY; 2])?;
    same("what came", peek(&here, 7, 10), b"from there".to_vec())?;
    let there = bench.peer()?.peek(theirs, 0, 11)?;
    same("what went", there, b"\0from here\0".to_vec())
}

fn grant_to_grant(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let theirs = Pages::Share(granted.share);
    bench.peer()?.poke(theirs, 0, b"across")?;
    let mut segments = [segment(
        from(granted.grants[0], 0),
        from(granted.grants[1], 100),
        6,
    )];
    same(
        "the status",
        copy(bench, &mut segments)?,
        vec![GrantStatus::OKAY],
    )?;
    let there = bench.peer()?.peek(theirs, PAGE_SIZE + 100, 6)?;
    same("the other page", there, b"across".to_vec())
}

fn two_local(bench: &Bench) -> Outcome {
    let a = SharedPages::anonymous(1)?;
    let b = SharedPages::anonymous(1)?;
    let mut segments = [segment(local(&a, 0), local(&b, 0), 8)];
    refused("two local sides", copy(bench, &mut segments), Errno::INVAL)
}

fn beyond_the_page(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let here = SharedPages::anonymous(2)?;
    let mut out = [segment(from(grant, 4000), local(&here, 0), 97)];
    refused("from past the end", copy(bench, &mut out), Errno::INVAL)?;
    let mut into = [segment(local(&here, 0), from(grant, 4096), 1)];
    refused("to past the end", copy(bench, &mut into), Errno::INVAL)?;
    let mut longer = [segment(local(&here, 0), from(grant, 0), 4097)];
    refused("more than a page", copy(bench, &mut longer), Errno::INVAL)?;
    let mut all = [
        segment(from(grant, 4000), local(&here, 0), 96),
        segment(from(grant, 0), local(&here, 0), 4096),
    ];
    same(
        "to the end",
        copy(bench, &mut all)?,
        vec![GrantStatus::OKAY; 2],
    )
}

fn across_pages(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let here = SharedPages::anonymous(3)?;
    bench.peer()?.poke(Pages::Share(share), 0, b"begin")?;
    bench.peer()?.poke(Pages::Share(share), 4091, b"- end")?;
    let mut segments = [segment(from(grant, 0), local(&here, 3000), 4096)];
    same(
        "the status",
        copy(bench, &mut segments)?,
        vec![GrantStatus::OKAY],
    )?;
    same("its begin", peek(&here, 3000, 5), b"begin".to_vec())?;
    same("its end", peek(&here, 3000 + 4091, 5), b"- end".to_vec())
}

fn into_read_only(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let map = Mapping::new(bench.platform(), &granted.grants[..1], Access::ReadOnly)?;
    let into = local(map.pages()?, 0);
    let mut segments = [segment(from(granted.grants[1], 0), into, 8)];
    refused(
        "into a read-only map",
        copy(bench, &mut segments),
        Errno::FAULT,
    )
}

fn many_segments(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let bytes: Vec<u8> = (1..=100).collect();
    bench.peer()?.poke(Pages::Share(share), 0, &bytes)?;
    let here = SharedPages::anonymous(1)?;
    let one = |n: u16| segment(from(grant, n), local(&here, 200 - usize::from(n)), 1);
    let mut segments: Vec<_> = (0..100).map(one).collect();
    let statuses = copy(bench, &mut segments)?;
    same("the statuses", statuses, vec![GrantStatus::OKAY; 100])?;
    let backwards: Vec<u8> = bytes.iter().rev().copied().collect();
    same("the bytes, turned round", peek(&here, 101, 100), backwards)
}

fn beside_a_mapping(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let map = Mapping::new(bench.platform(), &[grant], Access::ReadWrite)?;
    map.pages()?.write(0, b"mapped");
    let here = SharedPages::anonymous(1)?;
    let mut segments = [segment(from(grant, 0), local(&here, 0), 6)];
    same(
        "the status",
        copy(bench, &mut segments)?,
        vec![GrantStatus::OKAY],
    )?;
    same("the bytes", peek(&here, 0, 6), b"mapped".to_vec())
}

fn from_read_only(bench: &Bench) -> Outcome {
    let granted = bench.granted(1, Access::ReadOnly)?;
    bench.peer()?.poke(Pages::Share(granted.share), 0, b"r/o")?;
    let here = SharedPages::anonymous(1)?;
    let mut segments = [segment(from(granted.grants[0], 0), local(&here, 0), 3)];
    same(
        "the status",
        copy(bench, &mut segments)?,
        vec![GrantStatus::OKAY],
    )?;
    same("the bytes", peek(&here, 0, 3), b"r/o".to_vec())
}

fn own_grant(bench: &Bench) -> Outcome {
    let own = bench.own();
    let share = Share::new(bench.platform(), own, 1, Access::ReadWrite)?;
    share.pages()?.write(0, b"own");
    let here = SharedPages::anonymous(1)?;
    for domid in [own, libgnt::DomId::SELF] {
        here.fill(0, 3, 0);
        let grant = ForeignGrant {
            domid,
            gref: share.grefs[0],
        };
        let mut segments = [segment(from(grant, 0), local(&here, 0), 3)];
        same(
            "the status",
            copy(bench, &mut segments)?,
            vec![GrantStatus::OKAY],
        )?;
        same("the bytes", peek(&here, 0, 3), b"own".to_vec())?;
    }
    Ok(())
}
