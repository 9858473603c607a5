//! The cycle with drivers that every kernel has: a pipe holds the pages, and its reader must first
//! complete an operation on an on-demand region of rxe (`mmu_interval_read_begin` in
//! `ib_umem_odp_map_dma_and_lock`, `drivers/infiniband/core/umem_odp.c`, Linux 7.2). The two together
//! are what i915's userptr is alone.

use super::actors::*;
use super::stage::{FAMILY, model};
use super::state::*;
use crate::model::Model;
use crate::program::{Program, Step};
use crate::search::{NOBODY_WAITS, NOTHING_LEAKS};
use crate::systems::{Family, fails};
use crate::variant::{Expected::Holds, Variant};

type Actor = Program<Gntdev>;

/// Where the region begins: callbacks are called in the order of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// One ordinary page before the grants.
    Before,
    /// With them; gntdev's notifier is the older one.
    AtTheGrants,
}

/// What makes one of these.
#[derive(Clone, Copy, Debug)]
struct Setting {
    way: Way,
    begins: Begins,
    /// The pipes hold a page.
    held: bool,
    /// The ordinary page was there when the region was registered, so nothing has to fault.
    present: bool,
    /// A worker of the kernel performs the operation, and the consumer waits for it.
    worker: bool,
}

const PV: Way = Way {
    guest: Guest::Pv,
    sync: true,
    ..Way::MERGED
};
const CYCLE: Setting = Setting {
    way: PV,
    begins: Begins::Before,
    held: true,
    present: false,
    worker: false,
};

/// munmap of the grants, with the region's notifier beside gntdev's.
fn mapper_beside_a_region(setting: Setting) -> Actor {
    let way = setting.way;
    let region = |p: Actor| p.act("calls the region's callback: its sequence is odd", odd);
    let gntdev = |p: Actor| match way.guest {
        Guest::Hvm => p,
        Guest::Pv | Guest::HvmCallback => unmap(p, ALL, way, true, "unreferenced"),
    };
    let actor = Actor::new("mapper").write(MMAP_LOCK);
    let actor = match setting.begins {
        Begins::Before => actor.then(region).then(gntdev),
        Begins::AtTheGrants => actor.then(gntdev).then(region),
    };
    let actor = zap(actor, ALL, way).then(end_round);
    let actor = put(actor, MAPPER, way, ["vma-gone", "vma-unreferenced"]).unlock(MMAP_LOCK);
    put(actor, MAPPER, way, ["file-gone", "file-unreferenced"])
}

fn odd(s: &mut Step<'_, Gntdev>) {
    s.rounds += 1;
}

/// The operation on the region's ordinary page.
fn operation(actor: Actor) -> Actor {
    actor
        .ask("is the region's page in its table?", |v| v.present, "fault")
        .goto("through")
        .label("fault")
        .wait_then(
            "the region's sequence to be even (mmu_interval_read_begin)",
            "takes the page into the region's table",
            |v| v.rounds == 0,
            |_| vec![MAPPER],
            |s| s.present = true,
        )
        .label("through")
}

/// Has a pipe with a page in it, and reads it when its operation is through.
fn consumer(me: usize, worker: Option<usize>) -> Actor {
    let actor = Actor::new(format!("consumer {me}"));
    let actor = match worker {
        None => operation(actor),
        Some(worker) => actor.wait(
            "the completion of its write",
            |v| v.completed,
            move |_| vec![worker],
        ),
    };
    actor.act("empties its pipe", move |s| s.pins[me] = 0)
}

/// rxe's work queue.
fn worker() -> Actor {
    operation(Actor::new("rxe's worker")).act("completes the write", |s| s.completed = true)
}

fn play(setting: Setting, consumers: usize) -> Model<Gntdev> {
    let way = setting.way;
    let mut init = Gntdev {
        present: setting.present,
        ..Gntdev::mapped()
    };
    let worker_is = setting.worker.then_some(2 + consumers);
    let mut actors = vec![mapper_beside_a_region(setting), granter(Trusts::Event)];
    for i in 0..consumers {
        let me = 2 + i;
        if setting.held {
            init.pins[me] = 1 << (i % PAGES);
        }
        actors.push(consumer(me, worker_is));
    }
    if setting.worker {
        actors.push(worker());
    }
    if !way.sync {
        actors.push(work_queue(way, usize::MAX));
    }
    model(init, actors)
}

/// The cycle, what it needs, and what ends it.
pub fn variants() -> Vec<Variant> {
    let family = Family {
        kind: "consumer",
        ..FAMILY
    };
    let asynchronous = Way { sync: false, ..PV };
    let entry_first = Way {
        entry_first: true,
        ..asynchronous
    };
    let pvh = Way {
        guest: Guest::Hvm,
        ..PV
    };
    let on = |way| Setting { way, ..CYCLE };
    vec![
        family
            .entry(
                "odp",
                fails(&[NOBODY_WAITS, "a"]),
                "the callback waits for a pipe, its reader for an on-demand region's odd sequence",
                "A pipe holds a page of the mapping. Its reader prefetches an on-demand region that \
                 begins one ordinary page before the grants. munmap calls the region's callback first, \
                 by address, and the region's sequence is odd; then gntdev's, which waits for the pipe. \
                 The prefetch has to fault the ordinary page in and waits for the sequence to be even. \
                 Made on a real Xen with drivers as Linux has them.",
            )
            .model(|b| play(CYCLE, b.actors)),
        family
            .entry(
                "odp-write",
                fails(&[NOBODY_WAITS, "a"]),
                "the same, with a worker of the kernel between: the consumer waits for a completion",
                "As odp, with an RDMA write instead of the prefetch: rxe's work queue faults the page in, \
                 and the consumer waits for its completion.",
            )
            .model(|b| {
                let setting = Setting {
                    worker: true,
                    ..CYCLE
                };
                play(setting, b.actors)
            }),
        family
            .entry(
                "odp-unheld",
                Holds,
                "with nothing in the pipes gntdev's callback has nothing to wait for",
                "As odp, with empty pipes: the callback unmaps and returns, the sequence becomes even.",
            )
            .model(|b| {
                let setting = Setting {
                    held: false,
                    ..CYCLE
                };
                play(setting, b.actors)
            }),
        family
            .entry(
                "odp-present",
                fails(&["a"]),
                "the ordinary page was there at the registration: nothing faults, the wait ends",
                "As odp, but the registration found the ordinary page, so the prefetch has nothing to \
                 fault in and the pipe is emptied. The callback waits for that, no longer.",
            )
            .model(|b| {
                let setting = Setting {
                    present: true,
                    ..CYCLE
                };
                play(setting, b.actors)
            }),
        family
            .entry(
                "odp-at-the-grants",
                fails(&["a"]),
                "the region begins with the grants: gntdev's callback comes first, the sequence is even",
                "As odp, but the region begins at the grants. gntdev's notifier is the older one there, \
                 so it waits before the region's callback was called; the fault is let through.",
            )
            .model(|b| {
                let setting = Setting {
                    begins: Begins::AtTheGrants,
                    ..CYCLE
                };
                play(setting, b.actors)
            }),
        family
            .entry(
                "odp-pvh",
                Holds,
                "on PVH the wait is in the map's last put, when every sequence is even again",
                "As odp in a PVH guest. gntdev has no notifier there: munmap's round ends, and only then \
                 the last put waits for the pipe. sync-consumer has the cycle that is left there.",
            )
            .model(move |b| play(on(pvh), b.actors)),
        family
            .entry(
                "odp-async",
                fails(&["g", "d", "e", NOTHING_LEAKS]),
                "the asynchronous unmap has no cycle, and on PV damages what it defers (pv-deferral)",
                "As odp with the unmap that was merged. Nobody waits. But the pipe holds the unmap up, \
                 and munmap clears the entry that the hypervisor should have cleared.",
            )
            .model(move |b| play(on(asynchronous), b.actors)),
        family
            .entry(
                "odp-entry-first",
                Holds,
                "the entry is given back in the callback, the page when its holder lets go",
                "As odp-async, with the entry unmapped in the callback and only the page's own mapping \
                 deferred (pv-entry-first).",
            )
            .model(move |b| play(on(entry_first), b.actors)),
    ]
}
