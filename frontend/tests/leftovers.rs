//! What others left in the device's directories, and what this front end leaves there.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Back, FRONT, Stage};
use libgnt::proto::blkif::Response;
use pv_frontend::{Disk, FrontEvent, FrontEventKind};
use pv_xenstore::Client;
use pv_xenstore::xenbus::XenbusState;
use std::sync::{Arc, Mutex};

fn serve(back: &mut Back) {
    back.connect();
    back.serve_until_closed();
}

/// In the front end's directory.
fn nodes(stage: &Stage) -> Vec<String> {
    let mut nodes = stage.store.directory(&stage.front_dir()).expect("nodes");
    nodes.sort_unstable();
    nodes
}

/// What the toolstack wrote, and the state.
const TOOLSTACKS: [&str; 5] = [
    "backend",
    "backend-id",
    "device-type",
    "state",
    "virtual-device",
];

#[test]
fn what_an_earlier_front_end_left_is_taken_away() {
    let stage = Stage::new();
    let platform = stage.platform(FRONT, "earlier");
    let earlier = Client::connect(&*platform).expect("xenstore");
    for node in [
        "ring-page-order",
        "num-ring-pages",
        "ring-ref0",
        "ring-ref15",
        "multi-queue-num-queues",
        "queue-0/ring-ref",
        "queue-1/event-channel",
        "feature-large-sector-size",
    ] {
        let path = format!("{}/{node}", stage.front_dir());
        earlier.write(&path, "1").expect("write");
    }
    let back = stage.back(serve);
    let disk = Disk::open(stage.config()).expect("open");
    let ours = [
        "backend",
        "backend-id",
        "device-type",
        "event-channel",
        "feature-persistent",
        "protocol",
        "pvpair-liveness",
        "ring-ref",
        "state",
        "virtual-device",
    ];
    assert_eq!(nodes(&stage), ours);
    disk.write_at(0, &[2; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("back end");
}

#[test]
fn a_liveness_byte_that_an_earlier_back_end_announced_does_not_mislead() {
    // Whether this one leaves the reserved bytes of the header alone, or clears them.
    for clears_header in [false, true] {
        let stage = Stage::new();
        let node = format!("{}/pvpair-liveness", stage.back_dir());
        stage.store.write(&node, "63").expect("write");
        let back = stage.back(move |back| {
            (back.liveness, back.clears_header) = (false, clears_header);
            serve(back);
        });
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let observer = move |event: FrontEvent| sink.lock().unwrap().push(event.kind);
        let mut config = stage.config();
        config.observer = Some(Box::new(observer));
        let disk = Disk::open(config).expect("open");
        disk.write_at(0, &[4; 512]).expect("write");
        disk.close().expect("close");
        back.join().expect("back end");
        let gone = |event: &&FrontEventKind| matches!(event, FrontEventKind::BackendGone { .. });
        assert_eq!(events.lock().unwrap().iter().filter(gone).count(), 0);
    }
}

#[test]
fn a_closed_front_end_leaves_nothing_of_its_ring() {
    let stage = Stage::new();
    let back = stage.back(serve);
    let disk = Disk::open(stage.config()).expect("open");
    disk.write_at(0, &[1; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("back end");
    stage.wait_state(&stage.front_dir(), XenbusState::Closed);
    assert_eq!(nodes(&stage), TOOLSTACKS);
}

#[test]
fn a_failed_front_end_leaves_nothing_of_its_ring() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        let request = back.next();
        let id = request.id.wrapping_add(1);
        back.respond(&Response {
            id,
            ..request.response(libgnt::proto::blkif::Status::Okay)
        });
        back.follow("closed", Back::is_closed);
    });
    let disk = Disk::open(stage.config()).expect("open");
    disk.read_at(0, &mut [0; 512]).expect_err("a lie");
    disk.close().expect("close");
    back.join().expect("back end");
    let left = nodes(&stage);
    let ours: Vec<_> = left.iter().filter(|node| *node != "error").collect();
    assert_eq!(ours, TOOLSTACKS);
}

#[test]
fn an_open_that_finds_nonsense_leaves_nothing_of_its_ring() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.sectors = "many".into();
        back.connect_to(XenbusState::Closed);
    });
    Disk::open(stage.config()).map(drop).expect_err("nonsense");
    back.join().expect("back end");
    stage.wait_state(&stage.front_dir(), XenbusState::Closed);
    let left = nodes(&stage);
    let ours: Vec<_> = left.iter().filter(|node| *node != "error").collect();
    assert_eq!(ours, TOOLSTACKS);
}
