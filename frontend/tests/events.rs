//! Events that are lost.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::overflow::Overflowing;
use common::{FRONT, PATIENCE, Stage};
use pv_frontend::Disk;
use std::time::{Duration, Instant};

#[test]
fn a_queue_of_events_that_overflows_costs_no_answer() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let (platform, overflow) = Overflowing::around(stage.platform(FRONT, "front"));
    let mut config = stage.config();
    config.platform = platform;
    // Each answer is heard of through an event.
    config.spin = Duration::ZERO;
    let disk = Disk::open(config).expect("open");
    let deadline = Instant::now() + PATIENCE;
    let write = |byte: u32| {
        disk.write_at(0, &[byte as u8; 512]).expect("write");
        assert!(Instant::now() < deadline, "no more events come");
    };
    let events = || disk.counters().expect("counters").event_reads;
    for round in 1..4 {
        overflow.at_the_next_event();
        while overflow.resets() < round {
            write(round);
        }
        // The port is not left masked: more come.
        let before = events();
        while events() == before {
            write(round);
        }
    }
    disk.close().expect("close");
    back.join().expect("back end");
}
