//! The six systems, and libgnt itself.

pub mod gntdev;
pub mod libgnt;
pub mod mpx;
pub mod p2pdma;
pub mod type1;
pub mod vfio_pci;
pub mod xenbus;

use super::subject::Subject;
use super::variant::{Bounds, Builder, Expected, Variant};

/// Everything there is to say about a variant but its model.
pub(super) struct Entry {
    pub system: &'static str,
    pub name: &'static str,
    pub expected: Expected,
    pub statement: &'static str,
    pub story: &'static str,
    pub kind: &'static str,
    /// Default and greatest number of actors of that kind.
    pub actors: (usize, usize),
}

impl Entry {
    pub(super) fn model<S: Subject>(
        self,
        build: impl Fn(Bounds) -> S + Send + Sync + 'static,
    ) -> Variant {
        Variant {
            system: self.system,
            name: self.name,
            expected: self.expected,
            statement: self.statement,
            story: self.story,
            actors: self.actors,
            kind: self.kind,
            model: Box::new(Builder(build)),
        }
    }
}

/// What the variants of a system have in common.
pub(super) struct Family {
    pub system: &'static str,
    pub kind: &'static str,
    pub actors: (usize, usize),
}

impl Family {
    pub(super) fn entry(
        &self,
        name: &'static str,
        expected: Expected,
        statement: &'static str,
        story: &'static str,
    ) -> Entry {
        Entry {
            system: self.system,
            name,
            expected,
            statement,
            story,
            kind: self.kind,
            actors: self.actors,
        }
    }
}

fn fails(laws: &'static [&'static str]) -> Expected {
    Expected::Fails(laws)
}

/// A set with one member: an actor, or a table.
fn bit(member: usize) -> u8 {
    1 << member
}

fn members(set: u8) -> Vec<usize> {
    (0..8).filter(|member| set & bit(*member) != 0).collect()
}

/// A system: a discussion, and what became of it.
pub struct System {
    /// Short name.
    pub name: &'static str,
    /// The question, as a title.
    pub title: &'static str,
    /// The cycle or race, in two or three sentences.
    pub cycle: &'static str,
    /// What was merged.
    pub merged: &'static str,
    /// Its variants, in the order of the story.
    pub variants: Vec<Variant>,
}

/// The naive variant that each sound one mends: the one fault between them is what the checker
/// must object to.
const MENDS: &[(&str, &str)] = &[
    ("gntdev/async", "gntdev/pv-deferral"),
    ("gntdev/async-callback", "gntdev/sync"),
    ("gntdev/async-consumer", "gntdev/sync-consumer"),
    ("gntdev/async-close-pinned", "gntdev/sync-close-first"),
    ("gntdev/async-fork", "gntdev/no-map-reference"),
    (
        "gntdev/async-partly-failed",
        "gntdev/failed-handle-unmapped",
    ),
    ("gntdev/removing-flag", "gntdev/handle-as-guard"),
    ("gntdev/two-ranges", "gntdev/shared-work-item"),
    ("gntdev/remap-refused", "gntdev/remap-while-live"),
    ("gntdev/sync-unpinned", "gntdev/sync"),
    ("gntdev/error-path-waits", "gntdev/error-path-waits-gup"),
    ("gntdev/pv-unpinned", "gntdev/pv-deferral"),
    ("gntdev/pv-entry-first", "gntdev/pv-deferral"),
    ("gntdev/odp-unheld", "gntdev/odp"),
    ("gntdev/odp-pvh", "gntdev/odp"),
    ("gntdev/odp-entry-first", "gntdev/odp-async"),
    ("p2pdma/flag-zap-grace-count", "p2pdma/reuse-at-zero"),
    (
        "p2pdma/flag-zap-grace-count-owned",
        "p2pdma/reuse-when-zap-returns",
    ),
    ("p2pdma/zero-then-grace", "p2pdma/reuse-at-zero"),
    (
        "p2pdma/zero-then-grace-owned",
        "p2pdma/zero-then-grace-one-look",
    ),
    (
        "p2pdma/grace-then-zero-one-look",
        "p2pdma/zero-then-grace-one-look",
    ),
    ("p2pdma/pfnmap-object-lock", "p2pdma/gup-under-object-lock"),
    ("vfio-pci/try-lock-retry", "vfio-pci/try-lock-no-retry"),
    ("vfio-pci/copy-outside-lock", "vfio-pci/recursive-read"),
    ("vfio-pci/drop-and-look-again", "vfio-pci/drop-and-retake"),
    ("vfio-pci/nested", "vfio-pci/reversed"),
    ("vfio-pci/pause-faults", "vfio-pci/pause-faults-at-start"),
    ("vfio-pci/address-space", "vfio-pci/reversed"),
    ("type1/lasting-flag", "type1/woken-once"),
    ("type1/failing-pin", "type1/lasting-flag-register"),
    ("type1/failing-pin-stopped", "type1/lasting-flag-stopped"),
    ("type1/exclusion", "type1/exclusion-unlocked"),
    ("type1/fork", "type1/fork-late"),
    ("type1/file", "type1/blocking-pin"),
    ("libgnt/async", "libgnt/ignores-references"),
    ("libgnt/async-deaths", "libgnt/hold-outlives-owner"),
    ("libgnt/pv-unheld", "libgnt/pv"),
    ("libgnt/sync-pvh", "libgnt/sync"),
    ("mpx/look-up", "mpx/faults-disabled"),
    ("mpx/two-phases-held", "mpx/two-phases-dropped"),
    ("mpx/two-phases-recheck", "mpx/two-phases-dropped"),
    (
        "mpx/two-phases-marks-only-recheck",
        "mpx/two-phases-marks-only",
    ),
    ("mpx/partly-covered-kept", "mpx/partly-covered"),
    ("xenbus/number-once-read", "xenbus/number-not-read-yet"),
    ("xenbus/probe-ends", "xenbus/crash-in-a-probe"),
    (
        "xenbus/taken-away-elsewhere-probe-ends",
        "xenbus/taken-away-elsewhere",
    ),
];

/// The naive variant that a sound one mends.
pub fn mends(id: &str) -> Option<&'static str> {
    let pair = MENDS.iter().find(|(sound, _)| *sound == id);
    pair.map(|(_, naive)| *naive)
}

/// All of them.
pub fn all() -> Vec<System> {
    vec![
        gntdev::system(),
        p2pdma::system(),
        vfio_pci::system(),
        type1::system(),
        mpx::system(),
        xenbus::system(),
        libgnt::system(),
    ]
}

/// Their names.
pub fn names(systems: &[System]) -> impl Iterator<Item = &'static str> {
    systems.iter().map(|system| system.name)
}
