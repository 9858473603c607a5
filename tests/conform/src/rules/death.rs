//! A process is killed. Its kernel tidies up as for any exit: the address space first, then the
//! files.
use crate::bench::{Bench, Partner};
use crate::outcome::Outcome;
use crate::rule::{On, Rule};
use crate::things::{Bell, PATIENCE, QUIET, must, peek, same};
use libgnt::types::UnmapNotify;
use libgnt::{Access, ForeignGrant};
use pv_harness::hand::channel::heard;
use pv_harness::hand::device::{Mapping, Share};
use pv_harness::hand::{Order, Pages, ShareId};

const EXIT: &str = "drivers/xen/gntdev.c: gntdev_vma_close, gntdev_release";
const RW: Access = Access::ReadWrite;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "death-of-the-mapper-releases",
        "A mapper that is killed lets its grants go.",
        EXIT,
        mapper_releases,
    ),
    Rule::new(
        "death-of-the-mapper-acts-on-its-notify",
        "The notify byte is cleared and the event sent, though the mapper's evtchn file died too.",
        "drivers/xen/gntdev.c: gntdev_put_map; events/events_base.c: evtchn_get",
        mapper_notifies,
    ),
    Rule::new(
        "death-of-the-mapper-while-a-page-is-held",
        "A page that a third process holds stays in use after the mapper's death.",
        "drivers/xen/grant-table.c: gnttab_unmap_work",
        mapper_held,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "death-of-the-holder-lets-go",
        "What a killed process held is released, and the unmap that waited for it goes on.",
        "drivers/xen/grant-table.c: gnttab_unmap_work",
        holder_lets_go,
    )
    .on(On::NotPvHolds),
    Rule::new(
        "death-of-the-granter-leaves-the-pages",
        "What a killed granter's peer has mapped stays mapped, and keeps its bytes.",
        "drivers/xen/gntalloc.c: gntalloc_release; drivers/xen/grant-table.c: gnttab_add_deferred",
        granter_leaves,
    ),
    Rule::new(
        "death-of-the-granter-acts-on-its-notify",
        "The notify byte is cleared in the shared page and the event sent to the peer.",
        "drivers/xen/gntalloc.c: __del_gref",
        granter_notifies,
    ),
    Rule::new(
        "death-of-the-granter-ends-unused-grants",
        "What nobody maps is ended with the granter's process.",
        "drivers/xen/gntalloc.c: gntalloc_release",
        granter_ends,
    ),
    Rule::new(
        "death-unbinds-ports",
        "The ports of a killed process close: the other end is offered anew, and sends in silence.",
        "drivers/xen/evtchn.c: evtchn_release",
        ports_unbound,
    ),
    Rule::new(
        "death-leaves-other-processes-alone",
        "What another process of the same domain has is not touched.",
        "drivers/xen/gntdev.c: gntdev_release",
        others_alone,
    ),
];

/// A channel from a partner to a file of ours; its first event is taken.
fn channel_from(
    bench: &Bench,
    partner: &Partner,
    of: libgnt::DomId,
    file: &dyn libgnt::platform::Evtchn,
) -> Outcome<(libgnt::EvtchnPort, libgnt::EvtchnPort)> {
    let far = file.bind_unbound(of)?;
    let near = partner.bind(&Order::BindInterdomain(bench.own(), far))?;
    same("the new port's file", partner.hear(PATIENCE)?, vec![near])?;
    Ok((far, near))
}

fn mapper_releases(bench: &Bench) -> Outcome {
    let (share, grant) = bench.granted_page()?;
    let mapper = bench.neighbour()?;
    mapper.map(vec![grant], RW)?;
    bench.peer()?.let_go(share)?;
    bench.serves(grant, "the mapper lives")?;
    mapper.kill()?;
    bench.ends(grant, "the mapper is dead")
}

fn mapper_notifies(bench: &Bench) -> Outcome {
    let ear = bench.platform().open_evtchn()?;
    let (share, grant) = bench.granted_page()?;
    let mapper = bench.neighbour()?;
    let (far, near) = channel_from(bench, &mapper, bench.own(), &*ear)?;
    let map = mapper.map(vec![grant], RW)?;
    mapper.poke(Pages::Map(map), 62, &[1])?;
    mapper.tell(&Order::Arm {
        at: Pages::Map(map).at(62),
        clear_byte: true,
        event: Some(near),
    })?;
    same(
        "the byte",
        bench.peer()?.peek(Pages::Share(share), 62, 1)?,
        vec![1],
    )?;
    mapper.kill()?;
    same("the event", heard(&*ear, PATIENCE)?, vec![far])?;
    same(
        "the byte",
        bench.peer()?.peek(Pages::Share(share), 62, 1)?,
        vec![0],
    )
}

fn mapper_held(bench: &Bench) -> Outcome {
    // This process holds; the pages are another's, which sends it what it holds.
    let (share, grant) = bench.granted_page()?;
    let mapper = bench.neighbour()?;
    let map = mapper.map(vec![grant], RW)?;
    let held = bench.take_hold(&mapper, map)?;
    bench.peer()?.let_go(share)?;
    mapper.kill()?;
    std::thread::sleep(std::time::Duration::from_millis(1300));
    bench.serves(grant, "this process holds the page")?;
    held.release()?;
    bench.ends(grant, "nobody holds it any more")
}

fn holder_lets_go(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (_, grant) = bench.granted_page()?;
    let mut map = Mapping::new(bench.platform(), &[grant], RW)?;
    map.arm(0, bell.event())?;
    let holder = bench.neighbour()?;
    bench.give_hold(&holder, map.pages()?)?;
    map.munmap()?;
    map.give_back()?;
    bell.silent("the other process holds the page")?;
    holder.kill()?;
    bell.expect("the holder is dead")
}

/// A mapping here of pages that the partner granted.
fn mapped(bench: &Bench, pages: usize) -> Outcome<(ShareId, Vec<ForeignGrant>, Mapping)> {
    let granted = bench.granted(pages, RW)?;
    let map = Mapping::new(bench.platform(), &granted.grants, RW)?;
    Ok((granted.share, granted.grants, map))
}

fn granter_leaves(bench: &Bench) -> Outcome {
    let (share, grants, mut map) = mapped(bench, 2)?;
    bench
        .peer()?
        .poke(Pages::Share(share), 100, b"last words")?;
    bench.peer()?.kill()?;
    let bytes = peek(map.pages()?, 100, 10);
    same("the page", bytes, b"last words".to_vec())?;
    map.pages()?.write(0, b"still ours");
    same(
        "the page",
        peek(map.pages()?, 0, 10),
        b"still ours".to_vec(),
    )?;
    bench.serves(grants[0], "this domain maps it")?;
    map.munmap()?;
    map.give_back()?;
    bench.ends(grants[0], "the last mapping went")
}

fn granter_notifies(bench: &Bench) -> Outcome {
    let ear = bench.platform().open_evtchn()?;
    let peer = bench.peer()?;
    let (far, near) = channel_from(bench, peer, bench.peer_id(), &*ear)?;
    let (share, _, map) = mapped(bench, 1)?;
    map.pages()?.write(63, &[1]);
    peer.tell(&Order::Arm {
        at: Pages::Share(share).at(63),
        clear_byte: true,
        event: Some(near),
    })?;
    peer.kill()?;
    same("the event", heard(&*ear, PATIENCE)?, vec![far])?;
    same("the byte", peek(map.pages()?, 63, 1), vec![0])
}

fn granter_ends(bench: &Bench) -> Outcome {
    let (_, grant) = bench.granted_page()?;
    bench.serves(grant, "its granter lives")?;
    bench.peer()?.kill()?;
    bench.ends(grant, "its granter is dead")
}

fn ports_unbound(bench: &Bench) -> Outcome {
    let file = bench.platform().open_evtchn()?;
    let neighbour = bench.neighbour()?;
    let (far, _) = channel_from(bench, &neighbour, bench.own(), &*file)?;
    neighbour.kill()?;
    let begun = std::time::Instant::now();
    while let Err(error) = file.bind_interdomain(bench.own(), far) {
        must(
            &format!("our port is offered anew ({error})"),
            begun.elapsed() < PATIENCE,
        )?;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let ports = heard(&*file, PATIENCE)?;
    must(
        &format!("only the new port was pending ({ports:?})"),
        !ports.contains(&far),
    )
}

fn others_alone(bench: &Bench) -> Outcome {
    let bell = Bell::new(bench.platform(), bench.own())?;
    let (_, grants, map) = mapped(bench, 1)?;
    map.arm(0, bell.event())?;
    let mut share = Share::new(bench.platform(), bench.peer_id(), 1, RW)?;
    let neighbour = bench.neighbour()?;
    neighbour.map(grants, RW)?;
    neighbour.share(bench.peer_id(), 1, RW)?;
    neighbour.kill()?;
    bell.silent("our mapping is there")?;
    map.pages()?.write(0, b"x");
    share.pages()?.write(0, b"x");
    share
        .file()?
        .set_unmap_notify(share.index, UnmapNotify::default())?;
    share.munmap()?;
    same("nothing else", heard(&*bell.file, QUIET)?, vec![])
}
