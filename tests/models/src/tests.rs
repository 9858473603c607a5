//! Every verdict in the catalogue, and that each is reached for its reason.

use super::graph::Recorder;
use super::search::Limits;
use super::systems;
use super::variant::Bounds;
use super::verdict::check;
use std::sync::Arc;

/// Two actors of a kind: `pv-stress model check` goes to three, in a release build.
const TWO: Bounds = Bounds { actors: 2 };

fn system_is_as_expected(name: &str) {
    system_is_as_expected_with(name, TWO);
}

fn system_is_as_expected_with(name: &str, bounds: Bounds) {
    let systems = systems::all();
    let system = systems.iter().find(|s| s.name == name).unwrap();
    let mut wrong = Vec::new();
    for variant in &system.variants {
        let recorder = Arc::new(Recorder::default());
        let verdict = check(system, variant, bounds, Limits::default(), &recorder);
        if !verdict.as_expected {
            wrong.push(verdict);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn gntdev_is_as_expected() {
    system_is_as_expected("gntdev");
}

#[test]
fn p2pdma_is_as_expected() {
    system_is_as_expected("p2pdma");
}

#[test]
fn vfio_pci_is_as_expected() {
    system_is_as_expected("vfio-pci");
}

#[test]
fn type1_is_as_expected() {
    system_is_as_expected("type1");
}

#[test]
fn mpx_is_as_expected() {
    system_is_as_expected("mpx");
}

#[test]
fn xenbus_is_as_expected() {
    system_is_as_expected("xenbus");
}

#[test]
fn libgnt_is_as_expected() {
    // The production machine is some hundred times slower to step than a model.
    system_is_as_expected_with("libgnt", Bounds { actors: 1 });
}

#[test]
fn a_search_that_was_cut_short_never_passes() {
    let systems = systems::all();
    for (system, at) in [(&systems[0], 0), (&systems[1], 7)] {
        let variant = &system.variants[at];
        let limits = Limits {
            max_states: 20,
            ..Limits::default()
        };
        let recorder = Arc::new(Recorder::default());
        let verdict = check(system, variant, TWO, limits, &recorder);
        assert!(!verdict.exhaustive && !verdict.as_expected, "{verdict:?}");
        let limits = Limits {
            time: std::time::Duration::ZERO,
            ..Limits::default()
        };
        let recorder = Arc::new(Recorder::default());
        let verdict = check(system, variant, TWO, limits, &recorder);
        assert!(!verdict.exhaustive && !verdict.as_expected, "{verdict:?}");
    }
}
