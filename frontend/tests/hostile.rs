//! Back ends that lie, say nothing, or make noise.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Back, PATIENCE, Stage, protocol_error};
use libgnt::proto::blkif::{Response, Status};
use pv_frontend::machine::WaitsFor;
use pv_frontend::{Disk, FrontError, Frontend, Io, IoError, ProtocolError};
use pv_xenstore::xenbus::XenbusState;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Opens, sends one read to a lying back end, and returns the error that it makes.
fn read_from(stage: &Stage, lie: impl FnOnce(&mut Back) + Send + 'static) -> FrontError {
    let back = stage.back(move |back| {
        back.connect();
        lie(back);
        back.follow("closed", Back::is_closed);
    });
    let disk = Disk::open(stage.config()).expect("open");
    let error = disk.read_at(0, &mut [0; 4096]).expect_err("a lie");
    disk.write_at(0, &[0; 512])
        .expect_err("the device is closed");
    assert_eq!(FrontError::to_string(&error), stage.wait_front_error());
    disk.close().expect("close");
    back.join().expect("back end");
    assert_eq!(stage.granted_pages(), 0, "grants are left");
    error
}

#[test]
fn a_response_to_nothing_closes_the_device() {
    let error = read_from(&Stage::new(), |back| {
        let request = back.next();
        let id = request.id.wrapping_add(1);
        back.respond(&Response {
            id,
            operation: 0,
            status: Status::Okay,
        });
    });
    assert!(matches!(
        protocol_error(error),
        ProtocolError::UnknownId { .. }
    ));
}

#[test]
fn the_reason_of_a_failure_is_left_in_xenstore() {
    // Whether the front end sleeps or waits busily for the answer.
    for spin in [Duration::ZERO, PATIENCE] {
        let stage = Stage::new();
        let back = stage.back(|back| {
            back.connect();
            let request = back.next();
            let id = request.id.wrapping_add(1);
            back.respond(&Response {
                id,
                ..request.response(Status::Okay)
            });
            back.follow("closed", Back::is_closed);
        });
        let mut config = stage.config();
        config.spin = spin;
        let mut front = Frontend::open(config).expect("open");
        front.submit(Io::read(0, 512), 1).expect("submit");
        let failed = loop {
            front.poll(PATIENCE).expect("poll");
            if let Some(done) = front.next_completion() {
                break done.result.expect_err("a lie");
            }
        };
        assert_eq!(stage.wait_front_error(), failed.to_string(), "{spin:?}");
        front.close().expect("close");
        back.join().expect("back end");
    }
}

#[test]
fn a_producer_index_out_of_range_closes_the_device() {
    let error = read_from(&Stage::new(), |back| {
        back.next();
        let rsp_prod = libgnt::ring::layout::RSP_PROD;
        back.ring_page()
            .store_u32(rsp_prod, 0x8000_0000, Ordering::Release);
        back.notify();
    });
    assert!(matches!(protocol_error(error), ProtocolError::Ring(_)));
}

#[test]
fn an_answer_while_the_page_is_mapped_closes_the_device() {
    let error = read_from(&Stage::new(), |back| {
        let request = back.next();
        let map = back.perform_request(&request);
        back.kept.extend(map);
        back.answer(&request, Status::Okay);
    });
    let error = protocol_error(error);
    assert!(
        matches!(error, ProtocolError::StillMapped { .. }),
        "{error}"
    );
}

#[test]
fn a_silent_back_end_is_named_with_the_request() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        let request = back.next();
        back.follow("closed", Back::is_closed);
        request
    });
    let mut config = stage.config();
    config.deadline = Duration::from_millis(300);
    let disk = Disk::open(config).expect("open");
    let error = disk.read_at(512, &mut [0; 512]).expect_err("no answer");
    let FrontError::Io(IoError::TimedOut {
        io,
        waits_for: WaitsFor::Response { id, grants },
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
    disk.close().expect("close");
    let request = back.join().expect("back end");
    assert_eq!((io.sector, id), (1, request.id));
    assert_eq!(grants, [request.segments[0].grant()]);
    assert_eq!(stage.granted_pages(), 0);
}

#[test]
fn a_storm_of_events_does_not_keep_the_answers_out() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        for _ in 0..2000 {
            back.notify();
            std::thread::yield_now();
        }
        back.serve_until_closed();
    });
    let disk = Disk::open(stage.config()).expect("open");
    for n in 0..50 {
        disk.write_at(n * 512, &[n as u8; 512]).expect("write");
    }
    disk.close().expect("close");
    back.join().expect("back end");
}

#[test]
fn nonsense_in_the_back_ends_nodes_fails_the_open_with_its_name() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.sectors = "many".into();
        // The front end refuses before it is connected.
        back.connect_to(XenbusState::Closed);
    });
    let error = Disk::open(stage.config()).map(drop).expect_err("nonsense");
    assert!(error.to_string().contains("sectors"), "{error}");
    back.join().expect("back end");
    assert_eq!(stage.granted_pages(), 0);
}
