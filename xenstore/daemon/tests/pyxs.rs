//! The program with pyxs, the client that Python has (Debian package python3-pyxs, or PyPI's pyxs).
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Daemon;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A Python that has pyxs: the one of the user's choice, or Debian's.
fn python() -> Option<Command> {
    let has_it = |program: &str| {
        let mut asked = Command::new(program);
        asked.args(["-c", "import pyxs"]);
        asked.output().is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| has_it(python));
    found.map(Command::new)
}

#[test]
fn pyxs_gets_what_it_asks_for() {
    let Some(mut python) = python() else {
        // Past what the harness captures.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no python3 with pyxs here; install the Debian package python3-pyxs"
        );
        return;
    };
    let daemon = Daemon::start(&["--domain", "7"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/with_pyxs.py");
    // One that waits for an event that does not come would wait for ever.
    let output = Command::new("timeout")
        .arg("60")
        .arg(python.arg(script).get_program())
        .args(python.get_args())
        .arg(daemon.socket())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "all as it must be\n"
    );
}
