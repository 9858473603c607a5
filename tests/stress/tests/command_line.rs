//! The command line: what it prints, refuses, and leaves behind when it is interrupted.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{PATIENCE, Place, await_text, said, signal};
use pv_harness::processes::Start;
use pv_harness::settings::{Guest, Unmap};
use pv_judges::report::Report;
use pv_stress::role::{Assignment, HostTask, Part, Role};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

#[test]
fn list_names_every_scenario_as_text_and_as_json() {
    let place = Place::new();
    let text = said(place.command(&["list"]).output().unwrap());
    text.assert_status(0);
    let json = said(place.command(&["list", "--json"]).output().unwrap());
    let list: Vec<serde_json::Value> = serde_json::from_str(&json.stdout).unwrap();
    let names: Vec<&str> = list.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "copy",
            "hold-unmap",
            "hold-unmap-sync",
            "holders",
            "backend-killed",
            "frontend-killed",
            "consumer-killed",
            "partial-map",
            "revoke-in-use",
            "scan-out"
        ]
    );
    assert!(names.iter().all(|name| text.stdout.contains(name)));
    assert!(!text.stdout.contains('\x1b'), "no colours off a terminal");
}

#[test]
fn wrong_usage_is_exit_status_2_with_the_cure() {
    let place = Place::new();
    let cases: [(&[&str], &[&str]); 12] = [
        (
            &["--scenario", "nonsense"],
            &["no scenario \"nonsense\"", "copy", "hold-unmap"],
        ),
        (&["--hold", "rope"], &["rope", "possible values"]),
        (&["--unmap", "sometimes"], &["sometimes", "async"]),
        (&["--hold-for", "soon"], &["soon", "--hold-for"]),
        (&["--deadline", "0s"], &["--deadline"]),
        (
            &["--hold-for", "3m", "--deadline", "2m"],
            &["--hold-for", "--deadline"],
        ),
        (&["--seed", "many"], &["many", "--seed"]),
        (
            &["--hold", "pipe"],
            &["--hold pipe", "pin or i915", "--platform xen"],
        ),
        (&["--platform", "kvm"], &["kvm", "sim"]),
        (
            &["--input", "/nonexistent/file"],
            &["/nonexistent/file", "No such file", "--input"],
        ),
        (&["--input", "/"], &["regular file", "--input"]),
        (&["--nonsense"], &["--nonsense"]),
    ];
    for (args, words) in cases {
        place.run(args).assert_status(2).assert_stderr(words);
    }
    assert!(
        !place.report_dir().exists(),
        "refused before anything was made"
    );
    place.assert_nothing_left();
}

#[test]
fn xen_without_xen_says_what_is_missing() {
    if fs::exists("/dev/xen/gntdev").unwrap_or(false) {
        return;
    }
    let place = Place::new();
    place
        .run(&["--platform", "xen"])
        .assert_status(2)
        .assert_stderr(&["--platform xen", "/dev/xen"]);
    place.assert_nothing_left();
}

#[test]
fn an_unreadable_input_is_named() {
    let place = Place::new();
    let input = place.input(1000);
    fs::set_permissions(&input, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&input).is_ok() {
        // Root reads everything.
        return;
    }
    place
        .run(&["--input", input.to_str().unwrap()])
        .assert_status(2)
        .assert_stderr(&["input", "Permission denied", "--input"]);
}

#[test]
fn a_foreign_directory_is_not_written_to() {
    let place = Place::new();
    let mine = place.path("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("letter"), "dear").unwrap();
    place
        .run(&[
            "--scenario",
            "partial-map",
            "--report",
            mine.to_str().unwrap(),
        ])
        .assert_status(2)
        .assert_stderr(&["mine", "not empty", "--report"]);
    assert_eq!(fs::read_dir(&mine).unwrap().count(), 1);
    place
        .run(&["--scenario", "partial-map", "--report", "/proc/nowhere"])
        .assert_status(2)
        .assert_stderr(&["/proc/nowhere", "--report"]);
}

#[test]
fn a_temporary_directory_that_cannot_be_used_is_named() {
    let place = Place::new();
    let long = place.path(&"x".repeat(90));
    fs::create_dir(&long).unwrap();
    for (tmp, words) in [
        (long.display().to_string(), ["too long", "TMPDIR"]),
        ("/nonexistent".to_owned(), ["/nonexistent", "TMPDIR"]),
    ] {
        let args = place.run_args(&["--scenario", "partial-map"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let run = said(place.command(&args).env("TMPDIR", &tmp).output().unwrap());
        run.assert_status(2).assert_stderr(&words);
    }
}

#[test]
fn the_report_is_whole() {
    let place = Place::new();
    let run = place.run(&["--scenario", "partial-map", "--seed", "3", "--json"]);
    run.assert_status(0);
    let printed: Report = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(printed, place.report());
    let junit = fs::read_to_string(place.report_dir().join("junit.xml")).unwrap();
    assert!(junit.contains("<testsuite name=\"partial-map\"") && junit.contains("failures=\"0\""));
    let html = fs::read_to_string(place.report_dir().join("report.html")).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    // Again in the same place: replaced.
    place.run(&["--scenario", "revoke-in-use"]).assert_status(0);
    assert_eq!(place.report().verdicts[0].scenario, "revoke-in-use");
    assert!(!place.report_dir().join("runs/partial-map").exists());
    place.assert_nothing_left();
}

#[test]
fn two_at_once_do_not_meet() {
    let places = [Place::new(), Place::new()];
    let runs: Vec<_> = places
        .iter()
        .map(|place| {
            let args = place.run_args(&["--scenario", "hold-unmap", "--hold-for", "200ms"]);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            place.command(&args).spawn().unwrap()
        })
        .collect();
    for run in runs {
        said(run.wait_with_output().unwrap()).assert_status(0);
    }
    places.iter().for_each(Place::assert_nothing_left);
}

/// A run that would take minutes, in the middle of its first scenario.
fn in_the_middle(place: &Place) -> std::process::Child {
    let args = place.run_args(&[
        "--scenario",
        "hold-unmap",
        "--hold-for",
        "1m",
        "--deadline",
        "5m",
    ]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let child = place.command(&args).spawn().unwrap();
    await_text(
        &place.report_dir().join("runs/hold-unmap/consumer.jsonl"),
        "\"held\"",
    );
    child
}

#[test]
fn ctrl_c_ends_everybody_and_leaves_nothing() {
    for number in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let child = in_the_middle(&place);
        let began = Instant::now();
        signal(&child, number);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.signal(),
            Some(number.as_raw()),
            "dies of it, as a shell expects"
        );
        assert!(began.elapsed() < PATIENCE / 2);
        said(output).assert_stderr(&["interrupted"]);
        place.assert_nothing_left();
    }
}

#[test]
fn a_run_that_is_killed_takes_its_processes_with_it() {
    let place = Place::new();
    let mut child = in_the_middle(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    // Its temporary directory cannot go; its processes must.
    let until = Instant::now() + PATIENCE;
    while !place.processes().is_empty() {
        assert!(
            Instant::now() < until,
            "still running: {:?}",
            place.processes()
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_second_run_into_a_busy_report_is_refused() {
    let place = Place::new();
    let child = in_the_middle(&place);
    place
        .run(&["--scenario", "partial-map"])
        .assert_status(2)
        .assert_stderr(&["another pv-stress", "--report"]);
    signal(&child, Signal::INT);
    child.wait_with_output().unwrap();
    place.assert_nothing_left();
}

#[test]
fn a_deadline_that_is_too_short_is_a_failed_check_that_says_who_did_what() {
    let place = Place::new();
    let run = place.run(&[
        "--scenario",
        "hold-unmap",
        "--hold-for",
        "900ms",
        "--deadline",
        "1s",
    ]);
    run.assert_status(1);
    let report = place.report();
    let verdict = &report.verdicts[0];
    assert!(
        verdict.checks[0].detail.contains("the deadline passed"),
        "{:?}",
        verdict.checks
    );
    assert!(
        verdict.hung.iter().any(|hung| hung.last_event.is_some()),
        "{:?}",
        verdict.hung
    );
    assert!(run.stdout.contains("hung: "), "{}", run.stdout);
    place.assert_nothing_left();
}

#[test]
fn an_agent_started_by_hand_says_what_it_is_for() {
    let place = Place::new();
    let args = [
        "agent",
        "host",
        "--name",
        "h",
        "--parent",
        "1",
        "--timeline",
        "/dev/null",
    ];
    let args = [&args[..], &["--dir", "/tmp", "--unmap", "async"]].concat();
    let run = said(place.command(&args).output().unwrap());
    run.assert_status(2).assert_stderr(&["pv-stress run"]);
    for args in [&["agent"][..], &["agent", "host"], &["agent", "{}"]] {
        let run = said(place.command(args).output().unwrap());
        run.assert_status(2).assert_stderr(&["pv-stress run"]);
    }
    // As a run would, but without its control socket.
    let start = Start {
        name: "host".into(),
        parent: std::process::id(),
        timeline: place.path("host.jsonl"),
        assignment: Assignment::Play(Part {
            home: None,
            sabotage: None,
            role: Role::Host(HostTask {
                dir: place.path("sim"),
                unmap: Unmap::Async,
                guest: Guest::Pvh,
            }),
        }),
    };
    let mut command = place.command(&[]);
    let run = said(command.args(start.args().unwrap()).output().unwrap());
    run.assert_status(2)
        .assert_stderr(&["control socket", "pv-stress run"]);
    assert!(!place.path("host.jsonl").exists());
}
