//! The lab's front end that goes straight to Connected, on the simulated Xen.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Place, Said, Sim};
use std::fs;

/// Runs it against a back end that serves already, and looks at the image.
fn run(options: &[&str]) -> (Said, bool) {
    let place = Place::new();
    let image = place.path("disk.img");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let sim = Sim::start(&place);
    sim.run(&place, "pv-backend", "attach", &[])
        .assert_status(0);
    let image_arg = ["--image", image.to_str().unwrap()];
    let serve = sim.command(&place, "pv-backend", "serve", &image_arg);
    let serving = sim.serve(&place, serve);
    let platform = format!("sim:{}", sim.dir.display());
    let mut args = vec!["direct-front-end", "--platform", &platform, "--domain", "1"];
    args.extend(options);
    let said = common::said(place.command(&args).output().unwrap());
    let page: Vec<u8> = (0..4096).map(|n| (n % 251) as u8).collect();
    let written = fs::read(&image).unwrap()[16 * 512..].starts_with(&page);
    serving.end();
    sim.end();
    place.assert_nothing_left();
    (said, written)
}

/// The front end itself is sound: what fails otherwise is the shortcut.
#[test]
fn the_usual_way_is_served() {
    let (said, written) = run(&["--usual"]);
    said.assert_status(0);
    assert!(written);
}

#[test]
fn state_4_at_once_is_served() {
    for options in [&[][..], &["--nodes-first"]] {
        let (said, written) = run(options);
        said.assert_status(0);
        assert!(written);
    }
}

#[test]
fn what_does_not_come_is_named() {
    // Nobody answers: the device has no back end in any state but the first.
    let place = Place::new();
    let sim = Sim::start(&place);
    sim.run(&place, "pv-backend", "attach", &[])
        .assert_status(0);
    let platform = format!("sim:{}", sim.dir.display());
    let args = [
        "direct-front-end",
        "--platform",
        &platform,
        "--domain",
        "1",
        "--deadline",
        "100ms",
    ];
    let said = common::said(place.command(&args).output().unwrap());
    said.assert_status(2)
        .assert_stderr(&["the back end", "Initialising", "Connected"]);
    sim.end();
}
