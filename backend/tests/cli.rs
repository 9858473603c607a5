//! The program as people and scripts meet it: exit status, messages, signals.

mod common;

use common::program::{Serving, pv_backend, sim};
use common::{DEVICE, Front, PATIENCE, World};
use libgnt::proto::blkif::{Operation, Status};
use pv_xenstore::XenbusState;
use rustix::process::Signal;
use std::process::Output;
use std::time::{Duration, Instant};

fn run(args: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = pv_backend(args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (
        status.code().expect("no signal"),
        text(stdout),
        text(stderr),
    )
}

/// Runs to its end, which must be a refusal that names these things.
fn refused(args: &[&str], names: &[&str]) {
    let (status, stdout, stderr) = run(args);
    assert_eq!(status, 2, "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    for name in names {
        assert!(stderr.contains(name), "{args:?}: no {name:?} in {stderr}");
    }
}

#[test]
fn wrong_usage_is_status_2_with_a_word_about_it() {
    for (args, name) in [
        (&["serve"][..], "--front"),
        (&["serve", "--front", "1"], "--image"),
        (
            &["serve", "--front", "1", "--image", "a", "--memory", "1M"],
            "--memory",
        ),
        (&["serve", "--front", "1", "--memory", "lots"], "lots"),
        (
            &["serve", "--front", "1", "--memory", "1M", "--device", "sda"],
            "sda",
        ),
        (
            &["serve", "--front", "1", "--memory", "1M", "--mode", "dma"],
            "dma",
        ),
        (
            &[
                "serve",
                "--front",
                "1",
                "--memory",
                "1M",
                "--max-zombies",
                "0",
            ],
            "0",
        ),
        (
            &[
                "serve",
                "--front",
                "1",
                "--memory",
                "1M",
                "--platform",
                "vmware",
            ],
            "vmware",
        ),
        (&["status", "--front", "1", "--log", "=="], "--log"),
        (&["frobnicate"], "frobnicate"),
        (&[], "Usage"),
    ] {
        refused(args, &[name]);
    }
}

#[test]
fn help_has_examples_and_status_0() {
    for args in [&["--help"][..], &["serve", "--help"]] {
        let (status, stdout, stderr) = run(args);
        assert_eq!((status, stderr.as_str()), (0, ""), "{args:?}");
        assert!(stdout.contains("pv-backend attach --front 1"), "{stdout}");
    }
}

#[test]
fn what_the_environment_lacks_is_status_2_with_a_cure() {
    let world = World::new();
    let sim = sim(&world);
    let dir = tempfile::tempdir().expect("dir");
    let in_dir = |name: &str| dir.path().join(name).display().to_string();
    let (odd, missing, nowhere) = (in_dir("odd"), in_dir("missing"), in_dir("nowhere"));
    std::fs::write(&odd, [0; 513]).expect("image");
    let serve = |more: &[&str], names: &[&str]| {
        let mut args = vec!["serve", "--platform", &sim, "--front", "1"];
        args.extend(more);
        refused(&args, names);
    };
    serve(&["--image", &missing], &[&missing, "truncate"]);
    serve(&["--image", &odd], &[&odd, "513", "512"]);
    serve(
        &["--image", dir.path().to_str().expect("text")],
        &["directory"],
    );
    serve(&["--memory", "513"], &["513"]);
    serve(
        &["--memory", "1M", "--device", "xvdb"],
        &["xvdb", "pv-backend attach --front 1"],
    );
    refused(
        &["status", "--platform", &sim, "--front", "7"],
        &["domain 7", "attach"],
    );
    refused(&["detach", "--platform", &sim, "--front", "7"], &["51712"]);
    refused(
        &["attach", "--platform", &sim, "--front", "1"],
        &["there already"],
    );
    refused(
        &["attach", "--platform", &sim, "--front", "9"],
        &["domain 9"],
    );
    let no_host = format!("sim:{nowhere}");
    refused(
        &[
            "serve",
            "--platform",
            &no_host,
            "--front",
            "1",
            "--memory",
            "1M",
        ],
        &[&nowhere],
    );
}

#[test]
fn a_read_only_image_says_how_it_can_be_served() {
    if rustix::process::geteuid().is_root() {
        return; // Permissions do not stop root.
    }
    let world = World::new();
    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(4096).expect("size");
    let mut permissions = image.as_file().metadata().expect("stat").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(image.path(), permissions).expect("chmod");
    let path = image.path().display().to_string();
    let sim = sim(&world);
    refused(
        &[
            "serve",
            "--platform",
            &sim,
            "--front",
            "1",
            "--image",
            &path,
        ],
        &["--read-only"],
    );
}

#[test]
fn attach_serve_status_detach() {
    let world = World::new();
    let sim = sim(&world);
    let at = |command: &'static str| {
        run(&[
            command,
            "--platform",
            &sim,
            "--front",
            "1",
            "--device",
            "xvdc",
        ])
    };
    let (status, stdout, stderr) = at("attach");
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(
        stdout.contains("/local/domain/0/backend/vbd/1/51744"),
        "{stdout}"
    );
    let mut serving = Serving::start(&world, &["--memory", "1M", "--device", "xvdc"]);
    let state = "/local/domain/0/backend/vbd/1/51744/state";
    world.wait_node(state, "2", |value| value == Some("2"));
    let (status, stdout, _) = at("status");
    assert_eq!(status, 0);
    assert!(stdout.contains("back end: InitWait (2)"), "{stdout}");
    // The front end never came: it is as it was created, and the device can go at once.
    world.write("/local/domain/1/device/vbd/51744/state", "6");
    let (status, stdout, stderr) = at("detach");
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    let (status, log) = serving.end();
    assert_eq!(status, 0, "{log}");
    assert_eq!(at("status").0, 2);
}

#[test]
fn sigterm_closes_the_device_and_a_second_signal_does_not_wait() {
    let world = World::new();
    let mut serving = Serving::start(&world, &["--memory", "1M"]);
    let mut front = Front::new(&world);
    front.connect(&world);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    serving.signal(Signal::TERM);
    world.wait_back(XenbusState::Closing);
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    let (status, log) = serving.end();
    assert_eq!(status, 0, "{log}");
    world.wait_back(XenbusState::Closed);

    front.state(XenbusState::Initialising);
    let mut serving = Serving::start(&world, &["--memory", "1M", "--close-deadline", "600"]);
    drop(front);
    let front = Front::new(&world);
    front.connect(&world);
    serving.signal(Signal::INT);
    world.wait_back(XenbusState::Closing);
    let began = Instant::now();
    serving.signal(Signal::INT);
    let (status, log) = serving.end();
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("second signal"), "{log}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_front_that_does_not_close_is_left_after_the_deadline() {
    let world = World::new();
    let mut serving = Serving::start(&world, &["--memory", "1M", "--close-deadline", "2"]);
    let front = Front::new(&world);
    front.connect(&world);
    serving.signal(Signal::TERM);
    let began = Instant::now();
    let (status, log) = serving.end();
    assert_eq!(status, 0, "{log}");
    assert!(log.contains("does not close"), "{log}");
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(1900)..PATIENCE).contains(&took),
        "{took:?}"
    );
}

#[test]
fn a_host_that_vanishes_is_status_1_with_a_word_about_it() {
    let world = World::new();
    let mut serving = Serving::start(&world, &["--memory", "1M"]);
    let front = Front::new(&world);
    front.connect(&world);
    drop(front);
    drop(world);
    let (status, log) = serving.end();
    assert_eq!(status, 1, "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        log.lines()
            .last()
            .is_some_and(|l| l.starts_with("pv-backend: ")),
        "{log}"
    );
}

#[test]
fn device_numbers_in_messages_are_the_fields() {
    assert_eq!(DEVICE.name().as_deref(), Some("xvda"));
}
