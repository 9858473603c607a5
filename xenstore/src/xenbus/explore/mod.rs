//! Both machines coupled through two nodes, and every interleaving of deliveries, completions,
//! crashes, restarts, failures and removals: no dead end, no double free, no stale ring in service.

mod explorer;
mod pair;
mod steps;
mod strangers;
mod tell;

use crate::testing::{Finding, Rules, search};
use explorer::{Explorer, HandshakeSabotage};
use pair::Pair;
use steps::Step::{self, *};
use steps::{DEADLINES, PROGRESS, TROUBLE};

struct PairRules<'a> {
    sabotage: HandshakeSabotage,
    back_offers_always: bool,
    trouble: &'a [Step],
}

impl Rules for PairRules<'_> {
    type State = Pair;
    type Step = Step;

    const PROGRESS: &'static [Step] = PROGRESS;

    fn step(&self, pair: &Pair, step: Step) -> Result<Option<Pair>, Finding> {
        let mut explorer = Explorer {
            sabotage: self.sabotage,
            back_offers_always: self.back_offers_always,
            finding: None,
        };
        let next = explorer.step(pair, step);
        explorer.finding.map_or(Ok(next), Err)
    }

    fn is_goal(&self, pair: &Pair) -> bool {
        pair.is_goal()
    }

    fn trouble(&self) -> &[Step] {
        self.trouble
    }
}

fn explore(
    sabotage: HandshakeSabotage,
    back_offers_always: bool,
    limit: u8,
    trouble: &[Step],
) -> Result<usize, Finding> {
    let rules = PairRules {
        sabotage,
        back_offers_always,
        trouble,
    };
    search(&rules, Pair::created(), limit)
}

fn good(limit: u8, trouble: &[Step]) {
    for back_offers_always in [false, true] {
        match explore(HandshakeSabotage::None, back_offers_always, limit, trouble) {
            Ok(states) => assert!(
                states > 200,
                "only {states} states: the exploration is broken"
            ),
            Err(finding) => panic!("{finding}"),
        }
    }
}

#[test]
fn no_dead_end_with_any_two_troubles() {
    let all: Vec<Step> = TROUBLE.iter().chain(DEADLINES).copied().collect();
    good(2, &all);
}

#[test]
fn no_dead_end_with_many_crashes() {
    good(5, &[FrontDies, BackDies]);
}

#[test]
fn no_dead_end_when_a_device_is_removed_and_made_again_under_crashes() {
    good(
        3,
        &[
            ToolstackAsks,
            ToolstackForces,
            ToolstackCreates,
            FrontDies,
            BackDies,
        ],
    );
}

#[test]
fn no_dead_end_when_a_back_ends_domain_vanishes_and_comes_again() {
    good(
        3,
        &[BackDomainVanishes, BackRemade, ToolstackMoves, BackDies],
    );
}

#[test]
fn a_state_written_over_a_new_devices_is_found() {
    let sabotage = HandshakeSabotage::WritesOver;
    for back_offers_always in [false, true] {
        let trouble = [ToolstackReplaces, BackRemade];
        let finding = explore(sabotage, back_offers_always, 1, &trouble).unwrap_err();
        assert!(finding.contains("over a new device's"), "{finding}");
    }
}

#[test]
fn a_ring_of_an_old_device_that_is_announced_to_the_new_one_is_found() {
    let sabotage = HandshakeSabotage::KeepsRing;
    for back_offers_always in [false, true] {
        let trouble = [ToolstackMoves, BackRemade];
        let finding = explore(sabotage, back_offers_always, 1, &trouble).unwrap_err();
        assert!(finding.contains("an old device's ring"), "{finding}");
    }
}

#[test]
fn broken_handshakes_are_found() {
    let broken = [
        (HandshakeSabotage::StaleLooks, true),
        (HandshakeSabotage::FrontForgets, false),
        (HandshakeSabotage::FrontForgets, true),
        (HandshakeSabotage::FreesEarly, false),
        (HandshakeSabotage::FreesEarly, true),
        (HandshakeSabotage::BackWaits, false),
    ];
    for (sabotage, back_offers_always) in broken {
        let trouble = [FrontDies, BackDies, BackFatal, FrontTaskFails];
        let finding = explore(sabotage, back_offers_always, 3, &trouble);
        assert!(finding.is_err(), "{sabotage:?} went unnoticed");
    }
}
