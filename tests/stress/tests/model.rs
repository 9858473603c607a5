//! `pv-stress model` as its users see it.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Place, said};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_good_verdict_is_status_0_and_the_table_says_it() {
    let place = Place::new();
    let run = said(
        place
            .command(&["model", "check", "vfio-pci/nested"])
            .output()
            .unwrap(),
    );
    run.assert_status(0);
    assert!(run.stdout.contains("holds, as found"), "{}", run.stdout);
    let args = ["model", "check", "gntdev/sync", "--json", "--actors", "2"];
    let run = said(place.command(&args).output().unwrap());
    run.assert_status(0);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(json[0]["found"][1], "nobody-waits-for-ever");
    assert_eq!(json[0]["actors"], 2);
}

#[test]
fn what_was_cut_short_is_no_pass() {
    let place = Place::new();
    for limit in [["--max-states", "100"], ["--time-limit", "0s"]] {
        let mut args = vec!["model", "check", "vfio-pci/nested"];
        args.extend(limit);
        let run = said(place.command(&args).output().unwrap());
        run.assert_status(1);
        assert!(run.stdout.contains("NOT EXHAUSTIVE"), "{}", run.stdout);
        assert!(!run.stdout.contains("as found"), "{}", run.stdout);
    }
}

#[test]
fn unknown_names_are_answered_with_the_nearest() {
    let place = Place::new();
    for command in ["check", "explain", "explore"] {
        let run = said(
            place
                .command(&["model", command, "gntdev/asynk"])
                .output()
                .unwrap(),
        );
        run.assert_status(2)
            .assert_stderr(&["Did you mean `gntdev/async`?", "two-phases-held"]);
    }
    let args = ["model", "explain", "gntdev/sync", "--law", "z"];
    let run = said(place.command(&args).output().unwrap());
    run.assert_status(2)
        .assert_stderr(&["no law `z`", "nothing-leaks"]);
    let args = ["model", "explain", "gntdev/sync", "--actors", "99"];
    let run = said(place.command(&args).output().unwrap());
    run.assert_status(2)
        .assert_stderr(&["pinner", "--actors 4"]);
}

#[test]
fn a_history_is_told_and_drawn() {
    let place = Place::new();
    let (svg, html) = (place.path("sync.svg"), place.path("sync.html"));
    let args = [
        "model",
        "explain",
        "gntdev/sync",
        "--svg",
        svg.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ];
    let run = said(place.command(&args).output().unwrap());
    run.assert_status(0);
    for part in [
        "qubes-issues#7481",
        "mapper",
        "pinner 2",
        "✗",
        "The cycle: mapper → pinner 2 → mapper.",
    ] {
        assert!(run.stdout.contains(part), "no {part} in {}", run.stdout);
    }
    assert!(
        !run.stdout.contains('\u{1b}'),
        "colours where there is no terminal"
    );
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    let html = std::fs::read_to_string(html).unwrap();
    assert!(html.contains(&svg) && html.contains("The cycle"));
    let nowhere = ["model", "explain", "gntdev/sync", "--svg", "/nowhere/x.svg"];
    let run = said(place.command(&nowhere).output().unwrap());
    run.assert_status(2).assert_stderr(&["/nowhere/x.svg"]);
}

/// Ends with the test, whatever becomes of it.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_explorer_serves_the_model() {
    let place = Place::new();
    // A free port: ours until the explorer takes it over.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let args = ["model", "explore", "gntdev/sync", "--listen", &address];
    let run = said(place.command(&args).output().unwrap());
    run.assert_status(2).assert_stderr(&[&address, "--listen"]);
    drop(held);
    // A port of its own choice: one that was free a moment ago may be anybody's now.
    let args = ["model", "explore", "gntdev/sync", "--listen", "127.0.0.1:0"];
    let mut command = place.command(&args);
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let said = BufReader::new(child.0.stdout.take().unwrap());
    let address = said.lines().find_map(|line| {
        let line = line.unwrap();
        let (_, rest) = line.split_once("http://")?;
        Some(rest.split_once('/')?.0.to_owned())
    });
    let address = address.unwrap();
    let mut get = |path: &str| {
        let began = Instant::now();
        let mut stream = loop {
            match TcpStream::connect(&address) {
                // Who connects to a port of the ephemeral range to which nobody listens may get that
                // very port, and is connected to himself.
                Ok(own) if own.local_addr().ok() == own.peer_addr().ok() => {}
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = child.0.try_wait().unwrap();
                    assert!(
                        ended.is_none() && began.elapsed() < Duration::from_secs(60),
                        "{error}"
                    );
                    std::thread::yield_now();
                }
            }
        };
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let page = get("/");
    assert!(page.contains("200 OK") && page.contains("<html"), "{page}");
    let states = get("/.states");
    assert!(
        states.contains("fingerprint") && states.contains("entries"),
        "{states}"
    );
    // From the first state, by the number of the move.
    let steps = get("/.states/0");
    assert!(
        steps.contains("mapper takes mmap_lock for writing"),
        "{steps}"
    );
}
