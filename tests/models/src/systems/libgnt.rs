//! libgnt's own state machines, driven in every interleaving, and with every fault that can be
//! put into them.

use super::{Entry, System};
use crate::machine::Driven;
use crate::variant::Expected::Holds;
use crate::variant::{Expected, Variant};
use ::libgnt::platform::GuestType;
use ::libgnt::sim::core::{Config, KernelSabotage};
use ::libgnt::sim::wire::UnmapMode;

/// When it unmaps, and on what.
type Kernel = (UnmapMode, GuestType);

const ASYNC: Kernel = (UnmapMode::Async, GuestType::Pvh);
/// The cycle is in the notifier, which PV has.
const SYNC: Kernel = (UnmapMode::Sync, GuestType::Pv);

fn entry(
    name: &'static str,
    expected: Expected,
    statement: &'static str,
    kernel: Kernel,
    sabotage: Option<KernelSabotage>,
    deaths: u8,
) -> Variant {
    Entry {
        system: "libgnt",
        name,
        expected,
        statement,
        story: "The simulated kernels and hypervisor, and the mapper's unmap machine, as they are in \
                production. The mapper unmaps two maps, the first page by page; consumers have \
                pages pinned, take the references over and let go; the granter wants its pages \
                back and asks for more than its quota; retries come at any moment.",
        kind: "consumer",
        actors: (2, 3),
    }
    .model(move |b| {
        let mut config = Config::default();
        (config.unmap, config.guest) = kernel;
        config.sabotage = sabotage;
        Driven::new(config, b.actors, deaths)
    })
}

/// The system and its variants.
pub fn system() -> System {
    use KernelSabotage::*;
    let fails = |laws| Expected::Fails(laws);
    let mut variants = vec![
        entry("async", Holds, "the machine as it is", ASYNC, None, 0),
        entry(
            "async-deaths",
            Holds,
            "and with one process dying at any step",
            ASYNC,
            None,
            1,
        ),
        entry(
            "sync",
            fails(&["no-cycle"]),
            "with the unmap of before 5.19, mapper and i915 wait for each other",
            SYNC,
            None,
            0,
        ),
        entry(
            "sync-pvh",
            Holds,
            "on PVH that unmap waits in the map's last use, with no invalidation running: no cycle",
            (UnmapMode::Sync, GuestType::Pvh),
            None,
            0,
        ),
        entry(
            "pv",
            fails(&["g"]),
            "on PV a page that is held when its entry goes damages the kernel",
            (UnmapMode::Async, GuestType::Pv),
            None,
            0,
        ),
        entry(
            "ignores-references",
            fails(&["d"]),
            "broken: the hypervisor unmaps although somebody holds the page",
            ASYNC,
            Some(UnmapIgnoresReferences),
            0,
        ),
        entry(
            "no-map-reference",
            fails(&["c"]),
            "broken: the map is not kept while its unmap is queued",
            ASYNC,
            Some(NoMapReferenceAcrossAsync),
            0,
        ),
        entry(
            "double-unmap",
            fails(&["b"]),
            "broken: a map does not know which of its handles are unmapped",
            ASYNC,
            Some(DoubleUnmap),
            0,
        ),
        entry(
            "early-event",
            fails(&["released"]),
            "broken: the event comes when the unmap begins",
            ASYNC,
            Some(EventBeforeUnmap),
            0,
        ),
        entry(
            "early-reuse",
            fails(&["e"]),
            "broken: the granter gets its page back while it is mapped",
            ASYNC,
            Some(ReuseWhileInUse),
            0,
        ),
        entry(
            "lost-wakeup",
            fails(&["books", "no-cycle"]),
            "broken: the end of an invalidation wakes nobody",
            SYNC,
            Some(LostWakeup),
            0,
        ),
        entry(
            "hold-outlives-owner",
            fails(&["books"]),
            "broken: a dead process's references are never dropped",
            ASYNC,
            Some(HoldOutlivesOwner),
            1,
        ),
        entry(
            "no-quota",
            fails(&["books"]),
            "broken: gntalloc's quota is not checked",
            ASYNC,
            Some(NoQuota),
            0,
        ),
    ];
    let unheld = Entry {
        system: "libgnt",
        name: "pv-unheld",
        expected: Holds,
        statement: "on PV with nobody holding a page the notifier unmaps all, and nothing is damaged",
        story: "As libgnt/pv without a consumer, and with one process dying at any step.",
        kind: "consumer",
        actors: (2, 3),
    };
    variants.push(unheld.model(|_| {
        let mut config = Config::default();
        config.guest = GuestType::Pv;
        Driven::new(config, 0, 1)
    }));
    System {
        name: "libgnt",
        title: "libgnt: the production state machines under S0's laws",
        cycle: "Not a model but the code itself: libgnt::sim::core::Xen and libgnt::grant::UnmapMachine.",
        merged: "the asynchronous unmap, as in Linux 5.19.",
        variants,
    }
}
