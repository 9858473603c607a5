//! Xen's own command-line tools (Debian package xenstore-utils) and xenstore-rs, an independent
//! client, against our server.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/tool.rs"]
mod tool;

use common::Xenstore;
use libgnt::DomId;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use xenstore_rs::Xs;

fn command(xenstore: &Xenstore, name: &str, args: &[&str]) -> Command {
    tool::tool(&xenstore.socket(), &[&[name], args].concat())
}

fn run(xenstore: &Xenstore, name: &str, args: &[&str]) -> Output {
    command(xenstore, name, args).output().unwrap()
}

fn good(xenstore: &Xenstore, name: &str, args: &[&str]) -> String {
    tool::good(command(xenstore, name, args))
}

#[test]
fn read_write_list_rm_exists() {
    let xenstore = Xenstore::new();
    good(&xenstore, "xenstore-write", &["/a/b", "one", "/a/c", "two"]);
    assert_eq!(
        good(&xenstore, "xenstore-read", &["/a/b", "/a/c"]),
        "one\ntwo\n"
    );
    assert_eq!(good(&xenstore, "xenstore-list", &["/a"]), "b\nc\n");
    assert_eq!(xenstore.dom0().read_string("/a/c").unwrap(), "two");
    xenstore.dom0().write("/a/d", "three").unwrap();
    assert_eq!(good(&xenstore, "xenstore-read", &["/a/d"]), "three\n");
    good(&xenstore, "xenstore-exists", &["/a/d"]);
    good(&xenstore, "xenstore-rm", &["/a/d"]);
    assert!(
        !run(&xenstore, "xenstore-exists", &["/a/d"])
            .status
            .success()
    );
    let missing = run(&xenstore, "xenstore-read", &["/a/d"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("couldn't read path /a/d"));
}

#[test]
fn ls_shows_the_tree_with_permissions() {
    let xenstore = Xenstore::new();
    xenstore.server.introduce(DomId(7), "guest").unwrap();
    xenstore.client(7).write("data/x", "value").unwrap();
    let tree = good(&xenstore, "xenstore-ls", &["-f", "-p", "/local/domain/7"]);
    assert!(
        tree.contains("/local/domain/7/name = \"guest\"   (n0,r7)"),
        "{tree}"
    );
    assert!(
        tree.contains("/local/domain/7/data/x = \"value\"   (n7)"),
        "{tree}"
    );
    let everything = good(&xenstore, "xenstore-ls", &[]);
    assert!(
        everything.starts_with("tool = \"\"\n xenstored = \"\"\nlocal = \"\"\n domain = \"\"\n"),
        "{everything}"
    );
}

#[test]
fn ls_of_a_directory_too_long_for_one_message() {
    let xenstore = Xenstore::new();
    let dom0 = xenstore.dom0();
    for n in 0..400 {
        dom0.write(
            &format!("/many/a-name-long-enough-to-need-parts-{n:03}"),
            "x",
        )
        .unwrap();
    }
    assert_eq!(
        good(&xenstore, "xenstore-ls", &["-f", "/many"])
            .lines()
            .count(),
        400
    );
}

#[test]
fn chmod() {
    let xenstore = Xenstore::new();
    for domid in [1, 2] {
        xenstore.server.introduce(DomId(domid), "guest").unwrap();
    }
    xenstore.dom0().write("/shared/x", "1").unwrap();
    assert!(xenstore.client(2).read("/shared/x").is_err());
    good(&xenstore, "xenstore-chmod", &["-r", "/shared", "n1", "r2"]);
    assert_eq!(xenstore.client(2).read("/shared/x").unwrap(), b"1");
    assert!(xenstore.client(2).write("/shared/x", "2").is_err());
    xenstore.client(1).write("/shared/x", "2").unwrap();
}

#[test]
fn watch() {
    let xenstore = Xenstore::new();
    let mut child = command(&xenstore, "xenstore-watch", &["-n", "3", "/w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first event says that the watch stands: only then is there something to miss.
    assert_eq!(lines.next().unwrap().unwrap(), "/w");
    let dom0 = xenstore.dom0();
    dom0.write("/w/below", "1").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "/w/below");
    dom0.rm("/w").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "/w");
    assert!(child.wait().unwrap().success());
}

/// xenstore-rs takes its socket from the environment only, so it runs in a process of its own:
/// this test again, told by a variable to be the client.
#[test]
fn an_independent_client() {
    const BE_THE_CLIENT: &str = "PV_XENSTORE_TEST_CLIENT";
    if std::env::var_os(BE_THE_CLIENT).is_some() {
        return independent_client();
    }
    let xenstore = Xenstore::new();
    xenstore.dom0().write("/peer/y", "from us").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_independent_client", "--nocapture"])
        .env(BE_THE_CLIENT, "1")
        .env("XENSTORED_PATH", xenstore.socket())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        xenstore.dom0().read_string("/peer/x").unwrap(),
        "from xenstore-rs"
    );
    assert!(!xenstore.dom0().exists("/peer/y").unwrap());
}

fn independent_client() {
    let xs = xenstore_rs::unix::XsUnix::new().unwrap();
    xs.write("/peer/x", "from xenstore-rs").unwrap();
    assert_eq!(&*xs.read("/peer/x").unwrap(), "from xenstore-rs");
    assert_eq!(&*xs.read("/peer/y").unwrap(), "from us");
    let names = xs.directory("/peer").unwrap();
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["y", "x"]
    );
    xs.rm("/peer/y").unwrap();
    assert!(xs.read("/peer/y").is_err());
}
