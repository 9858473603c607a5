use super::*;
use crate::consumer::{LendPolicy, Lender};
use libgnt::{Access, SharedPages};
use pv_harness::holder::{Export, Held, HoldError, HoldName, Holder, kernel_holder};
use pv_harness::timeline::{Record, read_file};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

const GRANT: libgnt::ForeignGrant = libgnt::ForeignGrant {
    domid: libgnt::DomId(1),
    gref: libgnt::GrantRef(9),
};

struct Running {
    control: Control,
    thread: std::thread::JoinHandle<Result<()>>,
    dir: tempfile::TempDir,
}

impl Running {
    /// Tells it to stop; it must have done all well. What it left.
    fn stop(self) -> tempfile::TempDir {
        self.control.send(&Order::Stop).unwrap();
        self.thread.join().unwrap().unwrap();
        self.dir
    }
}

fn start(hold_for: Duration) -> Running {
    start_with(hold_for, false)
}

fn start_with(hold_for: Duration, until_unmapped: bool) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (control, theirs) = Control::pair().unwrap();
    let config = ConsumerConfig {
        socket: dir.path().join("consumer.sock"),
        holder: kernel_holder(HoldName::Pipe).unwrap(),
        hold_for,
        until_unmapped,
        timeline: Timeline::create(&dir.path().join("c.jsonl"), "consumer").unwrap(),
    };
    let thread = std::thread::spawn(move || run(config, &theirs));
    assert_eq!(control.recv::<News>().unwrap(), News::Ready);
    Running {
        control,
        thread,
        dir,
    }
}

fn lender(running: &Running, policy: LendPolicy) -> Lender {
    let timeline = Timeline::create(&running.dir.path().join("l.jsonl"), "back-end").unwrap();
    let socket = running.dir.path().join("consumer.sock");
    Lender::connect(
        &socket,
        kernel_holder(HoldName::Pipe).unwrap(),
        policy,
        timeline,
    )
    .unwrap()
}

fn consumer_records(running: &Running) -> Vec<Record> {
    read_file(&running.dir.path().join("c.jsonl")).unwrap()
}

#[test]
fn lent_pages_are_held_looked_at_and_released_at_the_end() {
    let running = start(Duration::from_secs(1000));
    let mut lender = lender(
        &running,
        LendPolicy {
            at_once: 2,
            in_all: 10,
            writable_only: false,
        },
    );
    let pages = SharedPages::anonymous(2).unwrap();
    pages.fill(0, 8192, 7);
    for request in 0..5 {
        lender.offer(&pages, &[GRANT], request);
    }
    let lent = read_file(&running.dir.path().join("l.jsonl")).unwrap();
    let holds: Vec<u64> = lent
        .iter()
        .filter_map(|r| match r.event {
            Event::Lent { hold, .. } => Some(hold),
            _ => None,
        })
        .collect();
    assert_eq!(holds.len(), 2, "two at once, and none is back");
    // Closing only after both were taken: an offer that is under way is dropped with its socket.
    while lender.shared_taken() < 2 {
        std::thread::yield_now();
    }
    running.control.send(&Order::Stop).unwrap();
    drop(lender);
    let Running {
        control,
        thread,
        dir,
    } = running;
    thread.join().unwrap().unwrap();
    assert!(!dir.path().join("consumer.sock").exists());
    let records = read_file(&dir.path().join("c.jsonl")).unwrap();
    let sum = pv_harness::holder::sha256(&[7; 8192]);
    for hold in holds {
        let looks = records.iter().filter(|r| {
            r.event
                == Event::Checksum {
                    hold,
                    sha: Some(sum.clone()),
                }
        });
        assert_eq!(looks.count(), 2);
        assert!(
            records
                .iter()
                .any(|r| r.event == Event::HoldReleased { hold, error: None })
        );
    }
    drop(control);
}

#[test]
fn a_hold_ends_after_its_time_and_makes_room_for_the_next() {
    let running = start(Duration::from_millis(1));
    let mut lender = lender(
        &running,
        LendPolicy {
            at_once: 1,
            in_all: 3,
            writable_only: false,
        },
    );
    let pages = SharedPages::anonymous(1).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let released = |records: &[Record]| {
        records
            .iter()
            .filter(|r| matches!(r.event, Event::HoldReleased { .. }))
            .count()
    };
    while released(&consumer_records(&running)) < 3 {
        assert!(Instant::now() < until, "holds do not end");
        lender.offer(&pages, &[GRANT], 1);
    }
    lender.offer(&pages, &[GRANT], 1);
    drop(lender);
    let dir = running.stop();
    assert_eq!(
        released(&read_file(&dir.path().join("c.jsonl")).unwrap()),
        3
    );
}

#[test]
fn a_holder_that_needs_writable_pages_is_offered_no_others() {
    let running = start(Duration::from_secs(1000));
    let policy = LendPolicy {
        at_once: 2,
        in_all: 2,
        writable_only: true,
    };
    let mut lender = lender(&running, policy);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("granted", flags).unwrap();
    rustix::fs::ftruncate(&memfd, 4096).unwrap();
    fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
    let read_only = SharedPages::of_memfd(&memfd, 1, Access::ReadOnly).unwrap();
    assert_eq!(lender.offer(&read_only, &[GRANT], 1), None);
    let writable = SharedPages::anonymous(1).unwrap();
    assert!(lender.offer(&writable, &[GRANT], 2).is_some());
    drop(lender);
    running.stop();
}

/// As io_uring on a kernel that does not register gntdev's pages.
struct Refuses;

impl Holder for Refuses {
    fn hold(&self, _: &SharedPages, _: usize, _: usize) -> Result<Export, HoldError> {
        Err(HoldError::Call {
            kind: HoldName::Uring,
            call: "IORING_REGISTER_BUFFERS",
            errno: rustix::io::Errno::OPNOTSUPP,
        })
    }

    fn import(&self, _: Export) -> Result<Box<dyn Held>, HoldError> {
        unreachable!("nothing is exported")
    }
}

#[test]
fn a_holder_that_never_holds_says_why() {
    let running = start(Duration::from_secs(1000));
    let policy = LendPolicy {
        at_once: 1,
        in_all: 1,
        writable_only: false,
    };
    let mut good = lender(&running, policy);
    let pages = SharedPages::anonymous(1).unwrap();
    good.offer(&pages, &[GRANT], 1).unwrap();
    assert_eq!(good.failure(), None);
    let socket = running.dir.path().join("consumer.sock");
    let timeline = Timeline::none();
    let mut bad = Lender::connect(&socket, Box::new(Refuses), policy, timeline).unwrap();
    assert_eq!(bad.offer(&pages, &[GRANT], 1), None);
    assert!(bad.failure().unwrap().contains("Linux before 6.12"));
    drop((good, bad));
    running.stop();
}

#[test]
fn a_consumer_that_is_gone_is_noticed_and_costs_nothing() {
    let running = start(Duration::from_secs(1000));
    let mut lender = lender(
        &running,
        LendPolicy {
            at_once: 8,
            in_all: 100,
            writable_only: false,
        },
    );
    let pages = SharedPages::anonymous(1).unwrap();
    lender.offer(&pages, &[GRANT], 1);
    let dir = running.stop();
    lender.offer(&pages, &[GRANT], 2);
    lender.offer(&pages, &[GRANT], 3);
    drop(lender);
    let records = read_file(&dir.path().join("l.jsonl")).unwrap();
    assert!(
        records
            .iter()
            .any(|r| matches!(r.event, Event::PeerLost { .. }))
    );
}

#[test]
fn nonsense_ends_the_lender_that_speaks_it_and_not_the_consumer() {
    let running = start(Duration::from_secs(1000));
    let socket = running.dir.path().join("consumer.sock");
    let flags = SocketFlags::CLOEXEC;
    let garbage = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::connect(&garbage, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    wire::send(&garbage, &"garbage", &[]).unwrap();
    let end = wire::receive::<Answer>(&garbage).unwrap_err();
    assert!(matches!(
        end.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    ));
    let mut good = lender(
        &running,
        LendPolicy {
            at_once: 1,
            in_all: 1,
            writable_only: false,
        },
    );
    good.offer(&SharedPages::anonymous(1).unwrap(), &[GRANT], 1);
    while good.shared_taken() < 1 {
        std::thread::yield_now();
    }
    running.stop();
}

#[test]
fn a_consumer_that_waits_for_the_unmap_lets_go_only_then() {
    let running = start_with(Duration::from_millis(1), true);
    let policy = LendPolicy {
        at_once: 2,
        in_all: 2,
        writable_only: false,
    };
    let mut lender = lender(&running, policy);
    let pages = SharedPages::anonymous(1).unwrap();
    let first = lender.offer(&pages, &[GRANT], 1).unwrap();
    let second = lender.offer(&pages, &[GRANT], 2).unwrap();
    let releases = || {
        let records = consumer_records(&running).into_iter();
        records
            .filter_map(|record| match record.event {
                Event::HoldReleasing { hold } => Some(hold),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let both_wait = || {
        let records = consumer_records(&running);
        let waits = |record: &&Record| matches!(&record.event, Event::Waiting { what } if what.contains("to return"));
        records.iter().filter(waits).count() == 2
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !both_wait() {
        assert!(Instant::now() < until, "both must be due");
        std::thread::yield_now();
    }
    assert_eq!(releases(), Vec::<u64>::new(), "due long ago");
    lender.unmap_returned(second);
    while releases().is_empty() {
        assert!(Instant::now() < until, "the unmap has returned");
        std::thread::yield_now();
    }
    assert_eq!(releases(), [second]);
    // A lender that dies tells of nothing any more.
    drop(lender);
    while releases().len() < 2 {
        assert!(Instant::now() < until, "the lender is gone");
        std::thread::yield_now();
    }
    assert_eq!(releases(), [second, first]);
    running.stop();
}
