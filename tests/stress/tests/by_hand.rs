//! The simulated Xen with agents started by hand, as its instructions say.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Place, Sim};
use std::fs;
use std::process::Command;

#[test]
fn a_file_goes_through_agents_started_by_hand() {
    let place = Place::new();
    let input = place.input(3_000_001);
    let image = place.path("disk.img");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let sim = Sim::start(&place);
    sim.run(&place, "pv-backend", "attach", &[])
        .assert_status(0);
    let image_arg = ["--image", image.to_str().unwrap()];
    let serving = sim.serve(
        &place,
        sim.command(&place, "pv-backend", "serve", &image_arg),
    );
    let listed = Command::new("xenstore-ls")
        .env("XENSTORED_PATH", sim.dir.join("xenstored.sock"))
        .output();
    // Xen's own tool, where it is installed.
    if let Ok(listed) = listed {
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(
            text.contains("feature-persistent = \"1\"") && text.contains("51712 = \"\""),
            "{text}"
        );
    }
    sim.run(
        &place,
        "pv-frontend",
        "copy",
        &["--input", input.to_str().unwrap()],
    )
    .assert_status(0);
    let there = fs::read(&image).unwrap();
    assert!(there.starts_with(&fs::read(&input).unwrap()));
    serving.end().assert_status(0);
    sim.end();
    place.assert_nothing_left();
}

/// The pair itself: the front end keeps its ring, and each back end goes on where the dead one was.
#[test]
fn a_back_end_that_is_killed_and_started_again_is_only_a_pause() {
    let place = Place::new();
    let image = place.path("disk.img");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let sim = Sim::start(&place);
    sim.run(&place, "pv-backend", "attach", &[])
        .assert_status(0);
    let image_arg = ["--image", image.to_str().unwrap()];
    let serve = || sim.command(&place, "pv-backend", "serve", &image_arg);
    let mut back = sim.serve(&place, serve());
    let bench = ["--seconds", "8", "--json"];
    let bench = sim.command(&place, "pv-frontend", "bench", &bench);
    let bench = std::thread::spawn(move || {
        let mut bench = bench;
        common::said(bench.output().unwrap())
    });
    common::await_text(&back.log, "connected");
    for n in 0..3 {
        back.child.kill().unwrap();
        back.child.wait().unwrap();
        let log = place.path(&format!("again-{n}.log"));
        let mut again = serve();
        again.stderr(fs::File::create(&log).unwrap());
        let child = again.stdout(std::process::Stdio::null()).spawn().unwrap();
        back = common::Serving { child, log };
        common::await_text(&back.log, "took over a ring in service");
    }
    let said = bench.join().unwrap();
    said.assert_status(0);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["never_ended"], 0, "{report}");
    back.end().assert_status(0);
    sim.end();
    place.assert_nothing_left();
}

#[test]
fn one_directory_has_one_host() {
    let place = Place::new();
    let sim = Sim::start(&place);
    let dir = sim.dir.to_str().unwrap().to_owned();
    let second = common::said(place.command(&["sim", "--dir", &dir]).output().unwrap());
    second.assert_status(2).assert_stderr(&[&dir, "another"]);
    // The first one is unharmed.
    sim.run(&place, "pv-backend", "attach", &[])
        .assert_status(0);
    sim.end();
}

#[test]
fn a_directory_that_cannot_be_served_is_named() {
    let place = Place::new();
    let file = place.input(1);
    let below = file.join("sim").display().to_string();
    let run = common::said(place.command(&["sim", "--dir", &below]).output().unwrap());
    run.assert_status(2).assert_stderr(&["input/sim", "--dir"]);
    let long = place.path(&"x".repeat(100)).display().to_string();
    let run = common::said(place.command(&["sim", "--dir", &long]).output().unwrap());
    run.assert_status(2).assert_stderr(&["xxx"]);
}

#[test]
fn agents_without_a_host_say_how_to_start_one() {
    let place = Place::new();
    let nowhere = format!("sim:{}", place.path("nowhere").display());
    for args in [
        &[
            "pv-backend",
            "attach",
            "--platform",
            &nowhere,
            "--front",
            "1",
        ][..],
        &[
            "pv-frontend",
            "info",
            "--platform",
            &nowhere,
            "--domain",
            "1",
        ],
    ] {
        let run = common::said(place.command(args).output().unwrap());
        run.assert_status(2)
            .assert_stderr(&["nowhere", "pv-stress sim --dir"]);
    }
}
