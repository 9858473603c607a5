//! Every verdict in the catalogue.

use super::graph::Recorder;
use super::search::Limits;
use super::systems;
use std::sync::Arc;

#[test]
fn every_verdict_is_the_expected_one() {
    let mut wrong = Vec::new();
    for system in systems::all() {
        for variant in &system.variants {
            let recorder = Arc::new(Recorder::default());
            let found = variant.check(variant.bounds(None), Limits::default(), &recorder);
            println!(
                "{:28} {:?} {} {} {:?}",
                variant.id(),
                found.broken,
                found.states,
                found.depth,
                found.time
            );
            if found.broken != variant.expected.broken() || !found.exhaustive {
                wrong.push((variant.id(), found.broken, found.exhaustive));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
