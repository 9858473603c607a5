//! What is explored, and what must hold.

use super::*;
use crate::testing::search;

fn limits(devices: usize, devices_of_one: usize) -> Limits {
    Limits {
        depth: 2,
        devices,
        devices_of_one,
        looks: LOOKS,
        patience: Duration::from_secs(1),
    }
}

fn troubles(keys: usize) -> Vec<Step> {
    let of_one = |key| {
        [
            Make(key),
            Complete(key),
            Remake(key),
            Reassign(key),
            Serve(key),
            Remove(key),
        ]
    };
    let mut all: Vec<Step> = (0..keys).flat_map(of_one).collect();
    all.extend([RemoveAllOfOne, LoseEvents]);
    all
}

fn explore(sabotage: RosterSabotage, keys: usize, limit: u8) -> Result<usize, Finding> {
    let rules = Directory {
        limits: limits(8, 8),
        sabotage,
        trouble: troubles(keys),
    };
    search(&rules, World::new(rules.limits), limit)
}

#[test]
fn every_short_history_of_two_devices_ends_in_what_is_there() {
    let states = explore(RosterSabotage::None, 2, 2).unwrap_or_else(|finding| panic!("{finding}"));
    assert!(states > 1000, "only {states} states");
}

#[test]
fn every_history_of_one_device_ends_in_what_is_there() {
    let states = explore(RosterSabotage::None, 1, 3).unwrap_or_else(|finding| panic!("{finding}"));
    assert!(states > 1000, "only {states} states");
}

#[test]
fn broken_rosters_are_found() {
    for (sabotage, what) in [
        (RosterSabotage::ForgetsLost, "dead end"),
        (RosterSabotage::TrustsLook, "dead end"),
        (RosterSabotage::Merges, "told as changed"),
    ] {
        let finding = explore(sabotage, 1, 3).expect_err("goes unnoticed");
        assert!(finding.contains(what), "{sabotage:?}: {finding}");
    }
}

/// Long histories, with so little room that devices are refused. A failing seed is told:
/// `cargo test -p pv-xenstore roster::explore` runs it again, with the others.
#[test]
fn long_histories_end_in_what_is_there_or_what_there_is_room_for() {
    let mut refused = 0;
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = Directory {
            limits: limits(2, 1),
            sabotage: RosterSabotage::None,
            trouble: troubles(KEYS.len()),
        };
        let mut world = World::new(rules.limits);
        let go = |world: &mut World, step| match rules.step(world, step) {
            Ok(Some(next)) => {
                *world = next;
                true
            }
            Ok(None) => false,
            Err(finding) => panic!("seed {seed}: {finding}, {step:?}\n{world:#?}"),
        };
        for _ in 0..100 {
            let step = match random.bool() {
                true => random.choice(&rules.trouble),
                false => random.choice(Directory::PROGRESS),
            };
            go(&mut world, *step.expect("some"));
        }
        let mut steps = 0;
        while !world.is_quiet() {
            for step in Directory::PROGRESS {
                go(&mut world, *step);
            }
            steps += 1;
            assert!(steps < 1000, "seed {seed}: never quiet\n{world:#?}");
        }
        assert!(rules.agrees(&world), "seed {seed}: {world:#?}");
        refused += world.refused.len();
    }
    assert!(refused > 100, "only {refused} devices were ever refused");
}

#[test]
fn a_directory_that_stays_half_made_is_told_once() {
    let mut roster = Roster::new(limits(8, 8));
    let mut at = |seconds, input| {
        let mut actions = Vec::new();
        roster.step(Duration::from_secs(seconds), input, &mut actions);
        (actions, roster.deadline())
    };
    at(0, Input::Happened("1/a/frontend".into()));
    let (actions, _) = at(0, Input::Turn);
    assert_eq!(actions, [Action::Look("1/a".into())]);
    let half = Found::Half("no state".into());
    let (_, deadline) = at(0, Input::Looked("1/a".into(), half));
    assert_eq!(deadline, Some(Duration::from_secs(1)));
    assert_eq!(at(0, Input::Late).0, []);
    let (actions, deadline) = at(2, Input::Late);
    let told = Action::HalfMade("1/a".into(), "no state".into());
    assert_eq!((actions, deadline), (vec![told], None));
    assert_eq!(at(9, Input::Late).0, []);
}

#[test]
fn a_flood_of_places_is_one_look_at_everything() {
    let limits = limits(4, 4);
    let mut roster = Roster::new(limits);
    let mut actions = Vec::new();
    for n in 0..1000 {
        let place = format!("1/{n}");
        roster.step(Now::ZERO, Input::Happened(place), &mut actions);
    }
    roster.step(Now::ZERO, Input::Turn, &mut actions);
    let size = format!("{roster:?}").len();
    assert!(size < 2000, "{size} bytes");
}
