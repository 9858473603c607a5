//! A check that has never failed proves nothing: each run here is made wrong on purpose, and the
//! checks that must notice are named.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Place;
use pv_stress::role::CHUNK;

#[track_caller]
fn goes_red(scenario: &str, sabotage: &str, more: &[&str], must_fail: &[&str]) {
    let place = Place::new();
    let base = [
        "--scenario",
        scenario,
        "--sabotage",
        sabotage,
        "--hold-for",
        "300ms",
        "--seed",
        "7",
    ];
    let said = place.run(&[&base, more].concat());
    said.assert_status(1);
    let report = place.report();
    let failed: Vec<&str> = report.verdicts[0]
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| check.name.as_str())
        .collect();
    for name in must_fail {
        assert!(
            failed.iter().any(|failed| failed.contains(name)),
            "{name:?} did not fail, but {failed:?} did"
        );
    }
    assert!(
        report.verdicts[0]
            .replay
            .contains(&format!("--sabotage {sabotage}"))
    );
    place.assert_nothing_left();
}

#[test]
fn hold_unmap_sees_an_unmap_under_its_holder() {
    goes_red(
        "hold-unmap",
        "unmap-under-holder",
        &[],
        &["release follows the holder's"],
    );
}

#[test]
fn hold_unmap_sees_an_answer_before_the_release() {
    goes_red(
        "hold-unmap",
        "early-event",
        &[],
        &[
            "release follows the holder's",
            "reused pages only after their release",
        ],
    );
}

#[test]
fn scan_out_sees_an_unmap_under_its_holder() {
    goes_red(
        "scan-out",
        "unmap-under-holder",
        &[],
        &["the grants stay in use", "release follows the holder's"],
    );
}

#[test]
fn scan_out_sees_a_release_that_is_told_early() {
    goes_red(
        "scan-out",
        "early-event",
        &[],
        &["the grants stay in use", "release follows the holder's"],
    );
}

#[test]
fn hold_unmap_sync_sees_that_there_was_no_deadlock() {
    goes_red(
        "hold-unmap-sync",
        "unmap-under-holder",
        &[],
        &["the deadlock was found"],
    );
}

#[test]
fn holders_sees_an_unmap_under_its_holders() {
    goes_red(
        "holders",
        "unmap-under-holder",
        &[],
        &[
            "pin: released when it had let go",
            "i915: released when it had let go",
            "all at once",
        ],
    );
}

#[test]
fn holders_sees_an_event_that_says_nothing_of_the_release() {
    goes_red(
        "holders",
        "early-event",
        &[],
        &["pin: released", "all at once"],
    );
}

#[test]
fn copy_sees_one_bit() {
    goes_red(
        "copy",
        "flip-bit",
        &[],
        &["grant copy: what came back", "on the image"],
    );
}

#[test]
fn copy_sees_a_disk_that_keeps_nothing() {
    goes_red("copy", "volatile-disk", &[], &["what is on the image"]);
}

#[test]
fn backend_killed_sees_lost_writes() {
    goes_red(
        "backend-killed",
        "volatile-disk",
        &[],
        &["no acknowledged write is lost"],
    );
}

#[test]
fn frontend_killed_sees_lost_writes() {
    goes_red(
        "frontend-killed",
        "volatile-disk",
        &[],
        &["no acknowledged write is lost"],
    );
}

#[test]
fn consumer_killed_sees_a_hold_that_outlives_its_owner() {
    goes_red(
        "consumer-killed",
        "hold-outlives-owner",
        &["--deadline", "15s"],
        &["the scenario came to its end", "is left in the host"],
    );
}

#[test]
fn revoke_in_use_sees_a_reference_given_out_again() {
    goes_red(
        "revoke-in-use",
        "reuse-while-in-use",
        &[],
        &["no reference is given out again"],
    );
}

/// The second oracle does, in a domain of a real Xen (docs/lab.md); the simulated one has no kernel to
/// be asked.
#[test]
fn nobody_else_sees_a_map_behind_the_ledger() {
    let unmapped = |more: &[&str]| {
        let place = Place::new();
        let base = ["--scenario", "hold-unmap", "--hold-for", "100ms"];
        let said = place.run(&[&base, more].concat());
        said.assert_status(0);
        let report = place.report();
        let verdict = &report.verdicts[0];
        let mut details = verdict.checks.iter().map(|check| check.detail.as_str());
        let host = details.find_map(|detail| detail.strip_prefix("after "));
        let pages = host.unwrap().split(' ').next().unwrap();
        pages.parse::<usize>().unwrap()
    };
    let plain = unmapped(&[]);
    let behind = unmapped(&["--sabotage", "map-behind-ledger"]);
    assert_eq!(
        behind,
        plain + CHUNK / 4096,
        "one request's pages once more"
    );
}
