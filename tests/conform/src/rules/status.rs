//! Grant copy's statuses: the call succeeds, and each segment has the hypervisor's own verdict.

use super::copy::{copy, from, local, segment};
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::things::{peek, refused, same};
use libgnt::types::GrantStatus;
use libgnt::{Access, DomId, ForeignGrant, GrantRef, SharedPages};
use pv_harness::hand::Pages;
use pv_harness::hand::device::Mapping;
use rustix::io::Errno;

const CLAIM: &str = "xen/common/grant_table.c: acquire_grant_for_copy, _set_status_v1";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "copy-status-of-an-absent-domain",
        "A domain that does not exist is GNTST_bad_domain.",
        "xen/common/grant_table.c: gnttab_copy_lock_domain",
        absent_domain,
    ),
    Rule::new(
        "copy-status-of-a-reference-beyond-the-table",
        "A reference beyond the granter's table is GNTST_bad_gntref.",
        "xen/common/grant_table.c: acquire_grant_for_copy (nr_grant_entries)",
        beyond_the_table,
    ),
    Rule::new(
        "copy-status-of-what-is-not-granted",
        "A reference not granted, granted to somebody else, or ended is GNTST_general_error.",
        CLAIM,
        not_granted,
    ),
    Rule::new(
        "copy-status-of-writing-to-a-read-only-grant",
        "Writing to a read-only grant is GNTST_general_error, and writes nothing.",
        CLAIM,
        read_only,
    ),
    Rule::new(
        "copy-status-is-each-segments-own",
        "A bad segment among good ones fails alone; the call succeeds.",
        "drivers/xen/gntdev.c: gntdev_copy",
        each_its_own,
    ),
    Rule::new(
        "copy-of-no-bytes-is-okay",
        "A segment of no bytes is okay, whatever it names: the hypervisor is not asked.",
        "drivers/xen/gntdev.c: gntdev_grant_copy_seg",
        no_bytes,
    ),
    Rule::new(
        "copy-errno-leaves-the-call",
        "A segment that the driver refuses ends the call with its errno, whatever came before.",
        "drivers/xen/gntdev.c: gntdev_ioctl_grant_copy",
        errno_ends,
    ),
    Rule::new(
        "copy-status-of-a-mapped-grant-as-local-side",
        "A local side must be this domain's own memory: pages mapped from a grant are GNTST_bad_page.",
        "xen/common/grant_table.c: get_paged_frame; xen/arch/x86/mm/p2m.c: p2m_get_page_from_gfn",
        mapped_local_side,
    ),
    Rule::new(
        "grant-to-domid-self-serves-nobody",
        "The table's peer is compared as a number: a grant to DOMID_SELF serves nobody.",
        CLAIM,
        to_domid_self,
    ),
];

fn status_from(bench: &Bench, grant: ForeignGrant) -> Outcome<GrantStatus> {
    let here = SharedPages::anonymous(1)?;
    let mut segments = [segment(from(grant, 0), local(&here, 0), 8)];
    Ok(copy(bench, &mut segments)?[0])
}

fn absent_domain(bench: &Bench) -> Outcome {
    let nowhere = ForeignGrant {
        domid: DomId(0x7000),
        gref: GrantRef(8),
    };
    same(
        "the status",
        status_from(bench, nowhere)?,
        GrantStatus::BAD_DOMAIN,
    )
}

fn beyond_the_table(bench: &Bench) -> Outcome {
    let beyond = bench.of_peer(GrantRef(1 << 24));
    same(
        "the status",
        status_from(bench, beyond)?,
        GrantStatus::BAD_GNTREF,
    )
}

fn not_granted(bench: &Bench) -> Outcome {
    let error = GrantStatus::GENERAL_ERROR;
    let never = bench.of_peer(GrantRef(400));
    same("never granted", status_from(bench, never)?, error)?;
    let peer = bench.peer()?;
    let (_, grefs) = peer.share(DomId(0x6fff), 1, Access::ReadWrite)?;
    let anothers = bench.of_peer(grefs[0]);
    same("somebody else's", status_from(bench, anothers)?, error)?;
    let (share, grant) = bench.granted_page()?;
    same("granted", status_from(bench, grant)?, GrantStatus::OKAY)?;
    peer.let_go(share)?;
    same("ended", status_from(bench, grant)?, error)
}

fn read_only(bench: &Bench) -> Outcome {
    let granted = bench.granted(1, Access::ReadOnly)?;
    let here = SharedPages::anonymous(1)?;
    here.write(0, b"no");
    let mut segments = [segment(local(&here, 0), from(granted.grants[0], 0), 2)];
    let status = copy(bench, &mut segments)?[0];
    same("the status", status, GrantStatus::GENERAL_ERROR)?;
    let there = bench.peer()?.peek(Pages::Share(granted.share), 0, 2)?;
    same("the page", there, vec![0, 0])
}

fn each_its_own(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    bench.peer()?.poke(Pages::Share(share), 0, b"abc")?;
    let bad = bench.of_peer(GrantRef(1 << 24));
    let here = SharedPages::anonymous(1)?;
    let mut segments = [
        segment(from(grant, 0), local(&here, 0), 1),
        segment(from(bad, 0), local(&here, 1), 1),
        segment(from(grant, 2), local(&here, 2), 1),
    ];
    let statuses = copy(bench, &mut segments)?;
    let expected = [
        GrantStatus::OKAY,
        GrantStatus::BAD_GNTREF,
        GrantStatus::OKAY,
    ];
    same("the statuses", statuses, expected.to_vec())?;
    same("the bytes", peek(&here, 0, 3), b"a\0c".to_vec())
}

fn no_bytes(bench: &Bench) -> Outcome {
    let bad = bench.of_peer(GrantRef(1 << 24));
    let here = SharedPages::anonymous(1)?;
    let mut segments = [segment(from(bad, 0), local(&here, 0), 0)];
    let status = copy(bench, &mut segments)?[0];
    same("the status of no bytes", status, GrantStatus::OKAY)
}

fn errno_ends(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    let here = SharedPages::anonymous(1)?;
    let mut segments = [
        segment(from(grant, 0), local(&here, 0), 1),
        segment(from(grant, 4096), local(&here, 0), 1),
        segment(from(grant, 0), local(&here, 1), 1),
    ];
    refused(
        "a bad second segment",
        copy(bench, &mut segments),
        Errno::INVAL,
    )
}

fn mapped_local_side(bench: &Bench) -> Outcome {
    let granted = bench.granted(2, Access::ReadWrite)?;
    let map = Mapping::new(bench.platform(), &granted.grants[..1], Access::ReadWrite)?;
    let other = granted.grants[1];
    let mut segments = [
        segment(from(other, 0), local(map.pages()?, 0), 8),
        segment(local(map.pages()?, 0), from(other, 8), 8),
    ];
    let statuses = copy(bench, &mut segments)?;
    same("the statuses", statuses, vec![GrantStatus::BAD_PAGE; 2])
}

fn to_domid_self(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    let run = file.alloc_gref(DomId::SELF, 1, Access::ReadWrite)?;
    let grant = ForeignGrant {
        domid: bench.own(),
        gref: run.grefs[0],
    };
    same(
        "the status",
        status_from(bench, grant)?,
        GrantStatus::GENERAL_ERROR,
    )
}
