//! Which ways of unmapping meet which actors.

use super::actors::*;
use super::odp;
use super::stage::*;
use super::state::*;
use crate::search::{NOBODY_WAITS, NOTHING_LEAKS};
use crate::systems::{System, fails};
use crate::variant::{Expected::Holds, Variant};

/// The system and its variants.
pub fn system() -> System {
    let mut variants = synchronous();
    variants.extend(odp::variants());
    variants.extend(guards());
    variants.extend(error_path());
    variants.extend(notifiers());
    variants.extend(asynchronous());
    System {
        name: "gntdev",
        title: "S0: gntdev waits for pages whose pinner waits for gntdev",
        cycle: "Unmapping holds the address-space lock and keeps the notifier's sequence odd while it \
                waits for every page's count to fall. The pinner (i915's userptr) cannot drop its \
                pages until the sequence is even again. Each waits for the other.",
        merged: "An asynchronous unmap (Linux 5.19 and stable kernels): a flag for each page that is \
                 being unmapped, a reference on the map while an unmap is queued, and a counter of live \
                 grants that makes mmap fail and a second unmap do nothing. Later fixes: split \
                 mappings, partly failed maps, invalid handles, mmap while an unmap is pending.",
        variants,
    }
}

fn synchronous() -> Vec<Variant> {
    let sync = |guest| Way {
        guest,
        sync: true,
        ..Way::MERGED
    };
    let pv = sync(Guest::Pv);
    let hvm = sync(Guest::Hvm);
    vec![
        FAMILY.entry(
            "sync",
            fails(&[NOBODY_WAITS, "a"]),
            "the notifier's callback waits for the pages, their pinner for the notifier",
            "The mapper takes its page away: it holds the address-space lock, makes the notifier's \
             sequence odd and, in the callback, waits until nobody references the page. The pinner gets the \
             page at the last moment, and may not drop it while the sequence is odd. This is the \
             frozen desktop of QubesOS/qubes-issues#7481.",
        )
        .model(move |b| usual(mapper(pv), b.actors, pv)),
        FAMILY.entry(
            "sync-unpinned",
            Holds,
            "with nobody pinning, waiting for the references is over at once",
            "The same code without a third party. It always worked in tests: what was missing there \
             was the consumer that holds the page.",
        )
        .model(move |_| usual(mapper(pv), 0, pv)),
        FAMILY.entry(
            "sync-consumer",
            fails(&[NOBODY_WAITS]),
            "the last close waits for a page that the consumer gives back only after the close",
            "No notifier is needed. On PVH and HVM the unmap is made at the map's last use, in the \
             ioctl or in close; the consumer of the data lets go of its page when the mapper tells it \
             that it is done; the mapper would tell it after the close.",
        )
        .model(move |b| {
            let actors = cast(mapper(hvm), b.actors, LetsGo::Told, hvm, Trusts::Event);
            model(Gntdev::mapped(), actors)
        }),
        FAMILY.entry(
            "sync-close-first",
            fails(&[NOBODY_WAITS]),
            "the last use ends in munmap, under the address-space lock that the pinner needs",
            "The file is closed first, so the vma's end is the map's last use, and munmap waits for the \
             page with the address-space lock held. The pinner needs that lock to get on and let go.",
        )
        .model(move |b| {
            let actors = cast(closer(hvm), b.actors, LetsGo::MmapLock, hvm, Trusts::Event);
            model(Gntdev::mapped(), actors)
        }),
    ]
}

fn guards() -> Vec<Variant> {
    let callback = Way {
        guest: Guest::HvmCallback,
        ..Way::MERGED
    };
    let by_handle = Way {
        removing_flag: false,
        ..callback
    };
    let no_reference = Way {
        map_reference: false,
        ..Way::MERGED
    };
    let resurrecting = Way {
        live_counter: false,
        look_again: false,
        ..Way::MERGED
    };
    let shared = Way {
        shared_item: true,
        ..callback
    };
    let ranges = |way: Way, pinners: usize| {
        let mut actors = vec![partial(0, way), partial(1, way), granter(Trusts::Event)];
        for i in 0..pinners {
            actors.push(pinner(3 + i, 1 << (i % PAGES), LetsGo::SequenceEven));
        }
        actors.push(work_queue(way, usize::MAX));
        // Splitting the mapping made a second vma: two uses, and the file is closed.
        model(Gntdev::mapped(), actors)
    };
    vec![
        FAMILY.entry(
            "handle-as-guard",
            fails(&["b", "h"]),
            "the handle becomes invalid only at the end, so a second invalidation unmaps again",
            "Whether a page is being unmapped is read off its handle, which the queued unmap invalidates \
             when it completes. A second invalidation of the same range, while a pinner holds the first \
             one up, finds the handle valid and queues the same unmap again.",
        )
        .model(move |b| usual(invalidated_twice(by_handle), b.actors, by_handle)),
        FAMILY.entry(
            "removing-flag",
            Holds,
            "with a flag of its own for pages being unmapped, the second invalidation does nothing",
            "As handle-as-guard, with the flag that was merged.",
        )
        .model(move |b| usual(invalidated_twice(callback), b.actors, callback)),
        FAMILY.entry(
            "no-map-reference",
            fails(&["c"]),
            "the last close frees the map that the queued unmap will use",
            "The unmap is queued, and nothing keeps the map for it: the last use ends, and the map is \
             freed with its work pending.",
        )
        .model(move |b| usual(mapper(no_reference), b.actors, no_reference)),
        FAMILY.entry(
            "put-resurrects",
            fails(&["c"]),
            "the last put unmaps, which takes a use again, and frees the map all the same",
            "At the last use the unmap is queued and takes a use of the map. The put that called it \
             does not look again, and frees the map.",
        )
        .model(move |b| usual(mapper(resurrecting), b.actors, resurrecting)),
        FAMILY.entry(
            "shared-work-item",
            fails(&["h", NOBODY_WAITS]),
            "two partial unmaps share one work item: the first range is forgotten",
            "Two threads each unmap one page of a map. The map has one work item; while the first unmap \
             is held up, the second overwrites it. The first page is never unmapped, the map never \
             freed, and the granter waits for ever.",
        )
        .model(move |b| ranges(shared, b.actors)),
        FAMILY.entry(
            "two-ranges",
            Holds,
            "two partial unmaps, each with a work item of its own",
            "As shared-work-item, as it was merged.",
        )
        .model(move |b| ranges(callback, b.actors)),
    ]
}

fn error_path() -> Vec<Variant> {
    let merged = Way::MERGED;
    let naive = Way {
        live_counter: false,
        ..Way::MERGED
    };
    let early = Way {
        live_until_hypercall: true,
        ..Way::MERGED
    };
    let sync = Way {
        sync: true,
        ..Way::MERGED
    };
    let unmapped = || Gntdev {
        users: 1,
        ..Gntdev::default()
    };
    let failing = move |way: Way, again: bool, pinners: usize| {
        let actor = failing_mmap(way, again);
        let actors = cast(actor, pinners, LetsGo::MmapLock, way, Trusts::Event);
        model(unmapped(), actors)
    };
    vec![
        FAMILY.entry(
            "remap-while-live",
            fails(&["f", "e", NOTHING_LEAKS]),
            "mmap fails, its clean-up is still queued, and the next mmap maps the map again",
            "mmap maps the grants, fails to insert a page and queues the unmap. A pinner caught the page \
             that was inserted, so the unmap is held up. The program tries again, and the map is \
             mapped a second time while its grants live.",
        )
        .model(move |b| failing(naive, true, b.actors)),
        FAMILY.entry(
            "remap-counted-too-early",
            fails(&[NOTHING_LEAKS, "e"]),
            "the counter falls with the hypercall, before the handles are invalid: they are lost",
            "The counter of live grants says what the hypervisor has mapped. mmap comes between the \
             hypercall and the work's completion, maps again, and then the completion makes the new \
             handles invalid: their grants are never unmapped. The counter must fall last.",
        )
        .model(move |b| failing(early, true, b.actors)),
        FAMILY.entry(
            "remap-refused",
            Holds,
            "with a counter of live grants, the second mmap returns EAGAIN until the unmap is over",
            "As remap-while-live, with the counter that was merged.",
        )
        .model(move |b| failing(merged, true, b.actors)),
        FAMILY.entry(
            "error-path-waits",
            Holds,
            "waiting on mmap's error path alone, if nobody can have pinned the page yet",
            "It was asked whether the error path of mmap may simply wait, since nobody else can use the \
             pages yet. If that is so, it may.",
        )
        .model(move |_| failing(sync, false, 0)),
        FAMILY.entry(
            "error-path-waits-gup",
            fails(&[NOBODY_WAITS]),
            "a lockless walker can have pinned the page even there, and then needs mmap's lock",
            "gup-fast takes no lock: it can pin the page that the failing mmap had inserted. mmap waits \
             for that page with the address-space lock held; the pinner wants the lock to go on.",
        )
        .model(move |b| failing(sync, false, b.actors)),
    ]
}

fn notifiers() -> Vec<Variant> {
    let merged = Way::MERGED;
    let pv = Way {
        guest: Guest::Pv,
        ..Way::MERGED
    };
    vec![
        FAMILY.entry(
            "pv-deferral",
            fails(&["g", "d", "e", NOTHING_LEAKS]),
            "on PV a deferred unmap leaves the entry to munmap, which must not touch it",
            "On PV the page-table entry belongs to the hypervisor and only the unmap hypercall may clear \
             it. A pinner holds the unmap up; munmap goes on and clears the entry itself (`Bad page map`), \
             and drops the pinner's reference as if it were the entry's. The work queue finds nobody \
             there: it takes the page from under the pinner and sends the event, but the entry that it \
             would unmap the grant by is gone. The grant stays in use for ever.",
        )
        .model(move |b| usual(mapper(pv), b.actors, pv)),
        FAMILY.entry(
            "pv-entry-first",
            Holds,
            "on PV the entry is unmapped in the callback, and the page waits for its pinner",
            "As pv-deferral, in two halves. A PV map has two mappings of each grant: the user's entry, \
             and the page's own in the kernel. The callback unmaps the first, which needs no reference \
             to go; the second is unmapped, and the page freed, when the pinner has let go. Proposed \
             here, not merged.",
        )
        .model(move |b| {
            let halves = Way {
                entry_first: true,
                ..pv
            };
            usual(mapper(halves), b.actors, halves)
        }),
        FAMILY.entry(
            "pv-unpinned",
            Holds,
            "on PV, with nobody pinning, the queue unmaps at once, before the entries go",
            "As pv-deferral without a pinner: the first try is made in the callback itself.",
        )
        .model(move |_| usual(mapper(pv), 0, pv)),
        FAMILY.entry(
            "release-ignores-pins",
            fails(&["d"]),
            "the notifier's release means that the address space ends, not that its pages are free",
            "release was proposed because it comes when the references fall to zero. They are the address \
             space's, not the pages': a pinner's reference outlives the process.",
        )
        .model(move |b| usual(exit_with_release(merged), b.actors, merged)),
        FAMILY.entry(
            "release-of-the-living",
            fails(&[NOBODY_WAITS]),
            "a process that lives on never releases what it has unmapped",
            "With release as the notifier, munmap gives nothing back. The granter waits for its page before \
             it sends the next request, and the mapper lives to serve that request.",
        )
        .model(move |_| usual(living_with_release(merged), 0, merged)),
        FAMILY.entry(
            "byte-means-released",
            fails(&["e"]),
            "the notify byte tells that the unmap began; the granter reuses the page too early",
            "The byte is cleared when the unmap is queued. With a pinner, the grant stays mapped long after \
             that; only the event says that it is over.",
        )
        .model(move |b| {
            let lets_go = LetsGo::SequenceEven;
            let actors = cast(mapper(merged), b.actors, lets_go, merged, Trusts::Byte);
            model(Gntdev::mapped(), actors)
        }),
    ]
}

fn asynchronous() -> Vec<Variant> {
    let merged = Way::MERGED;
    let callback = Way {
        guest: Guest::HvmCallback,
        ..Way::MERGED
    };
    let partly_failed = || Gntdev {
        entries: 0,
        granted: 0b01,
        live: 0b01,
        handles: 0b01,
        users: 1,
        ..Gntdev::default()
    };
    let every_page = Way {
        unmap_failed: true,
        ..Way::MERGED
    };
    let close_failed = move |way: Way| {
        let actors = cast(close_only(way), 0, LetsGo::SequenceEven, way, Trusts::Event);
        model(partly_failed(), actors)
    };
    vec![
        FAMILY.entry(
            "failed-handle-unmapped",
            fails(&["b"]),
            "a map that failed for one page unmaps that page's handle, which never was",
            "One of two grants could not be mapped. Unmapping both hands the hypervisor a handle that it \
             never gave out.",
        )
        .model(move |_| close_failed(every_page)),
        FAMILY.entry(
            "async-partly-failed",
            Holds,
            "a map that failed for one page unmaps the other, once",
            "As failed-handle-unmapped, as it was merged.",
        )
        .model(move |_| close_failed(merged)),
        FAMILY.entry(
            "async",
            Holds,
            "pin, unmap, unpin, event: the unmap is queued, and nobody waits for the pinner",
            "The merged way on PVH and HVM. munmap and close return; the work queue unmaps when the last \
             reference is gone; the event tells the granter.",
        )
        .model(move |b| usual(mapper(merged), b.actors, merged)),
        FAMILY.entry(
            "async-callback",
            Holds,
            "the same, unmapped from the notifier's callback",
            "As async, with the unmap made in the callback: it queues and returns, so the round ends and \
             the pinner lets go.",
        )
        .model(move |b| usual(mapper(callback), b.actors, callback)),
        FAMILY.entry(
            "async-consumer",
            Holds,
            "the consumer gives the page back after the close, and the unmap follows it",
            "As sync-consumer, asynchronous.",
        )
        .model(move |b| {
            let actors = cast(mapper(merged), b.actors, LetsGo::Told, merged, Trusts::Event);
            model(Gntdev::mapped(), actors)
        }),
        FAMILY.entry(
            "async-close-pinned",
            Holds,
            "the file is closed first, and munmap ends the last use with pages pinned",
            "As sync-close-first, asynchronous.",
        )
        .model(move |b| {
            let actors = cast(closer(merged), b.actors, LetsGo::MmapLock, merged, Trusts::Event);
            model(Gntdev::mapped(), actors)
        }),
        FAMILY.entry(
            "async-fork",
            Holds,
            "a forked child inherits mapping and use; the unmap follows its exit",
            "The child's entries are references, and its vma is a use of the map: the last of the two to go \
             makes the unmap.",
        )
        .model(move |b| {
            let lets_go = LetsGo::SequenceEven;
            let mut actors = cast(mapper(merged), b.actors, lets_go, merged, Trusts::Event);
            actors.pop();
            let me = actors.len();
            actors.push(child(me, merged));
            actors.push(work_queue(merged, me));
            let init = Gntdev {
                child: 0b11,
                users: 3,
                ..Gntdev::mapped()
            };
            model(init, actors)
        }),
    ]
}
