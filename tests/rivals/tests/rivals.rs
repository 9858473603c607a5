//! Our server against Debian's daemons, where these are unpacked or installed.
#![allow(clippy::unwrap_used, reason = "a test may")]

use pv_rivals::campaign::{Plan, Tally, run};
use pv_rivals::daemon::{Place, Rival};
use pv_xenstore::server::StoreSabotage;
use std::io::Write;

const PLAN: Plan = Plan {
    seed: 20_000,
    requests: 10_000,
    each: 2000,
    sabotage: None,
};

/// The daemon's program. A test that does nothing without it says so, past what the harness captures.
fn place(name: &str) -> Option<(Rival, Place)> {
    let rival = Rival::named(name).unwrap();
    let place = rival.kept(None);
    if place.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {rival} is not here; fetch it: cargo run -p pv-rivals -- fetch"
        );
    }
    Some((rival, place?))
}

fn tally(name: &str, plan: Plan) -> Option<(Rival, Tally)> {
    let (rival, place) = place(name)?;
    Some((rival, run(rival, &place, plan).unwrap()))
}

fn agrees(name: &str) {
    let Some((rival, tally)) = tally(name, PLAN) else {
        return;
    };
    if let Some(found) = &tally.found {
        panic!("{}", found.lines(rival, PLAN.each));
    }
    assert!(tally.requests >= PLAN.requests, "{tally:?}");
    // Were most of them cut short early, little would be compared.
    assert!(tally.requests / tally.histories > 250, "{tally:?}");
}

#[test]
fn ten_thousand_requests_agree_with_xenstored_4_14() {
    agrees("xenstored-4.14");
}

#[test]
fn ten_thousand_requests_agree_with_xenstored_4_17() {
    agrees("xenstored-4.17");
}

#[test]
fn ten_thousand_requests_agree_with_xenstored_4_20() {
    agrees("xenstored-4.20");
}

#[test]
fn the_same_seed_is_the_same_history() {
    let plan = Plan {
        requests: 1000,
        ..PLAN
    };
    let Some((_, one)) = tally("xenstored-4.17", plan) else {
        return;
    };
    let (_, two) = tally("xenstored-4.17", plan).unwrap();
    assert_eq!(one.hash, two.hash);
    let (_, other) = tally("xenstored-4.17", Plan { seed: 1, ..plan }).unwrap();
    assert_ne!(one.hash, other.hash);
}

/// Several daemons at once, each in a world of its own.
#[test]
fn a_server_that_is_broken_on_purpose_is_found_out_and_shown_in_few_steps() {
    let Some((rival, place)) = place("xenstored-4.17") else {
        return;
    };
    let sabotages = [
        StoreSabotage::TellsEverybody,
        StoreSabotage::IgnoresConflicts,
    ];
    let found = sabotages.map(|sabotage| {
        let place = place.clone();
        std::thread::spawn(move || {
            let plan = Plan {
                requests: 20_000,
                sabotage: Some(sabotage),
                ..PLAN
            };
            run(rival, &place, plan).unwrap().found
        })
    });
    for (thread, sabotage) in found.into_iter().zip(sabotages) {
        let found = thread.join().unwrap();
        let found = found.unwrap_or_else(|| panic!("{sabotage:?} was not noticed"));
        let lines = found.lines(rival, PLAN.each);
        assert!(found.steps.len() <= 20, "{sabotage:?}: {lines}");
        assert!(lines.contains(&format!("--seed {}", found.seed)), "{lines}");
    }
}
