//! Each scenario passes, with its checks, and leaves nothing but its report.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Place;
use pv_judges::verdict::{Outcome, Verdict};

/// Seeds are fixed, and the report names the command that runs it again.
const SEED: &str = "20261120";

fn passes(scenario: &str, more: &[&str]) -> Verdict {
    let place = Place::new();
    let args = [
        &[
            "--scenario",
            scenario,
            "--seed",
            SEED,
            "--hold-for",
            "300ms",
        ],
        more,
    ]
    .concat();
    let said = place.run(&args);
    said.assert_status(0);
    assert!(
        said.stdout.contains(scenario) && said.stdout.contains("passed"),
        "{}",
        said.stdout
    );
    let report = place.report();
    assert_eq!(
        (report.seed.to_string().as_str(), report.exit_status),
        (SEED, 0)
    );
    let [verdict] = &report.verdicts[..] else {
        panic!("{report:?}")
    };
    assert_eq!(verdict.outcome, Outcome::Passed);
    assert!(verdict.checks.len() > 3 && verdict.checks.iter().all(|check| check.passed));
    assert!(
        place
            .report_dir()
            .join(&verdict.logs)
            .join("host.jsonl")
            .exists()
    );
    readme_shows(verdict);
    place.assert_nothing_left();
    verdict.clone()
}

/// The README's table, if it has this scenario, has it with as many checks.
fn readme_shows(verdict: &Verdict) {
    let readme = include_str!("../../../README.md");
    let row = readme.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next() == Some(&verdict.scenario) && words.next() == Some("passed");
        is_it.then(|| words.next().unwrap())
    });
    let checks = verdict.checks.len();
    assert!(
        row.is_none_or(|row| row == format!("{checks}/{checks}")),
        "{}: {checks} checks, and README shows {row:?}",
        verdict.scenario
    );
}

#[test]
fn copy() {
    let verdict = passes("copy", &[]);
    let same = verdict
        .checks
        .iter()
        .filter(|c| c.name.contains("byte for byte"))
        .count();
    assert_eq!(same, 9, "sent, come back and on the image, three ways");
}

#[test]
fn hold_unmap_with_i915_and_with_a_pin() {
    for hold in ["i915", "pin"] {
        let verdict = passes("hold-unmap", &["--hold", hold]);
        let held: Vec<_> = verdict
            .lives
            .iter()
            .filter(|life| life.hold.is_some())
            .collect();
        assert!(!held.is_empty());
        for life in held {
            assert!(life.released > life.hold_releasing && life.acknowledged > life.released);
        }
    }
}

#[test]
fn hold_unmap_sync_finds_the_deadlock_and_passes() {
    let verdict = passes("hold-unmap-sync", &[]);
    let [munmap, release] = &verdict.edges[..] else {
        panic!("{:?}", verdict.edges)
    };
    assert!(munmap.waiter.contains("back-end") && munmap.call.contains("munmap"));
    assert!(release.waiter.contains("consumer") && release.call.contains("release"));
    assert_eq!(
        (&munmap.owner, &release.owner),
        (&release.waiter, &munmap.waiter)
    );
}

#[test]
fn backend_killed() {
    passes("backend-killed", &[]);
}

#[test]
fn frontend_killed() {
    passes("frontend-killed", &[]);
}

#[test]
fn consumer_killed() {
    passes("consumer-killed", &[]);
}

#[test]
fn partial_map() {
    passes("partial-map", &[]);
}

#[test]
fn revoke_in_use() {
    passes("revoke-in-use", &[]);
}

#[test]
fn scan_out_takes_a_picture_before_and_after_the_unmap() {
    for hold in ["pin", "i915"] {
        let verdict = passes("scan-out", &["--hold", hold]);
        let [before, after] = &verdict.pictures[..] else {
            panic!("{:?}", verdict.pictures)
        };
        assert_ne!(before.file().unwrap(), after.file().unwrap());
        assert!(verdict.lives.iter().all(|life| life.unmapped_while_held()));
    }
}

#[test]
fn a_deadlock_where_none_may_be_is_exit_status_3_with_the_cycle_in_words() {
    let place = Place::new();
    let said = place.run(&[
        "--scenario",
        "hold-unmap",
        "--unmap",
        "sync",
        "--hold-for",
        "200ms",
    ]);
    said.assert_status(3);
    for words in [
        "DEADLOCK",
        "back-end (pid ",
        "is in munmap",
        "consumer (pid ",
        "waits for",
    ] {
        assert!(
            said.stdout.contains(words),
            "no {words:?} in: {}",
            said.stdout
        );
    }
    assert_eq!(place.report().verdicts[0].outcome, Outcome::Deadlocked);
    place.assert_nothing_left();
}

/// The synchronous unmap of a PVH guest waits in the map's last use, where no invalidation runs.
#[test]
fn without_a_notifier_the_sync_mode_waits_and_has_no_cycle() {
    let place = Place::new();
    let said = place.run(&[
        "--scenario",
        "hold-unmap",
        "--unmap",
        "sync",
        "--guest",
        "pvh",
        "--hold-for",
        "200ms",
    ]);
    said.assert_status(1);
    let verdict = &place.report().verdicts[0];
    assert_eq!(verdict.outcome, Outcome::Failed);
    assert!(verdict.edges.is_empty(), "{:?}", verdict.edges);
    place.assert_nothing_left();
}

#[test]
fn a_pv_guest_carries_data_and_is_not_damaged_unasked() {
    let place = Place::new();
    let copy = ["--scenario", "copy", "--guest", "pv"];
    place.run(&copy).assert_status(0);
    let place = Place::new();
    let hold = ["--scenario", "hold-unmap", "--guest", "pv"];
    place.run(&hold).assert_status(2).assert_stderr(&[
        "hold-unmap",
        "PV guest",
        "--allow-kernel-damage",
    ]);
}

#[test]
fn a_damaged_pv_guest_is_a_failed_check_in_words() {
    let place = Place::new();
    let said = place.run(&[
        "--scenario",
        "hold-unmap",
        "--guest",
        "pv",
        "--allow-kernel-damage",
        "--hold-for",
        "200ms",
    ]);
    said.assert_status(1);
    let verdict = &place.report().verdicts[0];
    let mut failed = verdict.checks.iter().filter(|check| !check.passed);
    let damage = failed.find(|check| check.detail.contains("cleared the page-table entries"));
    assert!(damage.is_some(), "{:#?}", verdict.checks);
}

#[test]
fn a_plain_pin_in_the_sync_mode_is_no_cycle_but_a_failed_check() {
    let place = Place::new();
    let said = place.run(&[
        "--scenario",
        "hold-unmap",
        "--unmap",
        "sync",
        "--hold",
        "pin",
        "--hold-for",
        "200ms",
    ]);
    said.assert_status(1);
    let verdict = &place.report().verdicts[0];
    assert_eq!(verdict.outcome, Outcome::Failed);
    let failed: Vec<_> = verdict
        .checks
        .iter()
        .filter(|c| !c.passed)
        .map(|c| &c.name)
        .collect();
    assert!(
        failed
            .iter()
            .any(|name| name.contains("returned while the pages were held"))
    );
    place.assert_nothing_left();
}
