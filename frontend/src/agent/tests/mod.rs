//! Single properties of the agent, and [`model`], which drives it through everything at once.

mod model;

use super::*;
use libgnt::proto::blkif::{Operation, Response, Status};

const DEADLINE: Duration = Duration::from_secs(5);

fn session(disk: DiskInfo, pages: u32) -> Session {
    Session {
        disk,
        ring_slots: 32,
        handle: 51712,
        read_pages: (100..100 + pages).map(GrantRef).collect(),
        write_pages: None,
    }
}

fn small_disk() -> DiskInfo {
    DiskInfo {
        sectors: 1000,
        sector_size: 512,
        physical_sector_size: 512,
        read_only: false,
        flush: true,
        persistent: true,
    }
}

fn agent(pages: u32) -> Agent {
    let mut agent = Agent::new(Limits {
        queue: 64,
        deadline: DEADLINE,
    });
    agent.connected(
        Duration::ZERO,
        session(small_disk(), pages),
        &mut Vec::new(),
    );
    agent
}

fn pushed(out: &[Action]) -> Vec<blkif::Request> {
    let request = |action: &Action| match action {
        Action::Push { request, .. } => Some(*request),
        _ => None,
    };
    out.iter().filter_map(request).collect()
}

#[test]
fn a_large_io_is_split_into_requests_of_eleven_pages() {
    let mut agent = agent(64);
    agent
        .submit(Duration::ZERO, IoRequest::write(10, 200))
        .expect("fits");
    let mut out = Vec::new();
    agent.pump(&mut out);
    let requests = pushed(&out);
    let lengths: Vec<_> = requests
        .iter()
        .map(|r| (r.sector, r.data_len() / 512))
        .collect();
    assert_eq!(lengths, [(10, 88), (98, 88), (186, 24)]);
    assert!(
        requests
            .iter()
            .all(|r| r.operation == Operation::Write && r.handle == 51712)
    );
}

#[test]
fn a_pool_smaller_than_a_request_makes_smaller_requests() {
    let mut agent = agent(2);
    agent
        .submit(Duration::ZERO, IoRequest::read(0, 17))
        .expect("fits");
    let mut out = Vec::new();
    agent.pump(&mut out);
    assert_eq!(pushed(&out)[0].data_len(), 16 * 512);
    assert_eq!(pushed(&out).len(), 1, "the pool is empty now");
}

#[test]
fn submit_checks_against_the_disk() {
    let mut agent = agent(8);
    let mut refused = |request| agent.submit(Duration::ZERO, request).expect_err("bad I/O");
    assert!(matches!(
        refused(IoRequest::read(999, 2)),
        IoError::OutOfRange { .. }
    ));
    assert!(matches!(
        refused(IoRequest::read(u64::MAX, 2)),
        IoError::OutOfRange { .. }
    ));
    assert!(matches!(refused(IoRequest::read(0, 0)), IoError::Empty));
    let disk = DiskInfo {
        sector_size: 4096,
        read_only: true,
        flush: false,
        ..small_disk()
    };
    let mut agent = Agent::new(Limits {
        queue: 1,
        deadline: DEADLINE,
    });
    agent.connected(Duration::ZERO, session(disk, 8), &mut Vec::new());
    let mut refused = |request| agent.submit(Duration::ZERO, request).expect_err("bad I/O");
    assert!(matches!(
        refused(IoRequest::read(4, 8)),
        IoError::Misaligned { .. }
    ));
    assert!(matches!(refused(IoRequest::write(8, 8)), IoError::ReadOnly));
    assert!(matches!(
        refused(IoRequest::flush()),
        IoError::FlushNotSupported
    ));
}

#[test]
fn a_silent_back_end_is_reported_with_the_request_and_its_pages() {
    let mut agent = agent(8);
    let io = agent
        .submit(Duration::ZERO, IoRequest::read(7, 9))
        .expect("fits");
    let mut out = Vec::new();
    agent.pump(&mut out);
    let request = pushed(&out)[0];
    assert_eq!(agent.next_deadline(), Some(DEADLINE));
    out.clear();
    agent.tick(DEADLINE, &mut out);
    let [
        Action::Complete {
            io: done,
            result: Err(error),
        },
    ] = &out[..]
    else {
        panic!("{out:?}");
    };
    assert_eq!(*done, io);
    let text = error.to_string();
    assert!(text.contains("read of 9 sectors at sector 7"), "{text}");
    assert!(
        text.contains(&format!("request {:#x}", request.id)),
        "{text}"
    );
    assert!(text.contains("2 pages, grant 0x64 to grant 0x65"), "{text}");
    // The late answer frees the pages and completes nothing.
    out.clear();
    let late = Response {
        id: request.id,
        operation: 0,
        status: Status::Okay,
    };
    agent.response(&late, None, &mut out);
    assert!(matches!(out[..], [Action::Released { .. }]), "{out:?}");
}

#[test]
fn a_disk_that_comes_back_smaller_refuses_what_no_longer_fits() {
    let mut agent = agent(8);
    agent
        .submit(Duration::ZERO, IoRequest::write(900, 8))
        .expect("fits");
    let mut out = Vec::new();
    agent.pump(&mut out);
    agent.backend_gone(&mut out);
    out.clear();
    let disk = DiskInfo {
        sectors: 100,
        ..small_disk()
    };
    agent.connected(Duration::ZERO, session(disk, 8), &mut out);
    let [
        Action::Complete {
            result: Err(IoError::OutOfRange { .. }),
            ..
        },
    ] = &out[..]
    else {
        panic!("{out:?}");
    };
    out.clear();
    agent.pump(&mut out);
    assert!(out.is_empty());
}

/// Of three writes near the end of a disk that becomes smaller, one is on the ring, one is partly
/// there, and one is not. How they end when the back end does what it has.
fn shrink(sabotage: Sabotage) -> Vec<(IoKey, Result<(), IoError>)> {
    let mut agent = Agent::sabotaged(
        Limits {
            queue: 64,
            deadline: DEADLINE,
        },
        sabotage,
    );
    let mut out = Vec::new();
    agent.connected(Duration::ZERO, session(small_disk(), 12), &mut out);
    for sectors in [8, 96, 8] {
        let write = IoRequest::write(900, sectors);
        agent.submit(Duration::ZERO, write).expect("fits");
    }
    agent.pump(&mut out);
    let requests = pushed(&out);
    assert_eq!(requests.len(), 2, "{out:?}");
    agent.resized(100, &mut out);
    agent.pump(&mut out);
    for request in requests {
        agent.response(&request.response(Status::Okay), None, &mut out);
        agent.pump(&mut out);
    }
    assert_eq!(pushed(&out).len(), 2, "nothing more goes past the end");
    assert_eq!(agent.pending(), 0);
    out.retain(|action| matches!(action, Action::Complete { .. }));
    let complete = |action| match action {
        Action::Complete { io, result } => (io, result),
        other => panic!("{other:?}"),
    };
    out.into_iter().map(complete).collect()
}

#[test]
fn a_smaller_disk_fails_what_is_not_on_the_ring_and_nothing_else() {
    let ends = shrink(Sabotage::None);
    let [
        (third, Err(none_of_it)),
        (first, Ok(())),
        (second, Err(a_part_of_it)),
    ] = &ends[..]
    else {
        panic!("{ends:?}");
    };
    assert_eq!((first.0, second.0, third.0), (0, 1, 2));
    for error in [none_of_it, a_part_of_it] {
        assert!(matches!(error, IoError::OutOfRange { sectors: 100, .. }));
    }
    let harmed = shrink(Sabotage::RefuseOnTheRing);
    assert!(
        harmed.iter().all(|(_, result)| result.is_err()),
        "{harmed:?}"
    );
}

#[test]
fn a_flush_that_is_not_supported_is_remembered() {
    let mut agent = agent(8);
    agent
        .submit(Duration::ZERO, IoRequest::flush())
        .expect("announced");
    let mut out = Vec::new();
    agent.pump(&mut out);
    let id = pushed(&out)[0].id;
    out.clear();
    let no = Response {
        id,
        operation: 3,
        status: Status::NotSupported,
    };
    agent.response(&no, None, &mut out);
    let complete = out.last().expect("a completion");
    assert!(
        matches!(
            complete,
            Action::Complete {
                result: Err(IoError::FlushNotSupported),
                ..
            }
        ),
        "{complete:?}"
    );
    assert_eq!(
        agent.submit(Duration::ZERO, IoRequest::flush()),
        Err(IoError::FlushNotSupported)
    );
}
