//! The program as people and scripts meet it: exit status, messages, signals.

mod common;

use common::program::{Serving, pv_backend, sim};
use common::{DEVICE, Front, PATIENCE, Stage};
use libgnt::DomId;
use libgnt::proto::blkif::{Operation, Status};
use pv_xenstore::XenbusState;
use rustix::process::Signal;
use std::process::{Output, Stdio};
use std::sync::mpsc::channel;
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
        (&["status", "--front", "1", "--class", "a/b"], "a/b"),
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
    let stage = Stage::new();
    let sim = sim(&stage);
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
    let stage = Stage::new();
    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(4096).expect("size");
    let mut permissions = image.as_file().metadata().expect("stat").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(image.path(), permissions).expect("chmod");
    let path = image.path().display().to_string();
    let sim = sim(&stage);
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
    for class in ["vbd", "pvstress"] {
        let stage = Stage::new();
        let sim = sim(&stage);
        let device = ["--device", "xvdc", "--class", class];
        let at = |command: &'static str| {
            let args = [command, "--platform", &sim, "--front", "1"];
            run(&[&args[..], &device].concat())
        };
        let back = format!("/local/domain/0/backend/{class}/1/51744");
        let (status, stdout, stderr) = at("attach");
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert!(stdout.contains(&back), "{stdout}");
        let mut serving = Serving::start(&stage, &[&["--memory", "1M"][..], &device].concat());
        stage.wait_node(&format!("{back}/state"), "2", |value| value == Some("2"));
        let (status, stdout, _) = at("status");
        assert_eq!(status, 0);
        assert!(stdout.contains("back end: InitWait (2)"), "{stdout}");
        // The front end never came: the device can go at once, and the back end ends in order.
        let (status, stdout, stderr) = at_once(&stage, &[&["detach"][..], &device].concat());
        assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.contains("removed"), "{stdout}");
        let (status, log) = serving.end();
        assert_eq!(status, 0, "{log}");
        assert_eq!(at("status").0, 2);
    }
}

/// Detaches a device of domain 1, with all the time in the stage, of which it must not need much.
fn at_once(stage: &Stage, args: &[&str]) -> (i32, String, String) {
    let sim = sim(stage);
    let mut command = pv_backend(args);
    command.args(["--platform", &sim, "--front", "1", "--deadline", "100000"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let stderr = child.stderr.take().expect("piped");
    let (send, said) = channel();
    std::thread::spawn(move || send.send(std::io::read_to_string(stderr)));
    let Ok(stderr) = said.recv_timeout(PATIENCE) else {
        child.kill().expect("kill");
        panic!("{args:?} waits for its deadline");
    };
    let output = child.wait_with_output().expect("wait");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let status = output.status.code().expect("no signal");
    (status, stdout, stderr.expect("text"))
}

#[test]
fn a_device_served_from_another_domain_is_found_without_being_told() {
    let stage = Stage::new();
    stage
        .dom0
        .create_domain(DomId(2), "driver-domain")
        .expect("domain");
    let sim = sim(&stage);
    let in_dom0 = |command: &str, more: &[&str]| {
        let mut args = vec![
            command,
            "--platform",
            &sim,
            "--front",
            "1",
            "--device",
            "xvdc",
        ];
        args.extend(more);
        run(&args)
    };
    let (status, _, stderr) = in_dom0("attach", &["--back", "2"]);
    assert_eq!(status, 0, "{stderr}");
    let args = ["--memory", "1M", "--device", "xvdc", "--domain", "2"];
    let mut serving = Serving::start(&stage, &args);
    let back = "/local/domain/2/backend/vbd/1/51744";
    stage.wait_node(&format!("{back}/state"), "2", |value| value == Some("2"));
    let (status, stdout, stderr) = in_dom0("status", &[]);
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.contains(&format!("InitWait (2) at {back}")),
        "{stdout}"
    );
    // Whoever names the wrong domain does not get half of the device removed.
    let (status, stdout, stderr) = in_dom0("detach", &["--back", "0"]);
    assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains(back), "{stderr}");
    assert!(stderr.contains("leave `--back` away"), "{stderr}");
    let (status, stdout, stderr) = at_once(&stage, &["detach", "--device", "xvdc"]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    let (status, log) = serving.end();
    assert_eq!(status, 0, "{log}");
    for gone in [
        back,
        "/local/domain/1/device/vbd/51744",
        "/pvpair/1/device/vbd/51744",
    ] {
        assert!(!stage.store.exists(gone).expect("read"), "{gone}");
    }
}

#[test]
fn detach_refuses_what_it_cannot_find_and_touches_nothing() {
    let stage = Stage::new();
    stage
        .dom0
        .create_domain(DomId(2), "driver-domain")
        .expect("domain");
    let sim = sim(&stage);
    let args = |command| {
        [
            command,
            "--platform",
            &sim,
            "--front",
            "1",
            "--device",
            "xvdc",
        ]
    };
    assert_eq!(run(&[&args("attach")[..], &["--back", "2"]].concat()).0, 0);
    stage.store.rm("/pvpair/1/device/vbd/51744").expect("rm");
    let front = "/local/domain/1/device/vbd/51744";
    refused(&args("detach"), &[front, "--back N"]);
    refused(&args("status"), &[front, "--back N"]);
    for (directory, state) in [(front, "1"), ("/local/domain/2/backend/vbd/1/51744", "1")] {
        let is = stage.store.read_string(&format!("{directory}/state"));
        assert_eq!(is.expect("it is there"), state);
    }
    let told = at_once(&stage, &["detach", "--device", "xvdc", "--back", "2"]);
    assert_eq!(told.0, 0, "{told:?}");
    assert!(!stage.store.exists("/local/domain/2/backend").expect("read"));
}

/// Where the back end's process is dead, or never came, nobody has to be waited for.
#[test]
fn a_device_without_a_front_end_is_detached_at_once() {
    for state in ["1", "2"] {
        let stage = Stage::new();
        stage.write(&format!("{}/state", stage.back_dir()), state);
        let (status, stdout, stderr) = at_once(&stage, &["detach"]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.contains("no front end had connected"), "{stdout}");
        assert!(!stage.store.exists(&stage.back_dir()).expect("read"));
        assert!(!stage.store.exists(&stage.front_dir()).expect("read"));
    }
}

/// A back end that has closed holds nothing of a front end's, so that need not be waited for.
#[test]
fn a_device_whose_front_end_died_is_detached_at_once() {
    let stage = Stage::new();
    stage.write(&format!("{}/state", stage.back_dir()), "6");
    stage.write(&format!("{}/state", stage.front_dir()), "4");
    let (status, stdout, stderr) = at_once(&stage, &["detach"]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("Connected (4)"), "{stdout}");
    assert!(!stage.store.exists(&stage.back_dir()).expect("read"));
    assert!(!stage.store.exists(&stage.front_dir()).expect("read"));
}

#[test]
fn ends_that_do_not_close_are_named_with_status_1() {
    let stage = Stage::new();
    let sim = sim(&stage);
    stage.write(&format!("{}/state", stage.back_dir()), "4");
    stage.write(&format!("{}/state", stage.front_dir()), "4");
    let node = "/local/domain/1/error/device/vbd/51712/error";
    stage.write(node, "no \u{1b}[2Jring");
    let (status, stdout, stderr) = run(&[
        "detach",
        "--platform",
        &sim,
        "--front",
        "1",
        "--deadline",
        "0",
    ]);
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    for part in [
        "did not close",
        "front end Connected",
        "back end Closing",
        "ring",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    assert!(!stage.store.exists(&stage.back_dir()).expect("read"));
}

#[test]
fn sigterm_closes_the_device_and_a_second_signal_does_not_wait() {
    let stage = Stage::new();
    let mut serving = Serving::start(&stage, &["--memory", "1M"]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    serving.signal(Signal::TERM);
    stage.wait_back(XenbusState::Closing);
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    let (status, log) = serving.end();
    assert_eq!(status, 0, "{log}");
    stage.wait_back(XenbusState::Closed);

    front.state(XenbusState::Initialising);
    let mut serving = Serving::start(&stage, &["--memory", "1M", "--close-deadline", "600"]);
    drop(front);
    let front = Front::new(&stage);
    front.connect(&stage);
    serving.signal(Signal::INT);
    stage.wait_back(XenbusState::Closing);
    let began = Instant::now();
    serving.signal(Signal::INT);
    let (status, log) = serving.end();
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("second signal"), "{log}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_front_that_does_not_close_is_left_after_the_deadline() {
    let stage = Stage::new();
    let mut serving = Serving::start(&stage, &["--memory", "1M", "--close-deadline", "2"]);
    let front = Front::new(&stage);
    front.connect(&stage);
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
    let stage = Stage::new();
    let mut serving = Serving::start(&stage, &["--memory", "1M"]);
    let front = Front::new(&stage);
    front.connect(&stage);
    drop(front);
    drop(stage);
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

#[test]
fn attach_names_the_command_that_removes_what_is_left_behind() {
    let stage = Stage::new();
    stage
        .dom0
        .create_domain(DomId(2), "driver-domain")
        .expect("domain");
    let sim = sim(&stage);
    let args = [
        "attach",
        "--platform",
        &sim,
        "--front",
        "1",
        "--device",
        "xvdc",
    ];
    assert_eq!(run(&[&args[..], &["--back", "2"]].concat()).0, 0);
    let front = "/local/domain/1/device/vbd/51744";
    stage.store.rm(front).expect("rm");
    let back = "/local/domain/2/backend/vbd/1/51744";
    refused(&args, &[back, "pv-backend detach"]);
}
