//! The program with Xen's own command-line tools (Debian package xenstore-utils).
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Daemon, PROGRAM};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn debians_tools() {
    let daemon = Daemon::start(&["--domain", "7"]);
    daemon.good(&["xenstore-write", "/a/b", "one", "/a/c", "two"]);
    assert_eq!(
        daemon.good(&["xenstore-read", "/a/b", "/a/c"]),
        "one\ntwo\n"
    );
    assert_eq!(daemon.good(&["xenstore-list", "/a"]), "b\nc\n");
    daemon.good(&["xenstore-exists", "/a/c"]);
    daemon.good(&["xenstore-rm", "/a/c"]);
    assert!(!daemon.run(&["xenstore-exists", "/a/c"]).status.success());
    daemon.good(&["xenstore-chmod", "-r", "/a", "n7", "r8"]);
    let tree = daemon.good(&["xenstore-ls", "-f", "-p"]);
    for line in [
        "/a = \"\"   (n7,r8)",
        "/a/b = \"one\"   (n7,r8)",
        "/local/domain/0/domid = \"0\"   (n0,r0)",
        "/local/domain/7/name = \"Domain-7\"   (n0,r7)",
    ] {
        assert!(
            tree.lines()
                .any(|l| l.split_whitespace().eq(line.split_whitespace())),
            "{line} in {tree}"
        );
    }
}

#[test]
fn a_watch_of_debians() {
    let daemon = Daemon::start(&[]);
    let mut watch = daemon
        .tool("xs.sock", &["xenstore-watch", "-n", "2", "/w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "/w");
    daemon.good(&["xenstore-write", "/w/below", "1"]);
    assert_eq!(lines.next().unwrap().unwrap(), "/w/below");
    assert!(watch.wait().unwrap().success());
}

#[test]
fn xens_own_test_where_it_is_installed() {
    let installed = std::env::var_os("TEST_XENSTORE").map(PathBuf::from);
    let found = installed.or_else(|| {
        let versions = std::fs::read_dir("/usr/lib").unwrap().flatten();
        let tests = versions
            .flat_map(|dir| ["bin", "tests"].map(|of| dir.path().join(of).join("test-xenstore")));
        tests.into_iter().find(|path| path.exists())
    });
    let Some(test) = found else {
        eprintln!("not tried: no test-xenstore (Debian package xen-utils-4.17 or later)");
        return;
    };
    let daemon = Daemon::start(&[]);
    let output = Command::new(test)
        .env("XENSTORED_PATH", daemon.socket())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_domains_socket_has_the_domains_rights() {
    let daemon = Daemon::start(&["--domain", "7=dom7.sock"]);
    let as_domain = |args: &[&str]| daemon.tool("dom7.sock", args).output().unwrap();
    let read = as_domain(&["xenstore-read", "domid"]);
    assert_eq!(String::from_utf8_lossy(&read.stdout), "7\n");
    assert!(
        as_domain(&["xenstore-write", "data/x", "1"])
            .status
            .success()
    );
    assert!(!as_domain(&["xenstore-write", "/x", "1"]).status.success());
    assert_eq!(
        daemon.good(&["xenstore-read", "/local/domain/7/data/x"]),
        "1\n"
    );
}

#[test]
fn a_signal_ends_it_and_removes_its_sockets() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut daemon = Daemon::start(&["--domain", "7=dom7.sock"]);
        for name in ["xs.sock", "dom7.sock"] {
            let mode = std::fs::metadata(daemon.dir.path().join(name)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(daemon.end(signal), Some(0));
        assert_eq!(std::fs::read_dir(daemon.dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_store_outlives_the_program() {
    let mut daemon = Daemon::start(&["--state", "state", "--domain", "7"]);
    daemon.good(&[
        "xenstore-write",
        "/z",
        "1",
        "/a",
        "2",
        "/local/domain/7/name",
        "renamed",
    ]);
    daemon.good(&["xenstore-chmod", "/a", "n7", "r8"]);
    let before = daemon.good(&["xenstore-ls", "-f", "-p"]);
    assert!(before.contains("renamed"));
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().unwrap());
    let mut daemon = Daemon::start_in(dir, &["--state", "state", "--domain", "7"]);
    assert_eq!(daemon.good(&["xenstore-ls", "-f", "-p"]), before);
    // Killed, it loses no more than the last moment.
    daemon.good(&["xenstore-write", "/b", "3"]);
    let state = daemon.dir.path().join("state");
    let is_there = || {
        std::fs::read(&state)
            .unwrap()
            .windows(2)
            .any(|w| w == b"/b")
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_there() {
        assert!(std::time::Instant::now() < deadline, "it is never written");
        daemon.good(&["xenstore-exists", "/b"]);
    }
    daemon.end(Signal::KILL);
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().unwrap());
    let daemon = Daemon::start_in(dir, &["--state", "state"]);
    assert_eq!(daemon.good(&["xenstore-read", "/b", "/a"]), "3\n2\n");
    // A file that is none of ours is left alone.
    let other = daemon.dir.path().join("other");
    std::fs::write(&other, "precious").unwrap();
    let (status, text) = refused(
        daemon.dir.path(),
        &["--socket", "new.sock", "--state", "other"],
    );
    assert_eq!(status, Some(2));
    assert!(text.contains("other holds no state"), "{text}");
    assert_eq!(std::fs::read_to_string(other).unwrap(), "precious");
}

#[test]
fn quotas_are_set_by_their_names() {
    let daemon = Daemon::start(&[
        "--daemon",
        "c-4.17",
        "--quota",
        "nodes=8",
        "--domain",
        "7=dom7.sock",
    ]);
    let as_domain = |args: &[&str]| daemon.tool("dom7.sock", args).output().unwrap();
    let write = |n: usize| as_domain(&["xenstore-write", &format!("data/{n}"), "1"]);
    // Five nodes are its own from the start.
    for n in 0..3 {
        assert!(write(n).status.success());
    }
    let refused = write(3);
    assert!(!refused.status.success(), "{refused:?}");
}

/// Exit status and the one line on standard error.
fn refused(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    // One that is not refused would serve for ever.
    let output = Command::new("timeout")
        .args(["20", PROGRAM])
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("pv-xenstored: "), "{text}");
    (output.status.code(), text)
}

#[test]
fn a_socket_that_exists_is_taken_over_only_from_the_dead() {
    // Killed: the file stays, and the next one takes it over.
    let mut daemon = Daemon::start(&[]);
    assert_eq!(daemon.end(Signal::KILL), None);
    assert!(daemon.socket().exists());
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().unwrap());
    let daemon = Daemon::start_in(dir, &[]);
    // Alive: refused, and left alone.
    let (status, text) = refused(daemon.dir.path(), &["--socket", "xs.sock"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("another xenstore server"), "{text}");
    UnixStream::connect(daemon.socket()).expect("it still serves");
    // No socket at all.
    let file = daemon.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let (status, text) = refused(daemon.dir.path(), &["--socket", "file"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("no socket"), "{text}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
    // A listener that does not accept is alive all the same.
    let _listener = UnixListener::bind(daemon.dir.path().join("busy")).unwrap();
    assert_eq!(refused(daemon.dir.path(), &["--socket", "busy"]).0, Some(2));
}

#[test]
fn bad_options_are_status_2_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["--nonsense"],
        &["--socket"],
        &["--socket", "xs.sock", "extra"],
        &["--socket", "xs.sock", "--domain", "0"],
        &["--socket", "xs.sock", "--domain", "7="],
        &["--socket", "xs.sock", "--log", "a=b=c"],
        &["--socket", "xs.sock", "--daemon", "c-4.16"],
        &["--socket", "xs.sock", "--quota", "nodes"],
        &["--socket", "xs.sock", "--quota", "none=1"],
        &["--socket", "xs.sock", "--state", "no/such/directory/state"],
        &["--socket", "no/such/directory/xs.sock"],
    ] {
        let (status, text) = refused(dir.path(), args);
        assert_eq!(status, Some(2), "{args:?}: {text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn help_is_for_standard_output() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["--socket", "--domain", "xenstore-ls", "Exit status"] {
        assert!(text.contains(word), "{word}");
    }
}
