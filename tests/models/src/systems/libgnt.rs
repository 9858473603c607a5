//! libgnt's own state machines, driven in every interleaving, and with every fault that can be
//! put into them.

use super::{Entry, System};
use crate::machine::Driven;
use crate::variant::Expected::Holds;
use crate::variant::{Expected, Variant};
use ::libgnt::sim::core::{Config, KernelSabotage};
use ::libgnt::sim::wire::UnmapMode;

fn entry(
    name: &'static str,
    expected: Expected,
    statement: &'static str,
    unmap: UnmapMode,
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
        (config.unmap, config.sabotage) = (unmap, sabotage);
        Driven::new(config, b.actors, deaths)
    })
}

/// The system and its variants.
pub fn system() -> System {
    use KernelSabotage::*;
    use UnmapMode::{Async, Sync};
    let fails = |laws| Expected::Fails(laws);
    let variants = vec![
        entry("async", Holds, "the machine as it is", Async, None, 0),
        entry(
            "async-deaths",
            Holds,
            "and with one process dying at any step",
            Async,
            None,
            1,
        ),
        entry(
            "sync",
            fails(&["no-cycle"]),
            "with the unmap of before 5.19, mapper and i915 wait for each other",
            Sync,
            None,
            0,
        ),
        entry(
            "ignores-references",
            fails(&["d"]),
            "broken: the hypervisor unmaps although somebody holds the page",
            Async,
            Some(UnmapIgnoresReferences),
            0,
        ),
        entry(
            "no-map-reference",
            fails(&["c"]),
            "broken: the map is not kept while its unmap is queued",
            Async,
            Some(NoMapReferenceAcrossAsync),
            0,
        ),
        entry(
            "double-unmap",
            fails(&["b"]),
            "broken: a map does not know which of its handles are unmapped",
            Async,
            Some(DoubleUnmap),
            0,
        ),
        entry(
            "early-event",
            fails(&["released"]),
            "broken: the event comes when the unmap begins",
            Async,
            Some(EventBeforeUnmap),
            0,
        ),
        entry(
            "early-reuse",
            fails(&["e"]),
            "broken: the granter gets its page back while it is mapped",
            Async,
            Some(ReuseWhileInUse),
            0,
        ),
        entry(
            "lost-wakeup",
            fails(&["books", "no-cycle"]),
            "broken: the end of an invalidation wakes nobody",
            Sync,
            Some(LostWakeup),
            0,
        ),
        entry(
            "hold-outlives-owner",
            fails(&["books"]),
            "broken: a dead process's references are never dropped",
            Async,
            Some(HoldOutlivesOwner),
            1,
        ),
        entry(
            "no-quota",
            fails(&["books"]),
            "broken: gntalloc's quota is not checked",
            Async,
            Some(NoQuota),
            0,
        ),
    ];
    System {
        name: "libgnt",
        title: "libgnt: the production state machines under S0's laws",
        cycle: "Not a model but the code itself: libgnt::sim::core::Xen and libgnt::grant::UnmapMachine.",
        merged: "the asynchronous unmap, as in Linux 5.19.",
        variants,
    }
}
