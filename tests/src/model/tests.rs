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
    let systems = systems::all();
    let system = systems.iter().find(|s| s.name == name).unwrap();
    let mut wrong = Vec::new();
    for variant in &system.variants {
        let recorder = Arc::new(Recorder::default());
        let verdict = check(system, variant, TWO, Limits::default(), &recorder);
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
