//! Xen's own command-line tools (Debian package xenstore-utils) and xenstore-rs, an independent
//! client, against our server.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::World;
use libgnt::DomId;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use xenstore_rs::Xs;

fn command(world: &World, tool: &str, args: &[&str]) -> Command {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join(tool))
        .find(|path| path.exists());
    let path = found
        .unwrap_or_else(|| panic!("{tool} is missing: install the Debian package xenstore-utils"));
    let mut command = Command::new(path);
    command
        .args(args)
        .env("XENSTORED_PATH", world.socket())
        .stdin(Stdio::null());
    command
}

fn run(world: &World, tool: &str, args: &[&str]) -> Output {
    command(world, tool, args).output().unwrap()
}

fn good(world: &World, tool: &str, args: &[&str]) -> String {
    let output = run(world, tool, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {} {errors}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn read_write_list_rm_exists() {
    let world = World::new();
    good(&world, "xenstore-write", &["/a/b", "one", "/a/c", "two"]);
    assert_eq!(
        good(&world, "xenstore-read", &["/a/b", "/a/c"]),
        "one\ntwo\n"
    );
    assert_eq!(good(&world, "xenstore-list", &["/a"]), "b\nc\n");
    assert_eq!(world.dom0().read_string("/a/c").unwrap(), "two");
    world.dom0().write("/a/d", "three").unwrap();
    assert_eq!(good(&world, "xenstore-read", &["/a/d"]), "three\n");
    good(&world, "xenstore-exists", &["/a/d"]);
    good(&world, "xenstore-rm", &["/a/d"]);
    assert!(!run(&world, "xenstore-exists", &["/a/d"]).status.success());
    let missing = run(&world, "xenstore-read", &["/a/d"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("couldn't read path /a/d"));
}

#[test]
fn ls_shows_the_tree_with_permissions() {
    let world = World::new();
    world.server.introduce(DomId(7), "guest").unwrap();
    world.client(7).write("data/x", "value").unwrap();
    let tree = good(&world, "xenstore-ls", &["-f", "-p", "/local/domain/7"]);
    assert!(
        tree.contains("/local/domain/7/name = \"guest\"   (n0,r7)"),
        "{tree}"
    );
    assert!(
        tree.contains("/local/domain/7/data/x = \"value\"   (n7)"),
        "{tree}"
    );
    let everything = good(&world, "xenstore-ls", &[]);
    assert!(
        everything.starts_with("local = \"\"\n domain = \"\"\n"),
        "{everything}"
    );
}

#[test]
fn ls_of_a_directory_too_long_for_one_message() {
    let world = World::new();
    let dom0 = world.dom0();
    for n in 0..400 {
        dom0.write(
            &format!("/many/a-name-long-enough-to-need-parts-{n:03}"),
            "x",
        )
        .unwrap();
    }
    assert_eq!(
        good(&world, "xenstore-ls", &["-f", "/many"])
            .lines()
            .count(),
        400
    );
}

#[test]
fn chmod() {
    let world = World::new();
    for domid in [1, 2] {
        world.server.introduce(DomId(domid), "guest").unwrap();
    }
    world.dom0().write("/shared/x", "1").unwrap();
    assert!(world.client(2).read("/shared/x").is_err());
    good(&world, "xenstore-chmod", &["-r", "/shared", "n1", "r2"]);
    assert_eq!(world.client(2).read("/shared/x").unwrap(), b"1");
    assert!(world.client(2).write("/shared/x", "2").is_err());
    world.client(1).write("/shared/x", "2").unwrap();
}

#[test]
fn watch() {
    let world = World::new();
    let mut child = command(&world, "xenstore-watch", &["-n", "3", "/w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first event says that the watch stands: only then is there something to miss.
    assert_eq!(lines.next().unwrap().unwrap(), "/w");
    let dom0 = world.dom0();
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
    let world = World::new();
    world.dom0().write("/peer/y", "from us").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_independent_client", "--nocapture"])
        .env(BE_THE_CLIENT, "1")
        .env("XENSTORED_PATH", world.socket())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        world.dom0().read_string("/peer/x").unwrap(),
        "from xenstore-rs"
    );
    assert!(!world.dom0().exists("/peer/y").unwrap());
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
