//! The whole conformance suite on the simulated Xen, and proof that its rules notice a broken one.

use serde_json::Value;
use std::process::{Command, Output};

fn conform(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pv-stress"))
        .arg("conform")
        .args(args)
        .output()
        .expect("pv-stress starts")
}

fn report(args: &[&str]) -> (Option<i32>, Value) {
    let output = conform(args);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let words = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {} {words}", output.status)
    });
    (output.status.code(), report)
}

fn verdicts(report: &Value) -> Vec<(&str, &str)> {
    let rules = report["rules"].as_array().expect("rules");
    rules
        .iter()
        .map(|rule| {
            let name = rule["name"].as_str().expect("a name");
            (name, rule["verdict"].as_str().expect("a verdict"))
        })
        .collect()
}

#[test]
fn conform_agrees_on_the_simulated_xen() {
    for (guest, others) in [("pvh", "pv-"), ("pv", "")] {
        let (status, report) = report(&["--json", "--guest", guest]);
        let fits = |(name, verdict): &(&str, &str)| match *verdict {
            "agrees" | "known-difference" => true,
            // Nothing maps privately there.
            "not-here" => name.starts_with(others) || *name == "private-map-stays-read-only",
            "skipped" => guest == "pv",
            _ => false,
        };
        let wrong: Vec<_> = verdicts(&report).into_iter().filter(|v| !fits(v)).collect();
        assert_eq!((status, wrong), (Some(0), vec![]), "{report:#}");
        let agree = verdicts(&report)
            .iter()
            .filter(|(_, v)| *v == "agrees")
            .count();
        assert!(agree >= 190, "only {agree} rules agree on {guest}");
        let of_pv = verdicts(&report).into_iter();
        let tried = of_pv.filter(|(name, v)| name.starts_with("pv-") && *v == "agrees");
        assert_eq!(tried.count(), if guest == "pv" { 7 } else { 0 });
    }
}

/// On PV each rule that holds pages is named with the reason why it is not tried, and the damage is
/// shown to whoever asks for it.
#[test]
fn conform_damages_no_pv_guest_unasked() {
    let (_, report) = report(&["--json", "--guest", "pv"]);
    let rules = report["rules"].as_array().expect("rules");
    let skipped: Vec<_> = rules.iter().filter(|r| r["verdict"] == "skipped").collect();
    assert_eq!(skipped.len(), 11, "{skipped:#?}");
    for rule in skipped {
        let why = rule["detail"].as_str().expect("a reason");
        assert!(why.contains("damages a PV guest's kernel"), "{why}");
    }
    let rule = "pv-unmap-of-a-held-page-is-damage";
    let args = ["--json", "--rule", rule, "--allow-kernel-damage"];
    let (status, report) = self::report(&[&args[..], &["--guest", "pv"]].concat());
    assert_eq!(
        (status, verdicts(&report)),
        (Some(0), vec![(rule, "agrees")]),
        "{report:#}"
    );
    let (_, report) = self::report(&args);
    assert_eq!(verdicts(&report), [(rule, "not-here")]);
}

/// A PV guest without the notifier is noticed by each rule about it.
#[test]
fn conform_notices_a_pv_guest_that_unmaps_as_others_do() {
    let rules = [
        "pv-munmap-unmaps-at-once",
        "pv-partial-munmap-unmaps-its-pages",
        "pv-mprotect-unmaps",
        "pv-madvise-dontneed-unmaps",
        "pv-failed-mmap-keeps-nothing",
        "pv-byte-goes-with-its-page",
        "pv-unmap-of-a-held-page-is-damage",
    ];
    let fault = [
        "--sabotage",
        "no-notifier",
        "--guest",
        "pv",
        "--allow-kernel-damage",
    ];
    let args = [&["--json"], &fault[..], &["--rule"], &rules].concat();
    let (status, report) = report(&args);
    for (rule, verdict) in verdicts(&report) {
        assert_eq!(verdict, "differs", "{rule}: {report:#}");
    }
    assert_eq!(status, Some(1));
}

/// What is known to differ is written down for people, too.
#[test]
fn conform_lists_its_differences_in_the_docs() {
    let docs = include_str!("../../../docs/fidelity.md");
    let output = conform(&["--list", "--json"]);
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut known = 0;
    for rule in list.as_array().expect("rules") {
        let name = rule["name"].as_str().expect("a name");
        let listed = docs.contains(&format!("`{name}`"));
        let differs = !rule["differs_on_sim"].is_null();
        let is_of_some_kernels = !rule["since"].is_null();
        let is_special = differs || is_of_some_kernels;
        assert_eq!(listed, is_special, "{name} in docs/fidelity.md");
        known += usize::from(differs);
    }
    assert!(known > 0);
}

/// Each fault turns these rules red, at least, and the exit status with them.
#[test]
fn conform_notices_a_broken_simulator() {
    let faults: [(&str, &[&str]); 8] = [
        (
            "unmap-ignores-references",
            &[
                "held-event-waits-for-the-release",
                "held-grant-stays-in-use",
            ],
        ),
        ("event-before-unmap", &["held-event-waits-for-the-release"]),
        (
            "reuse-while-in-use",
            &[
                "reference-is-not-reused-while-in-use",
                "ended-grant-in-use-still-serves",
            ],
        ),
        ("hold-outlives-owner", &["death-of-the-holder-lets-go"]),
        ("no-map-reference", &["held-event-waits-for-the-release"]),
        (
            "no-quota",
            &[
                "alloc-over-the-limit-is-enospc",
                "alloc-limit-counts-all-files",
            ],
        ),
        (
            "store-ignores-conflicts",
            &[
                "store-transaction-in-conflict-is-eagain",
                "store-transaction-conflicts-over-what-was-absent",
                "store-transaction-is-tried-again-by-the-client",
            ],
        ),
        (
            "store-tells-everybody",
            &[
                "store-watch-tells-who-may-read",
                "store-watch-hears-of-new-permissions",
            ],
        ),
    ];
    for (fault, rules) in faults {
        let mut args = vec!["--json", "--sabotage", fault, "--rule"];
        args.extend(rules);
        let (status, report) = report(&args);
        for (rule, verdict) in verdicts(&report) {
            assert_eq!(verdict, "differs", "{rule} with {fault}: {report:#}");
        }
        assert_eq!(status, Some(1), "{fault}");
    }
}

#[test]
fn conform_says_what_is_wrong_with_its_arguments() {
    for (args, words) in [
        (&["--rule", "nonsense"][..], "nonsense"),
        (&["--peer", "2"], "--platform xen"),
        (&["--platform", "xen"], "xen"),
        (&["--guest", "hvm"], "pvh"),
    ] {
        let output = conform(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
