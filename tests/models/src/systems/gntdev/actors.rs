//! Who takes part.

use super::state::*;
use crate::program::Program;

type Actor = Program<Gntdev>;

/// The mapper is always the first column.
pub const MAPPER: usize = 0;
pub(super) const ALL: u8 = 0b11;

fn mine(actor: usize) -> u8 {
    1 << actor
}

/// `unmap_grant_pages` for a range.
pub(super) fn unmap(
    actor: Actor,
    range: u8,
    way: Way,
    in_callback: bool,
    free: &'static str,
) -> Actor {
    if !way.sync {
        return actor.act("marks the pages and queues their unmap", move |s| {
            queue_unmap(s, range, way);
        });
    }
    let busy = move |v: &Gntdev| v.referenced(way.guest) & to_unmap(v, range, way) != 0;
    actor
        .ask("does anybody reference the pages?", busy, free)
        .act("goes to sleep until nobody does", move |s| {
            if in_callback {
                s.breaks("a");
            }
        })
        .label(free)
        .wait_then(
            "the page references to go",
            "unmaps the pages, which nobody references",
            move |v| !busy(v),
            move |v| v.holders(range, usize::MAX),
            move |s| {
                let pages = to_unmap(s, range, way);
                s.byte = true;
                if pages != 0 {
                    s.removing |= pages;
                    hypervisor_unmaps(s, pages, way);
                    if !s.crashed {
                        complete(s, pages, way);
                    }
                }
            },
        )
}

/// `gntdev_put_map`: one use less; the last one unmaps and frees.
pub(super) fn put(actor: Actor, me: usize, way: Way, labels: [&'static str; 2]) -> Actor {
    let [kept, free] = labels;
    let actor = actor
        .act("drops a use of the map", move |s| {
            s.users = s.users.saturating_sub(1);
            s.last &= !mine(me);
            if s.users == 0 {
                s.last |= mine(me);
            }
        })
        .ask(
            "was that the last use?",
            move |v| v.last & mine(me) != 0,
            kept,
        );
    unmap(actor, ALL, way, false, free)
        .when(way.look_again, |p| {
            p.ask(
                "is it still unused, and not freed?",
                |v| v.users == 0 && !v.freed,
                kept,
            )
        })
        .act("frees the map", free_map)
        .label(kept)
}

fn free_map(s: &mut crate::program::Step<'_, Gntdev>) {
    free(s);
}

fn begin_round(actor: Actor) -> Actor {
    actor.act("begins a notifier round: the sequence is odd", |s| {
        s.rounds += 1
    })
}

pub(super) fn end_round(actor: Actor) -> Actor {
    actor.act("ends the round: the sequence is even", |s| {
        s.rounds = s.rounds.saturating_sub(1);
    })
}

pub(super) fn zap(actor: Actor, range: u8, way: Way) -> Actor {
    actor.act("clears the page-table entries", move |s| {
        let taken = s.entries & s.granted & range;
        if way.guest == Guest::Pv && taken != 0 {
            s.breaks("g");
            s.lost |= taken;
        }
        s.entries &= !range;
    })
}

/// munmap, then close: the notifier's round, the entries, the vma's use, the file's use.
pub fn mapper(way: Way) -> Actor {
    let actor = Actor::new("mapper").write(MMAP_LOCK).then(begin_round);
    let actor = if way.guest == Guest::Hvm {
        actor
    } else {
        unmap(actor, ALL, way, true, "unreferenced")
    };
    let actor = zap(actor, ALL, way).then(end_round);
    let actor = put(actor, MAPPER, way, ["vma-gone", "vma-unreferenced"]).unlock(MMAP_LOCK);
    put(actor, MAPPER, way, ["file-gone", "file-unreferenced"])
        .act("tells the consumer that it is done", |s| s.told = true)
}

/// Another invalidation of the range (a fork's, a migration's) comes before munmap's own.
pub fn invalidated_twice(way: Way) -> Actor {
    let actor = Actor::new("mapper").write(MMAP_LOCK).then(begin_round);
    let actor = unmap(actor, ALL, way, true, "first-unreferenced").then(end_round);
    let actor = actor.then(begin_round);
    let actor = unmap(actor, ALL, way, true, "unreferenced");
    let actor = zap(actor, ALL, way).then(end_round);
    let actor = put(actor, MAPPER, way, ["vma-gone", "vma-unreferenced"]).unlock(MMAP_LOCK);
    put(actor, MAPPER, way, ["file-gone", "file-unreferenced"])
}

/// close first, munmap (or exit) after.
pub fn closer(way: Way) -> Actor {
    let actor = Actor::new("mapper");
    let actor = put(actor, MAPPER, way, ["file-gone", "file-unreferenced"])
        .write(MMAP_LOCK)
        .then(begin_round);
    let actor = zap(actor, ALL, way).then(end_round);
    put(actor, MAPPER, way, ["vma-gone", "vma-unreferenced"])
        .unlock(MMAP_LOCK)
        .act("tells the consumer that it is done", |s| s.told = true)
}

/// A thread of the mapper that unmaps one page of two; the last one out closes the file.
pub fn partial(me: usize, way: Way) -> Actor {
    let range = 1 << me;
    let actor = Actor::new(format!("mapper {me}"))
        .write(MMAP_LOCK)
        .then(begin_round);
    let actor = unmap(actor, range, way, true, "unreferenced");
    let actor = zap(actor, range, way).then(end_round);
    put(actor, me, way, ["vma-gone", "vma-unreferenced"]).unlock(MMAP_LOCK)
}

/// mmap that fails half-way and cleans up, and then tries again.
pub fn failing_mmap(way: Way, again: bool) -> Actor {
    let maps = |p: Actor| {
        p.act("maps the grants", |s| {
            if s.granted != 0 {
                return s.crashes("f");
            }
            s.granted = ALL;
            s.live = ALL;
            s.handles = ALL;
            s.removing = 0;
        })
    };
    let actor = Actor::new("mapper").write(MMAP_LOCK).then(maps);
    let actor = actor
        .act("inserts the first page, fails at the second", |s| {
            s.entries = 0b01
        })
        .then(|p| zap(p, ALL, way));
    let mut actor = unmap(actor, ALL, way, false, "unreferenced").unlock(MMAP_LOCK);
    if again {
        actor = actor.write(MMAP_LOCK);
        if way.live_counter {
            actor = actor.ask("is no grant live?", |v| v.live == 0, "refuse");
        }
        actor = actor
            .then(maps)
            .act("inserts both pages", |s| s.entries = ALL)
            .unlock(MMAP_LOCK)
            .write(MMAP_LOCK)
            .then(|p| zap(p, ALL, way))
            .unlock(MMAP_LOCK)
            .goto("close")
            .label("refuse")
            .act("returns EAGAIN", |s| s.refused = true)
            .unlock(MMAP_LOCK)
            .label("close");
    }
    put(actor, MAPPER, way, ["file-gone", "file-unreferenced"])
}

/// close of a map that was never mmapped, or only in part.
pub fn close_only(way: Way) -> Actor {
    put(
        Actor::new("mapper"),
        MAPPER,
        way,
        ["file-gone", "file-unreferenced"],
    )
}

/// Unmaps when the address space ends: at exit, before its entries go.
pub fn exit_with_release(way: Way) -> Actor {
    let actor = Actor::new("mapper").act("exits: the notifier's release unmaps", move |s| {
        let pages = s.handles;
        hypervisor_unmaps(s, pages, way);
        s.handles = 0;
    });
    zap(actor, ALL, way)
        .act("drops a use of the map", |s| s.users -= 1)
        .act("drops the last use and frees the map", |s| {
            s.users = 0;
            free(s);
        })
}

/// munmap with `release` as the notifier: nothing happens until the process ends, and it lives on
/// to serve the granter.
pub fn living_with_release(way: Way) -> Actor {
    let actor = Actor::new("mapper").write(MMAP_LOCK).then(begin_round);
    let actor = zap(actor, ALL, way).then(end_round).unlock(MMAP_LOCK).wait(
        "the granter's next request, which reuses the page",
        |v| v.reused != 0,
        |_| vec![1],
    );
    actor
        .act("exits: the notifier's release unmaps", move |s| {
            let pages = s.handles;
            hypervisor_unmaps(s, pages, way);
            s.handles = 0;
        })
        .act("drops every use and frees the map", |s| {
            s.users = 0;
            free(s);
        })
}

/// How a pinner comes to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetsGo {
    /// When the notifier's sequence is even (i915's userptr).
    SequenceEven,
    /// When the mapper says that it is done (a consumer of the mapper's).
    Told,
    /// After it has taken the address-space lock once more (a driver that pins the rest slowly).
    MmapLock,
}

/// Pins a page without taking a lock, and lets go of it.
pub fn pinner(me: usize, page: u8, lets_go: LetsGo) -> Actor {
    let got = move |v: &Gntdev| v.pins[me] != 0;
    let actor = Actor::new(format!("pinner {me}"))
        .act("pins a page, if it is mapped", move |s| {
            s.pins[me] = (s.entries | s.child) & page;
        })
        .ask("did it get the page?", got, "none");
    match lets_go {
        LetsGo::SequenceEven => actor.wait(
            "the notifier's sequence to be even",
            |v| v.rounds == 0,
            |_| vec![MAPPER],
        ),
        LetsGo::Told => actor.wait(
            "the mapper to say that it is done",
            |v| v.told,
            |_| vec![MAPPER],
        ),
        LetsGo::MmapLock => actor.read(MMAP_LOCK).unlock(MMAP_LOCK),
    }
    .act("lets go of the page", move |s| s.pins[me] = 0)
    .label("none")
}

/// A forked child, which inherited mapping and use; it exits some time.
pub fn child(me: usize, way: Way) -> Actor {
    let actor = Actor::new("forked child").act("exits: its entries go", |s| s.child = 0);
    put(actor, me, way, ["vma-gone", "vma-unreferenced"])
}

/// The kernel's work queue: unmaps what is queued as soon as nobody references it.
pub fn work_queue(way: Way, child: usize) -> Actor {
    Actor::new("work queue")
        .label("again")
        .rest(
            "the references to the queued pages to go",
            "unmaps the queued pages, which nobody references",
            |v| v.pending() == 0,
            move |v| v.ready(way.guest).is_some(),
            move |v| {
                let mut holders = v.holders(v.pending(), child);
                if v.entries & v.pending() != 0 && way.guest != Guest::Pv {
                    holders.push(MAPPER);
                }
                holders
            },
            move |s| {
                if let Some(item) = s.ready(way.guest) {
                    let pages = std::mem::take(&mut s.work[item]);
                    s.completing = Some(pages);
                    hypervisor_unmaps(s, pages, way);
                }
            },
        )
        .act("completes: drops its use of the map", move |s| {
            if let Some(pages) = s.completing.take() {
                complete(s, pages, way);
            }
        })
        .goto("again")
}

/// What the granter takes for the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusts {
    /// The notify event.
    Event,
    /// The notify byte.
    Byte,
}

/// Uses its pages again when it believes them released.
pub fn granter(trusts: Trusts) -> Actor {
    let actor = Actor::new("granter");
    match trusts {
        Trusts::Event => actor.wait("the notify event", |v| v.event, |_| vec![MAPPER]),
        Trusts::Byte => actor.wait("the notify byte", |v| v.byte, |_| vec![MAPPER]),
    }
    .act("uses its pages again", |s| {
        if s.granted != 0 {
            s.breaks("e");
        }
        s.reused = ALL;
    })
}
