//! What others left in the device's directories, and what this front end leaves there.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Back, FRONT, World};
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
fn nodes(world: &World) -> Vec<String> {
    let mut nodes = world.store.directory(&world.front_dir()).expect("nodes");
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
    let world = World::new();
    let platform = world.platform(FRONT, "earlier");
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
        let path = format!("{}/{node}", world.front_dir());
        earlier.write(&path, "1").expect("write");
    }
    let back = world.back(serve);
    let disk = Disk::open(world.config()).expect("open");
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
    assert_eq!(nodes(&world), ours);
    disk.write_at(0, &[2; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("back end");
}

#[test]
fn a_liveness_byte_that_an_earlier_back_end_announced_does_not_mislead() {
    // Whether this one leaves the reserved bytes of the header alone, or clears them.
    for clears_header in [false, true] {
        let world = World::new();
        let node = format!("{}/pvpair-liveness", world.back_dir());
        world.store.write(&node, "63").expect("write");
        let back = world.back(move |back| {
            (back.liveness, back.clears_header) = (false, clears_header);
            serve(back);
        });
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let observer = move |event: FrontEvent| sink.lock().unwrap().push(event.what);
        let disk = Disk::open_observed(world.config(), Some(Box::new(observer))).expect("open");
        disk.write_at(0, &[4; 512]).expect("write");
        disk.close().expect("close");
        back.join().expect("back end");
        let gone = |event: &&FrontEventKind| matches!(event, FrontEventKind::BackendGone { .. });
        assert_eq!(events.lock().unwrap().iter().filter(gone).count(), 0);
    }
}

#[test]
fn a_closed_front_end_leaves_nothing_of_its_ring() {
    let world = World::new();
    let back = world.back(serve);
    let disk = Disk::open(world.config()).expect("open");
    disk.write_at(0, &[1; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("back end");
    world.wait_state(&world.front_dir(), XenbusState::Closed);
    assert_eq!(nodes(&world), TOOLSTACKS);
}

#[test]
fn a_failed_front_end_leaves_nothing_of_its_ring() {
    let world = World::new();
    let back = world.back(|back| {
        back.connect();
        let request = back.next();
        let id = request.id.wrapping_add(1);
        back.respond(&Response {
            id,
            ..request.response(libgnt::proto::blkif::Status::Okay)
        });
        back.follow("closed", Back::is_closed);
    });
    let disk = Disk::open(world.config()).expect("open");
    disk.read_at(0, &mut [0; 512]).expect_err("a lie");
    disk.close().expect("close");
    back.join().expect("back end");
    let left = nodes(&world);
    let ours: Vec<_> = left.iter().filter(|node| *node != "error").collect();
    assert_eq!(ours, TOOLSTACKS);
}

#[test]
fn an_open_that_finds_nonsense_leaves_nothing_of_its_ring() {
    let world = World::new();
    let back = world.back(|back| {
        back.sectors = "many".into();
        back.connect_to(XenbusState::Closed);
    });
    Disk::open(world.config()).map(drop).expect_err("nonsense");
    back.join().expect("back end");
    world.wait_state(&world.front_dir(), XenbusState::Closed);
    let left = nodes(&world);
    let ours: Vec<_> = left.iter().filter(|node| *node != "error").collect();
    assert_eq!(ours, TOOLSTACKS);
}
