//! Single properties of the machine, and [`model`], which drives it through everything at once.

mod model;

use super::*;
use libgnt::proto::blkif::{self, Operation, Response, Status};
use std::time::Duration;

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

/// The machine, with a key for each I/O and what came of each input.
struct Bench {
    machine: FrontMachine,
    now: Now,
    keys: usize,
    out: Vec<Action>,
}

impl Bench {
    fn new(limits: Limits, sabotage: FrontSabotage) -> Self {
        Bench {
            machine: FrontMachine::sabotaged(limits, sabotage),
            now: Duration::ZERO,
            keys: 0,
            out: Vec::new(),
        }
    }

    fn step(&mut self, input: Input) {
        self.machine.step(self.now, input, &mut self.out);
    }

    fn submit(&mut self, request: IoRequest) -> Result<IoKey, IoError> {
        let io = IoKey(self.keys);
        self.step(Input::Submit { io, request });
        match self.out.last() {
            Some(Action::Refuse { io: refused, error }) if *refused == io => {
                let error = error.clone();
                self.out.pop();
                Err(error)
            }
            _ => {
                self.keys += 1;
                Ok(io)
            }
        }
    }

    fn connect(&mut self, disk: DiskInfo, pages: u32) {
        self.step(Input::Connected(Box::new(session(disk, pages))));
    }

    fn respond(&mut self, response: Response) {
        self.step(Input::Response {
            response,
            still_mapped: None,
        });
    }
}

fn bench(pages: u32) -> Bench {
    let limits = Limits {
        queue: 64,
        deadline: DEADLINE,
    };
    let mut bench = Bench::new(limits, FrontSabotage::None);
    bench.connect(small_disk(), pages);
    bench
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
    let mut bench = bench(64);
    bench.submit(IoRequest::write(10, 200)).expect("fits");
    bench.step(Input::Push);
    let requests = pushed(&bench.out);
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
    let mut bench = bench(2);
    bench.submit(IoRequest::read(0, 17)).expect("fits");
    bench.step(Input::Push);
    assert_eq!(pushed(&bench.out)[0].data_len(), 16 * 512);
    assert_eq!(pushed(&bench.out).len(), 1, "the pool is empty now");
}

#[test]
fn submit_checks_against_the_disk() {
    let mut bench = bench(8);
    let mut refused = |request| bench.submit(request).expect_err("bad I/O");
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
    let limits = Limits {
        queue: 1,
        deadline: DEADLINE,
    };
    let mut bench = Bench::new(limits, FrontSabotage::None);
    bench.connect(disk, 8);
    let mut refused = |request| bench.submit(request).expect_err("bad I/O");
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
fn a_full_queue_and_a_key_in_use_are_refused() {
    let limits = Limits {
        queue: 2,
        deadline: DEADLINE,
    };
    let mut bench = Bench::new(limits, FrontSabotage::None);
    for key in [0, 0, 2, 1, 1] {
        let io = IoKey(key);
        let request = IoRequest::read(0, 1);
        bench.step(Input::Submit { io, request });
    }
    let refused = |key| Action::Refuse {
        io: IoKey(key),
        error: IoError::QueueFull { limit: 2 },
    };
    assert_eq!(bench.out, [refused(0), refused(2), refused(1)]);
    assert_eq!(bench.machine.pending(), 2);
    bench.out.clear();
    bench.step(Input::GiveUp(DeviceError::Closed));
    assert_eq!(bench.out.len(), 2, "each completes once: {:?}", bench.out);
}

#[test]
fn a_silent_back_end_is_reported_with_the_request_and_its_pages() {
    let mut bench = bench(8);
    let io = bench.submit(IoRequest::read(7, 9)).expect("fits");
    bench.step(Input::Push);
    let request = pushed(&bench.out)[0];
    assert_eq!(bench.machine.next_deadline(), Some(DEADLINE));
    bench.out.clear();
    bench.now = DEADLINE;
    bench.step(Input::Tick);
    let [
        Action::Complete {
            io: done,
            result: Err(error),
        },
    ] = &bench.out[..]
    else {
        panic!("{:?}", bench.out);
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
    bench.out.clear();
    let late = Response {
        id: request.id,
        operation: 0,
        status: Status::Okay,
    };
    bench.respond(late);
    assert!(
        matches!(bench.out[..], [Action::Released { .. }]),
        "{:?}",
        bench.out
    );
}

#[test]
fn a_disk_that_comes_back_smaller_refuses_what_no_longer_fits() {
    let mut bench = bench(8);
    bench.submit(IoRequest::write(900, 8)).expect("fits");
    bench.step(Input::Push);
    bench.step(Input::BackGone);
    bench.out.clear();
    let disk = DiskInfo {
        sectors: 100,
        ..small_disk()
    };
    bench.connect(disk, 8);
    let [
        Action::Complete {
            result: Err(IoError::OutOfRange { .. }),
            ..
        },
    ] = &bench.out[..]
    else {
        panic!("{:?}", bench.out);
    };
    bench.out.clear();
    bench.step(Input::Push);
    assert!(bench.out.is_empty());
}

/// Of three writes near the end of a disk that becomes smaller, one is on the ring, one is partly
/// there, and one is not. How they end when the back end does what it has.
fn shrink(sabotage: FrontSabotage) -> Vec<(IoKey, Result<(), IoError>)> {
    let limits = Limits {
        queue: 64,
        deadline: DEADLINE,
    };
    let mut bench = Bench::new(limits, sabotage);
    bench.connect(small_disk(), 12);
    for sectors in [8, 96, 8] {
        let write = IoRequest::write(900, sectors);
        bench.submit(write).expect("fits");
    }
    bench.step(Input::Push);
    let requests = pushed(&bench.out);
    assert_eq!(requests.len(), 2, "{:?}", bench.out);
    bench.step(Input::Resized { sectors: 100 });
    bench.step(Input::Push);
    for request in requests {
        bench.respond(request.response(Status::Okay));
        bench.step(Input::Push);
    }
    assert_eq!(
        pushed(&bench.out).len(),
        2,
        "nothing more goes past the end"
    );
    assert_eq!(bench.machine.pending(), 0);
    bench
        .out
        .retain(|action| matches!(action, Action::Complete { .. }));
    let complete = |action| match action {
        Action::Complete { io, result } => (io, result),
        other => panic!("{other:?}"),
    };
    bench.out.into_iter().map(complete).collect()
}

#[test]
fn a_smaller_disk_fails_what_is_not_on_the_ring_and_nothing_else() {
    let ends = shrink(FrontSabotage::None);
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
    let harmed = shrink(FrontSabotage::RefuseOnTheRing);
    assert!(
        harmed.iter().all(|(_, result)| result.is_err()),
        "{harmed:?}"
    );
}

#[test]
fn a_flush_that_is_not_supported_is_remembered() {
    let mut bench = bench(8);
    bench.submit(IoRequest::flush()).expect("announced");
    bench.step(Input::Push);
    let id = pushed(&bench.out)[0].id;
    bench.out.clear();
    let no = Response {
        id,
        operation: 3,
        status: Status::NotSupported,
    };
    bench.respond(no);
    let complete = bench.out.last().expect("a completion");
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
        bench.submit(IoRequest::flush()),
        Err(IoError::FlushNotSupported)
    );
}
