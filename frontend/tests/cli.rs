//! The command line against a back end on the simulated Xen.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{FRONT, PATIENCE, Stage};
use pv_frontend::cli::main_from;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn run(stage: &Stage, args: &[&str]) -> bool {
    let platform = format!("sim:{}", stage.dir.path().display());
    let domain = FRONT.0.to_string();
    let head = ["pv-frontend", "--platform", &platform, "--domain", &domain];
    let tail = ["--verify-release", "--reconnect=20", "--close=20", "--json"];
    let status = main_from(head.iter().chain(args).chain(&tail));
    // ExitCode has no comparison, only this.
    format!("{status:?}") == format!("{:?}", ExitCode::SUCCESS)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn copy_brings_a_file_of_odd_length_there_and_back() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let (input, output) = (stage.dir.path().join("in"), stage.dir.path().join("out"));
    let mut data = vec![0; 3_000_001];
    fastrand::Rng::with_seed(3).fill(&mut data);
    std::fs::write(&input, &data).expect("input");
    assert!(run(
        &stage,
        &["copy", "--input", path(&input), "--output", path(&output)]
    ));
    back.join().expect("back end");
    assert!(std::fs::read(&output).expect("output") == data);
    assert!(stage.image.lock().unwrap()[..data.len()] == data[..]);
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn copy_fails_when_the_disk_changes_data() {
    let stage = Stage::new();
    let image = std::sync::Arc::clone(&stage.image);
    let back = stage.back(move |back| {
        back.connect();
        // Two requests write, one flushes; then a bit turns over.
        back.serve(3);
        image.lock().unwrap()[50_000] ^= 1;
        back.serve_until_closed();
    });
    let input = stage.dir.path().join("in");
    std::fs::write(&input, vec![7; 60_000]).expect("input");
    assert!(!run(&stage, &["copy", "--input", path(&input)]));
    back.join().expect("back end");
}

#[test]
fn write_then_read() {
    let stage = Stage::new();
    let serve = |stage: &Stage| {
        stage.back(|back| {
            back.connect();
            back.serve_until_closed();
        })
    };
    let (input, output) = (stage.dir.path().join("in"), stage.dir.path().join("out"));
    std::fs::write(&input, b"not a whole sector").expect("input");
    for args in [
        &["write", "--offset", "1024", "--input", path(&input)][..],
        &[
            "read",
            "--offset",
            "1024",
            "--length",
            "512",
            "--output",
            path(&output),
        ],
        &["info"],
        &["bench", "--seconds", "0.2", "--depth", "8"],
    ] {
        let back = serve(&stage);
        assert!(run(&stage, args), "{args:?}");
        back.join().expect("back end");
    }
    let read = std::fs::read(&output).expect("output");
    assert_eq!(&read[..18], b"not a whole sector");
    assert!(read[18..].iter().all(|&byte| byte == 0) && read.len() == 512);
}

/// As a process of its own, for what it prints: status, JSON and error.
fn bench(stage: &Stage, args: &[&str]) -> (Option<i32>, serde_json::Value, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pv-frontend"));
    command.arg(format!("--platform=sim:{}", stage.dir.path().display()));
    command.args([
        "--domain",
        "1",
        "bench",
        "--json",
        "--depth",
        "8",
        "--close=20",
    ]);
    let output = command.args(args).output().expect("pv-frontend");
    let error = String::from_utf8(output.stderr).expect("text");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {:?}; {error}", output.stdout));
    (output.status.code(), report, error)
}

#[test]
fn bench_says_what_a_lost_disk_never_answered() {
    // Lost for good within the time of the measurement, and when that time is over.
    for (seconds, reconnect) in [("60", "0.3"), ("2", "4")] {
        let stage = Stage::new();
        let back = stage.back(|back| {
            back.connect();
            back.serve(8);
        });
        let times = ["--seconds", seconds, "--reconnect", reconnect];
        let (status, report, error) = bench(&stage, &times);
        back.join().expect("back end");
        assert_eq!(status, Some(1), "{report}");
        assert_eq!(report["never_ended"], 8, "{report}");
        assert!(
            report["ios"].as_u64().is_some_and(|ios| ios <= 8),
            "{report}"
        );
        assert!(error.contains("process died"), "{error}");
        assert!(error.contains("never ended: 8"), "{error}");
    }
}

#[test]
fn bench_waits_for_the_last_answers() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let (status, report, error) = bench(&stage, &["--seconds", "0.2"]);
    back.join().expect("back end");
    assert_eq!(status, Some(0), "{error}");
    assert_eq!(report["never_ended"], 0, "{report}");
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_anything_is_written() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let input = stage.dir.path().join("in");
    let file = std::fs::File::create(&input).expect("input");
    file.set_len(common::DISK_BYTES as u64 + 1).expect("sparse");
    let began = std::time::Instant::now();
    assert!(!run(&stage, &["copy", "--input", path(&input)]));
    assert!(began.elapsed() < PATIENCE);
    back.join().expect("back end");
}

#[test]
fn copy_onto_itself_is_refused_before_anything_is_lost() {
    let stage = Stage::new();
    let (input, other) = (stage.dir.path().join("in"), stage.dir.path().join("other"));
    std::fs::write(&input, b"precious").expect("input");
    std::os::unix::fs::symlink(&input, &other).expect("link");
    assert!(!run(
        &stage,
        &["copy", "--input", path(&input), "--output", path(&other)]
    ));
    assert_eq!(std::fs::read(&input).expect("input"), b"precious");
}

/// The program's own words: the library names no program.
#[test]
fn a_missing_device_is_told_with_the_program_that_creates_it() {
    let stage = Stage::new();
    stage
        .device()
        .remove(&stage.store, Duration::ZERO)
        .expect("remove");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pv-frontend"));
    command.arg(format!("--platform=sim:{}", stage.dir.path().display()));
    command.args(["--domain", &FRONT.0.to_string(), "info"]);
    let output = command.output().expect("start");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("xvda") && error.contains("pv-backend attach"),
        "{error}"
    );
}
