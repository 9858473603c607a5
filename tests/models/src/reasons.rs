//! Not only that a variant fails, but that it fails for the reason its discussion gives: the law,
//! the step that breaks it, and who then waits for whom. And that a sound variant is sound for
//! its reason: with its one difference undone, the checker objects.

use super::catalogue::pick_one;
use super::cli::{BoundArgs, explain};
use super::graph::Recorder;
use super::history::History;
use super::search::{LOCK_ORDER, Limits, NOBODY_WAITS, NOTHING_LEAKS};
use super::systems;
use super::variant::{Bounds, Expected};
use std::sync::Arc;

/// Variant, the law that is its point, the last step of the shortest history, and the cycle of
/// waits that it ends in.
type Reason = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const REASONS: &[Reason] = &[
    (
        "gntdev/sync",
        NOBODY_WAITS,
        "pinner 2: did it get the page? yes",
        &["mapper", "pinner 2"],
    ),
    (
        "gntdev/odp",
        NOBODY_WAITS,
        "consumer 2: is the region's page in its table? no",
        &["mapper", "consumer 2"],
    ),
    (
        "gntdev/odp-write",
        NOBODY_WAITS,
        "rxe's worker: is the region's page in its table? no",
        &["mapper", "consumer 2", "rxe's worker"],
    ),
    (
        "gntdev/odp-present",
        "a",
        "mapper: goes to sleep until nobody does",
        &[],
    ),
    (
        "gntdev/odp-at-the-grants",
        "a",
        "mapper: goes to sleep until nobody does",
        &[],
    ),
    (
        "gntdev/odp-async",
        "g",
        "mapper: clears the page-table entries",
        &[],
    ),
    (
        "gntdev/sync-consumer",
        NOBODY_WAITS,
        "pinner 2: did it get the page? yes",
        &["mapper", "pinner 2"],
    ),
    (
        "gntdev/sync-close-first",
        NOBODY_WAITS,
        "pinner 2: queues for mmap_lock for reading",
        &["mapper", "pinner 2"],
    ),
    (
        "gntdev/handle-as-guard",
        "b",
        "work queue: unmaps the queued pages, which nobody references",
        &[],
    ),
    ("gntdev/no-map-reference", "c", "mapper: frees the map", &[]),
    ("gntdev/put-resurrects", "c", "mapper: frees the map", &[]),
    (
        "gntdev/shared-work-item",
        "h",
        "mapper 1: marks the pages and queues their unmap",
        &[],
    ),
    (
        "gntdev/remap-while-live",
        "f",
        "mapper: maps the grants",
        &[],
    ),
    (
        "gntdev/remap-counted-too-early",
        NOTHING_LEAKS,
        "granter: uses its pages again",
        &[],
    ),
    (
        "gntdev/error-path-waits-gup",
        NOBODY_WAITS,
        "pinner 2: queues for mmap_lock for reading",
        &["mapper", "pinner 2"],
    ),
    (
        "gntdev/pv-deferral",
        "g",
        "mapper: clears the page-table entries",
        &[],
    ),
    (
        "gntdev/release-ignores-pins",
        "d",
        "mapper: exits: the notifier's release unmaps",
        &[],
    ),
    (
        "gntdev/release-of-the-living",
        NOBODY_WAITS,
        "mapper: lets go of mmap_lock",
        &["mapper", "granter"],
    ),
    (
        "gntdev/byte-means-released",
        "e",
        "granter: uses its pages again",
        &[],
    ),
    (
        "gntdev/failed-handle-unmapped",
        "b",
        "mapper: marks the pages and queues their unmap",
        &[],
    ),
    (
        "p2pdma/zap-then-flag",
        "no-new-mapping",
        "fault 1: inserts the entry",
        &[],
    ),
    (
        "p2pdma/flag-not-drained",
        "no-new-mapping",
        "fault 1: inserts the entry",
        &[],
    ),
    (
        "p2pdma/reuse-when-zap-returns",
        "no-stale-use",
        "walker 2: reads and writes the page, lets go of it",
        &[],
    ),
    (
        "p2pdma/reuse-at-zero",
        "no-stale-reference",
        "walker 2: takes a reference, unless the count is zero",
        &[],
    ),
    (
        "p2pdma/grace-without-count",
        "no-stale-use",
        "walker 2: reads and writes the page, lets go of it",
        &[],
    ),
    (
        "p2pdma/zero-then-grace-one-look",
        "no-stale-use",
        "walker 2: reads and writes the page, lets go of it",
        &[],
    ),
    (
        "p2pdma/gup-under-object-lock",
        "no-stale-use",
        "walker 2: reads and writes the page, lets go of it",
        &[],
    ),
    (
        "vfio-pci/reversed",
        NOBODY_WAITS,
        "disabler: queues for mmap_sem for reading",
        &["disabler", "mmap call", "fault 1"],
    ),
    (
        "vfio-pci/reversed-no-writer",
        LOCK_ORDER,
        "disabler: takes mmap_sem for reading",
        &[],
    ),
    (
        "vfio-pci/user-page-under-lock",
        NOBODY_WAITS,
        "disabler: queues for mmap_sem for reading",
        &["disabler", "mmap call", "fault 1"],
    ),
    (
        "vfio-pci/try-lock-no-retry",
        "sigbus-only-when-off",
        "fault 1: gets SIGBUS",
        &[],
    ),
    (
        "vfio-pci/try-lock-retry-once",
        "sigbus-only-when-off",
        "fault 2: gets SIGBUS",
        &[],
    ),
    (
        "vfio-pci/recursive-read",
        NOBODY_WAITS,
        "read call 1: queues for memory_lock for reading",
        &["disabler", "read call 1"],
    ),
    (
        "vfio-pci/drop-and-retake",
        "off-means-unmapped",
        "disabler: switches the memory off",
        &[],
    ),
    (
        "vfio-pci/pause-faults-unlocked",
        "off-means-unmapped",
        "fault 1: inserts the mapping",
        &[],
    ),
    (
        "vfio-pci/pause-faults-at-start",
        NOBODY_WAITS,
        "disabler: queues for mmap_sem for reading",
        &["disabler", "mmap call", "fault 1"],
    ),
    (
        "vfio-pci/pause-while-off",
        NOBODY_WAITS,
        "fault 1: lets go of vma_lock",
        &["disabler", "fault 1"],
    ),
    (
        "type1/blocking-pin",
        NOBODY_WAITS,
        "driver 1: lets go of iommu lock",
        &["program", "driver 1"],
    ),
    (
        "type1/woken-once",
        NOBODY_WAITS,
        "driver 1: lets go of iommu lock",
        &["program", "driver 1"],
    ),
    (
        "type1/lasting-flag-unmap",
        NOBODY_WAITS,
        "driver 1: lets go of iommu lock",
        &["program", "driver 1"],
    ),
    (
        "type1/lasting-flag-register",
        NOBODY_WAITS,
        "driver 1: lets go of iommu lock",
        &["program", "driver 1"],
    ),
    (
        "type1/lasting-flag-other-device",
        NOBODY_WAITS,
        "driver 1: lets go of iommu lock",
        &["program", "driver 1"],
    ),
    (
        "type1/lasting-flag-stopped",
        NOBODY_WAITS,
        "driver 1: lets go of iommu lock",
        &[],
    ),
    (
        "type1/exclusion-unlocked",
        "suspended-means-detached",
        "program: suspends the address",
        &[],
    ),
    (
        "type1/fork-late",
        "pins-find-a-page",
        "driver 1: pins the page",
        &[],
    ),
    (
        "mpx/fault-under-lock",
        NOBODY_WAITS,
        "user 0: queues for mmap_sem for writing",
        &["munmap 0"],
    ),
    (
        "mpx/faults-disabled",
        NOTHING_LEAKS,
        "munmap 0: lets go of mmap_sem",
        &[],
    ),
    (
        "mpx/bd-sem-inside",
        NOBODY_WAITS,
        "bounds fault: queues for mmap_sem for writing",
        &["munmap 0", "bounds fault"],
    ),
    (
        "mpx/two-phases-marks-only",
        "used-table-kept",
        "munmap 0: reaps the marked tables",
        &[],
    ),
    (
        "mpx/two-phases-dropped",
        "used-table-kept",
        "munmap 0: reaps the marked tables",
        &[],
    ),
    (
        "mpx/count-outside-lock",
        NOTHING_LEAKS,
        "munmap 1: are there any? no",
        &[],
    ),
    (
        "mpx/partly-covered",
        "used-table-kept",
        "munmap 0: reaps the marked tables",
        &[],
    ),
    (
        "mpx/user-writes-entry",
        "entry-has-table",
        "user: writes the old entry back",
        &[],
    ),
    (
        "xenbus/notices-nothing",
        NOTHING_LEAKS,
        "module 1: lets go of device lock",
        &[],
    ),
    (
        "xenbus/closes-the-new-one",
        "own-device-only",
        "xenwatch: unregisters the device",
        &[],
    ),
    (
        "xenbus/number-not-read-yet",
        NOBODY_WAITS,
        "module 1: reads who the back end is",
        &["xenwatch", "module 1"],
    ),
    (
        "xenbus/crash-in-a-probe",
        NOBODY_WAITS,
        "driver: queues for device lock for writing",
        &["xenwatch", "module 1"],
    ),
    (
        "xenbus/taken-away-elsewhere",
        NOBODY_WAITS,
        "driver: queues for device lock for writing",
        &["work queue", "module 1"],
    ),
    (
        "libgnt/sync",
        "no-cycle",
        "i915 1: lets go of its page",
        &[],
    ),
    (
        "libgnt/pv",
        "g",
        "mapper: munmaps map 0, page 0; the kernel of domain 2 ",
        &[],
    ),
    (
        "libgnt/ignores-references",
        "d",
        "mapper: gives map 0 back (UNMAP_GRANT_REF); (d) ",
        &[],
    ),
    ("libgnt/no-map-reference", "c", "mapper: ", &[]),
    ("libgnt/double-unmap", "b", "", &[]),
    (
        "libgnt/early-event",
        "released",
        "mapper: hears map 0's event; ",
        &[],
    ),
    (
        "libgnt/early-reuse",
        "e",
        "granter: takes map 0's pages back; (e) ",
        &[],
    ),
    (
        "libgnt/lost-wakeup",
        "books",
        "i915 1: lets go of its page; ",
        &[],
    ),
    ("libgnt/hold-outlives-owner", "books", "mapper: dies; ", &[]),
    (
        "libgnt/no-quota",
        "books",
        "granter: asks for one page above the quota; ",
        &[],
    ),
];

fn history(id: &str) -> History {
    explain(&systems::all(), id, None, BoundArgs::default())
        .unwrap()
        .history
}

#[test]
fn each_naive_variant_fails_for_its_reason() {
    let systems = systems::all();
    for variant in systems.iter().flat_map(|s| &s.variants) {
        let Expected::Fails([first, ..]) = variant.expected else {
            continue;
        };
        let id = variant.id();
        let (_, law, step, cycle) = REASONS.iter().find(|(of, ..)| *of == id).expect(&id);
        assert_eq!(first, law, "{id}");
        let history = history(&id);
        let last = history.events.last().unwrap();
        let did = format!("{}: {}", history.actors[last.actor], last.text);
        // The machine's own words follow its steps, with names that are its own business.
        let right = did == *step || (id.starts_with("libgnt/") && did.starts_with(step));
        assert!(right, "{id}: {did}");
        assert!(last.breaks.contains(law), "{id}: {:?}", last.breaks);
        if *law == NOBODY_WAITS {
            let names: Vec<&str> = (history.cycle().iter())
                .map(|column| history.actors[*column].as_str())
                .collect();
            assert_eq!(names, *cycle, "{id}");
        }
    }
}

#[test]
fn the_deadlock_of_2022_holds_what_the_report_says() {
    let history = history("gntdev/sync");
    let at = |name: &str| history.actors.iter().position(|a| a == name).unwrap();
    let (mapper, pinner) = (at("mapper"), at("pinner 2"));
    let end = history.end();
    assert_eq!(end[mapper].holds, ["mmap_lock (w)", "odd sequence"]);
    assert_eq!(end[pinner].holds, ["page 0"]);
    assert_eq!(end[mapper].waits.as_ref().unwrap().whom, [pinner]);
    assert_eq!(end[pinner].waits.as_ref().unwrap().whom, [mapper]);
}

#[test]
fn a_sound_variant_with_its_difference_undone_is_objected_to() {
    let systems = systems::all();
    let mut mended = 0;
    for variant in systems.iter().flat_map(|s| &s.variants) {
        if variant.expected != Expected::Holds {
            continue;
        }
        let id = variant.id();
        let naive = systems::mends(&id).expect(&id);
        let place = pick_one(&systems, naive).unwrap();
        let naive = &systems[place.system].variants[place.variant];
        let recorder = Arc::new(Recorder::default());
        let found = naive.check(Bounds { actors: 1 }, Limits::default(), &recorder);
        let recorder = Arc::new(Recorder::default());
        let two = naive.check(Bounds { actors: 2 }, Limits::default(), &recorder);
        assert!(
            !found.broken.is_empty() || !two.broken.is_empty(),
            "{id}: nothing is wrong with {}",
            naive.id()
        );
        mended += 1;
    }
    assert!(mended >= 25, "{mended}");
}
