//! gntalloc's unmap notify: it acts when this side's use of a page ends, whatever the peer does.
use crate::bench::Bench;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::things::{Bell, refused, same};
use libgnt::types::UnmapNotify;
use libgnt::{Access, EvtchnPort, ForeignGrant, PAGE_SIZE};
use pv_harness::hand::device::Share;
use pv_harness::hand::{MapId, Pages};
use rustix::io::Errno;

const NOTIFY: &str = "drivers/xen/gntalloc.c: gntalloc_ioctl_unmap_notify";
const DEL: &str = "drivers/xen/gntalloc.c: __del_gref";
const RW: Access = Access::ReadWrite;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "alloc-notify-of-an-unknown-page-is-enoent",
        "SET_UNMAP_NOTIFY is ENOENT for a page that is not there, whatever the port.",
        NOTIFY,
        unknown_page,
    ),
    Rule::new(
        "alloc-notify-with-an-unbound-port-is-einval",
        "SET_UNMAP_NOTIFY is EINVAL for a port that no evtchn file has.",
        NOTIFY,
        unbound_port,
    ),
    Rule::new(
        "alloc-notify-does-not-wait-for-the-peer",
        "Byte and event come when the granter lets go, though the peer maps the page.",
        DEL,
        not_for_the_peer,
    ),
    Rule::new(
        "alloc-notify-waits-for-the-granters-mapping",
        "Neither byte nor event comes while the granter has the page mapped.",
        "drivers/xen/gntalloc.c: gntalloc_vma_close, __del_gref",
        waits_for_own_mapping,
    ),
    Rule::new(
        "alloc-notify-is-each-pages-own",
        "Every page has a notify of its own, at any byte of it.",
        NOTIFY,
        each_pages_own,
    ),
    Rule::new(
        "alloc-notify-is-replaced-by-the-next",
        "A second SET_UNMAP_NOTIFY of a page replaces byte and port.",
        NOTIFY,
        replaced,
    ),
    Rule::new(
        "alloc-notify-comes-with-close",
        "The last close acts on the notifies of what was not deallocated.",
        "drivers/xen/gntalloc.c: gntalloc_release",
        with_close,
    ),
];

fn both(bell: &Bell) -> UnmapNotify {
    UnmapNotify {
        clear_byte: true,
        ..bell.event()
    }
}

fn unbound() -> UnmapNotify {
    UnmapNotify {
        clear_byte: false,
        send_event: Some(EvtchnPort(900)),
    }
}

fn grants(bench: &Bench, share: &Share) -> Vec<ForeignGrant> {
    let domid = bench.own();
    let grefs = share.grefs.iter();
    grefs.map(|&gref| ForeignGrant { domid, gref }).collect()
}

/// A page whose first byte is 1, mapped by the peer; the byte and the bell are its notify.
fn mapped_and_armed(bench: &Bench, bell: &Bell) -> Outcome<(Share, MapId)> {
    let share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    share.pages()?.write(0, &[1]);
    let map = bench.peer()?.map(grants(bench, &share), RW)?;
    share.file()?.set_unmap_notify(share.index, both(bell))?;
    Ok((share, map))
}

fn unknown_page(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    let nothing = file.set_unmap_notify(0, unbound());
    refused("an empty file", nothing, Errno::NOENT)?;
    let run = file.alloc_gref(bench.peer_id(), 1, RW)?;
    let behind = file.set_unmap_notify(run.index + PAGE_SIZE as u64, UnmapNotify::default());
    refused("behind the last page", behind, Errno::NOENT)
}

fn unbound_port(bench: &Bench) -> Outcome {
    let file = bench.platform().open_gntalloc()?;
    let run = file.alloc_gref(bench.peer_id(), 1, RW)?;
    let armed = file.set_unmap_notify(run.index, unbound());
    refused("an unbound port", armed, Errno::INVAL)
}

fn not_for_the_peer(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    share.pages()?.fill(0, 16, 0xff);
    let map = peer.map(grants(bench, &share), RW)?;
    share
        .file()?
        .set_unmap_notify(share.index + 3, both(&bell))?;
    share.munmap()?;
    bell.silent("the file has the page")?;
    share.dealloc()?;
    bell.expect("the granter let go")?;
    let bytes = peer.peek(Pages::Map(map), 2, 3)?;
    same(
        "bytes 2 to 4, as the peer sees them",
        bytes,
        vec![0xff, 0, 0xff],
    )
}

fn waits_for_own_mapping(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let peer = bench.peer()?;
    let (mut share, map) = mapped_and_armed(bench, &bell)?;
    share.dealloc()?;
    bell.silent("the granter has the page mapped")?;
    same("the byte", peer.peek(Pages::Map(map), 0, 1)?, vec![1])?;
    share.munmap()?;
    bell.expect("the granter's mapping went")?;
    same("the byte", peer.peek(Pages::Map(map), 0, 1)?, vec![0])
}

fn each_pages_own(bench: &Bench) -> Outcome {
    let first = Bell::new(bench.platform(), bench.own())?;
    let second = Bell::new(bench.platform(), bench.own())?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 2, RW)?;
    let page = PAGE_SIZE as u64;
    let file = share.file()?;
    file.set_unmap_notify(share.index + 4095, both(&first))?;
    file.set_unmap_notify(share.index + page, both(&second))?;
    share.munmap()?;
    share.file()?.dealloc_gref(share.index + page, 1)?;
    second.expect("the second page went")?;
    first.silent("the first page is there")?;
    share.file()?.dealloc_gref(share.index, 1)?;
    first.expect("the first page went")
}

fn replaced(bench: &Bench) -> Outcome {
    let first = Bell::new(bench.platform(), bench.own())?;
    let second = Bell::new(bench.platform(), bench.own())?;
    let peer = bench.peer()?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    share.pages()?.write(0, &[1, 1]);
    let map = peer.map(grants(bench, &share), RW)?;
    share.file()?.set_unmap_notify(share.index, both(&first))?;
    share
        .file()?
        .set_unmap_notify(share.index + 1, both(&second))?;
    share.munmap()?;
    share.dealloc()?;
    second.expect("armed last")?;
    first.silent("its notify was replaced")?;
    same("the bytes", peer.peek(Pages::Map(map), 0, 2)?, vec![1, 0])
}

fn with_close(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let peer = bench.peer()?;
    let (mut share, map) = mapped_and_armed(bench, &bell)?;
    share.munmap()?;
    share.file = None;
    bell.expect("the file was closed")?;
    same("the byte", peer.peek(Pages::Map(map), 0, 1)?, vec![0])?;
    peer.munmap(Pages::Map(map))?;
    Ok(())
}
