//! A back end that changes the disk's size while it serves.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{DISK_BYTES, PATIENCE, Stage};
use libgnt::proto::blkif::Status;
use pv_frontend::{Disk, FrontConfig, FrontError, FrontEvent, FrontEventKind, Io, IoError};
use std::sync::mpsc::{Receiver, channel};

const ALL: u64 = DISK_BYTES as u64 / 512;
const HALF: u64 = ALL / 2;

fn open(mut config: FrontConfig) -> (Disk, Receiver<FrontEventKind>) {
    let (tell, events) = channel();
    let observer = move |event: FrontEvent| drop(tell.send(event.kind));
    config.observer = Some(Box::new(observer));
    let disk = Disk::open(config).expect("open");
    (disk, events)
}

/// The next resize: from, to.
fn resized(events: &Receiver<FrontEventKind>) -> (u64, u64) {
    loop {
        if let FrontEventKind::Resized { from, to } =
            events.recv_timeout(PATIENCE).expect("a resize")
        {
            return (from, to);
        }
    }
}

fn assert_past_the_end(result: Result<(), FrontError>, size: u64) {
    match result {
        Err(FrontError::Io(IoError::OutOfRange { sectors, .. })) if sectors == size => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_that_grows_is_used_to_its_new_end() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.sectors = HALF.to_string();
        back.connect();
        back.serve(1);
        back.resize(&ALL.to_string());
        back.serve_until_closed();
    });
    let (disk, events) = open(stage.config());
    assert_past_the_end(disk.write_at(HALF * 512, &[1; 512]), HALF);
    disk.write_at((HALF - 1) * 512, &[1; 512])
        .expect("the last");
    assert_eq!(resized(&events), (HALF, ALL));
    assert_eq!(disk.info().expect("info").sectors, ALL);
    disk.write_at((ALL - 1) * 512, &[2; 512])
        .expect("the new last");
    assert_past_the_end(disk.write_at(ALL * 512, &[1; 512]), ALL);
    disk.close().expect("close");
    back.join().expect("back end");
    assert_eq!(stage.image.lock().unwrap()[DISK_BYTES - 512..], [2; 512]);
}

#[test]
fn a_disk_that_shrinks_answers_what_it_has_and_gets_no_more_past_its_end() {
    let stage = Stage::new();
    let (go, gone_on) = channel();
    let back = stage.back(move |back| {
        back.connect();
        let request = back.next();
        back.resize(&HALF.to_string());
        gone_on.recv().expect("the test goes on");
        let map = back.perform_request(&request).expect("pages");
        map.unmap()
            .expect("unmap")
            .wait(PATIENCE)
            .expect("released");
        back.answer(&request, Status::Okay);
        back.serve_until_closed();
    });
    let (disk, events) = open(stage.config());
    let in_flight = disk
        .submit(Io::write((ALL - 1) * 512, vec![3; 512]))
        .expect("submit");
    assert_eq!(resized(&events), (ALL, HALF));
    assert_past_the_end(disk.write_at(HALF * 512, &[1; 512]), HALF);
    go.send(()).expect("back end");
    in_flight.wait().expect("the back end did it");
    disk.write_at((HALF - 1) * 512, &[4; 512])
        .expect("the new last");
    disk.close().expect("close");
    back.join().expect("back end");
    assert_eq!(stage.image.lock().unwrap()[DISK_BYTES - 512..], [3; 512]);
}

#[test]
fn a_size_that_is_none_changes_nothing() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve(1);
        back.resize("many");
        back.serve(1);
        back.resize(&HALF.to_string());
        back.serve_until_closed();
    });
    let (disk, events) = open(stage.config());
    for byte in 0..2 {
        disk.write_at(0, &[byte; 512]).expect("write");
    }
    assert_eq!(resized(&events), (ALL, HALF));
    disk.close().expect("close");
    back.join().expect("back end");
}
