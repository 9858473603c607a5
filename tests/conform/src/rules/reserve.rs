//! gntdev before mmap: reservations and their indexes.

use crate::bench::Bench;
use crate::outcome::{Outcome, Stop};
use crate::rule::Rule;
use crate::things::{refused, same};
use libgnt::{DomId, ForeignGrant, GrantRef, PAGE_SIZE};
use rustix::io::Errno;
use std::time::Duration;

const INDEX: &str = "drivers/xen/gntdev.c: gntdev_add_map";
const MAP: &str = "drivers/xen/gntdev.c: gntdev_ioctl_map_grant_ref";
const UNMAP: &str = "drivers/xen/gntdev.c: gntdev_ioctl_unmap_grant_ref, gntdev_find_map_index";
const IOCTL: &str = "drivers/xen/gntdev.c: gntdev_ioctl";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "map-of-nothing-is-einval",
        "MAP_GRANT_REF of no grants is EINVAL.",
        MAP,
        map_of_nothing,
    ),
    Rule::new(
        "map-over-the-limit-is-einval",
        "MAP_GRANT_REF of more grants than xen_gntdev.limit is EINVAL.",
        "drivers/xen/gntdev.c: gntdev_test_page_count",
        map_over_the_limit,
    ),
    Rule::new(
        "map-checks-no-grant",
        "MAP_GRANT_REF only reserves: it takes references and domains that do not exist.",
        MAP,
        map_checks_no_grant,
    ),
    Rule::new(
        "map-indexes-follow-each-other",
        "The first index of a file is 0, and each next one comes right behind, in bytes.",
        INDEX,
        indexes_follow,
    ),
    Rule::new(
        "map-index-needs-a-larger-gap",
        "A gap is used again for fewer pages than it has, but not for as many.",
        INDEX,
        index_gap,
    ),
    Rule::new(
        "map-indexes-are-the-files-own",
        "Every open file counts indexes from 0, and knows none of another's.",
        UNMAP,
        indexes_are_the_files,
    ),
    Rule::new(
        "unmap-of-an-unknown-index-is-enoent",
        "UNMAP_GRANT_REF is ENOENT at an index that no reservation begins at.",
        UNMAP,
        unmap_unknown,
    ),
    Rule::new(
        "unmap-of-another-length-is-enoent",
        "UNMAP_GRANT_REF is ENOENT with another count than the reservation's.",
        UNMAP,
        unmap_length,
    ),
    Rule::new(
        "unmap-of-count-0-means-any",
        "UNMAP_GRANT_REF with count 0 gives back the reservation at the index, however long.",
        UNMAP,
        unmap_any,
    ),
    Rule::new(
        "unmap-twice-is-enoent",
        "A reservation can be given back once.",
        UNMAP,
        unmap_twice,
    ),
    Rule::new(
        "set-max-grants-is-enotty",
        "SET_MAX_GRANTS is in the header and not in the driver: ENOTTY.",
        IOCTL,
        set_max_grants,
    ),
    Rule::new(
        "dma-buf-is-enotty-without-its-option",
        "Without CONFIG_XEN_GNTDEV_DMABUF the dma-buf calls are ENOTTY.",
        IOCTL,
        dma_buf,
    ),
];

/// References that nobody granted.
fn strangers(bench: &Bench, count: usize) -> Vec<ForeignGrant> {
    vec![bench.of_peer(GrantRef(7)); count]
}

fn pages(count: u64) -> u64 {
    count * PAGE_SIZE as u64
}

fn map_of_nothing(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    refused("no grants", file.map_grant_ref(&[]), Errno::INVAL)
}

fn map_over_the_limit(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let many = strangers(bench, bench.gntdev_limit()? + 1);
    refused("one too many", file.map_grant_ref(&many), Errno::INVAL)
}

fn map_checks_no_grant(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let nowhere = ForeignGrant {
        domid: DomId(0x7000),
        gref: GrantRef(u32::MAX),
    };
    file.map_grant_ref(&[nowhere])?;
    Ok(())
}

fn indexes_follow(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let first = file.map_grant_ref(&strangers(bench, 3))?;
    let second = file.map_grant_ref(&strangers(bench, 1))?;
    let third = file.map_grant_ref(&strangers(bench, 2))?;
    same(
        "the indexes",
        [first, second, third],
        [0, pages(3), pages(4)],
    )
}

fn index_gap(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    file.map_grant_ref(&strangers(bench, 2))?;
    file.map_grant_ref(&strangers(bench, 1))?;
    file.unmap_grant_ref(0, 2)?;
    let as_many = file.map_grant_ref(&strangers(bench, 2))?;
    same("the index of 2 pages, with a gap of 2", as_many, pages(3))?;
    let fewer = file.map_grant_ref(&strangers(bench, 1))?;
    same("the index of 1 page, with a gap of 2", fewer, 0)
}

fn indexes_are_the_files(bench: &Bench) -> Outcome {
    let one = bench.platform().open_gntdev()?;
    let other = bench.platform().open_gntdev()?;
    same("the index", one.map_grant_ref(&strangers(bench, 1))?, 0)?;
    refused(
        "the other file's",
        other.unmap_grant_ref(0, 1),
        Errno::NOENT,
    )?;
    same("the index", other.map_grant_ref(&strangers(bench, 1))?, 0)?;
    one.unmap_grant_ref(0, 1)?;
    other.unmap_grant_ref(0, 1)?;
    Ok(())
}

fn unmap_unknown(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    refused("an empty file", file.unmap_grant_ref(0, 1), Errno::NOENT)?;
    file.map_grant_ref(&strangers(bench, 2))?;
    let inside = file.unmap_grant_ref(pages(1), 1);
    refused("the second page", inside, Errno::NOENT)?;
    let behind = file.unmap_grant_ref(pages(2), 2);
    refused("behind the last page", behind, Errno::NOENT)
}

fn unmap_length(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&strangers(bench, 2))?;
    refused("fewer", file.unmap_grant_ref(index, 1), Errno::NOENT)?;
    refused("more", file.unmap_grant_ref(index, 3), Errno::NOENT)?;
    file.unmap_grant_ref(index, 2)?;
    Ok(())
}

fn unmap_any(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&strangers(bench, 2))?;
    file.unmap_grant_ref(index, 0)?;
    refused("again", file.unmap_grant_ref(index, 2), Errno::NOENT)
}

fn unmap_twice(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let index = file.map_grant_ref(&strangers(bench, 2))?;
    file.unmap_grant_ref(index, 2)?;
    refused("again", file.unmap_grant_ref(index, 2), Errno::NOENT)
}

fn set_max_grants(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    refused("SET_MAX_GRANTS", file.set_max_grants(1), Errno::NOTTY)
}

fn dma_buf(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntdev()?;
    let export = file.dmabuf_export(bench.peer_id(), &[GrantRef(7)], 0);
    let without = matches!(&export, Err(error) if error.errno() == Some(Errno::NOTTY));
    if !without && !bench.simulated() {
        return Err(Stop::NotHere(
            "this kernel has CONFIG_XEN_GNTDEV_DMABUF".into(),
        ));
    }
    refused("export", export, Errno::NOTTY)?;
    let any = rustix::pipe::pipe()?.0;
    let any = std::os::fd::AsFd::as_fd(&any);
    let wait = file.dmabuf_wait_released(any, Duration::ZERO);
    refused("wait", wait, Errno::NOTTY)?;
    let import = file.dmabuf_import(bench.peer_id(), any, 1);
    refused("import", import, Errno::NOTTY)?;
    refused("release", file.dmabuf_import_release(any), Errno::NOTTY)
}
