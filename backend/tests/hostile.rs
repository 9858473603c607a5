//! The back end against a front end that lies, breaks the rules, or dies.

mod common;

use common::{DEVICE, FRONT, Front, PATIENCE, Running, Stage};
use libgnt::proto::blkif::nodes::LIVENESS;
use libgnt::proto::blkif::{Operation, Request, Segment, Status};
use libgnt::ring::layout;
use libgnt::{Access, GrantRef};
use pv_backend::disk::{Backing, Disk};
use pv_backend::{BackError, BackEventKind, Mode};
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::DeviceId;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

/// What the back end wrote under the xenstore error path.
fn error_node(stage: &Stage) -> String {
    let path = format!(
        "/local/domain/0/error/backend/vbd/{}/{DEVICE}/error",
        FRONT.0
    );
    stage
        .store
        .read_string(&path)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// The device works again for a front that keeps the rules.
fn serves_an_honest_front(stage: &Stage) {
    let mut front = Front::new(stage);
    front.state(XenbusState::Initialising);
    front.connect(stage);
    let request = front.request(Operation::Read, 77, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    stage.wait_back(XenbusState::Closed);
}

fn close(front: &Front, stage: &Stage) {
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    stage.wait_back(XenbusState::Closed);
}

#[test]
fn an_index_beyond_the_ring_closes_the_device_and_not_the_process() {
    for claim in [33, 1000, 0x8000_0000, u32::MAX] {
        let stage = Stage::new();
        let running = Running::start(&stage, |_| {});
        let front = Front::new(&stage);
        front.connect(&stage);
        front
            .ring_page
            .pages()
            .store_u32(layout::REQ_PROD, claim, Ordering::SeqCst);
        front.channel.notify().expect("notify");
        let reason = running.wait_fatal();
        assert!(reason.contains(&claim.to_string()), "{reason}");
        running.wait_closed();
        assert!(
            error_node(&stage).contains(&reason),
            "{}",
            error_node(&stage)
        );
        assert!(
            running.ledger.counts().is_empty(),
            "{:?}",
            running.ledger.snapshot()
        );
        close(&front, &stage);
        drop(front);
        serves_an_honest_front(&stage);
    }
}

#[test]
fn a_bad_request_costs_only_itself() {
    for mode in [Mode::Map, Mode::Copy, Mode::Auto] {
        let stage = Stage::new();
        let _running = Running::start(&stage, |config| config.mode = mode);
        let mut front = Front::new(&stage);
        front.set("feature-persistent", 1);
        front.connect(&stage);
        let read_only = front
            .granter
            .share(libgnt::DomId::DOM0, 1, Access::ReadOnly);
        let read_only = read_only.expect("page");
        let on = |operation, sector, gref: GrantRef| Request {
            operation,
            handle: 0,
            id: 9,
            sector,
            segments: [Segment {
                gref: gref.0,
                first_sector: 0,
                last_sector: 7,
            }]
            .into_iter()
            .collect(),
        };
        let good = front.gref(0);
        let cases = [
            (on(Operation::Read, 0, GrantRef(31_000)), Status::Error),
            (on(Operation::Write, 0, GrantRef(u32::MAX)), Status::Error),
            (on(Operation::Read, 0, read_only.grefs()[0]), Status::Error),
            (on(Operation::Read, 2048, good), Status::Error),
            (on(Operation::Read, 2041, good), Status::Error),
            (on(Operation::Write, u64::MAX, good), Status::Error),
            (on(Operation::Other(2), 0, good), Status::NotSupported),
            (on(Operation::Other(5), 0, good), Status::NotSupported),
            (on(Operation::Other(250), 0, good), Status::NotSupported),
        ];
        for (bad, status) in cases {
            let fine = front.request(Operation::Write, 9, 0, &[1]);
            front.send(&[fine, bad, fine]);
            let mut all: Vec<Status> = front.receive(3).iter().map(|r| r.status).collect();
            let place = all.iter().position(|s| *s == status);
            let place = place.unwrap_or_else(|| panic!("{mode:?} {bad:?}: {all:?}"));
            all.remove(place);
            assert_eq!(all, [Status::Okay, Status::Okay], "{mode:?} {bad:?}");
        }
    }
}

#[test]
fn a_read_only_device_refuses_writes_and_reads_go_on() {
    let stage = Stage::new();
    let _running = Running::start(&stage, |config| config.read_only = true);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let write = front.request(Operation::Write, 1, 0, &[0]);
    assert_eq!(front.one(write).status, Status::Error);
    let read = front.request(Operation::Read, 2, 0, &[0]);
    assert_eq!(front.one(read).status, Status::Okay);
}

#[test]
fn a_flush_may_name_any_sector() {
    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(1 << 20).expect("size");
    for backing in [
        Backing::Memory { bytes: 1 << 20 },
        Backing::File(image.path().into()),
    ] {
        let stage = Stage::new();
        let _running = Running::start(&stage, |config| config.backing = backing);
        let mut front = Front::new(&stage);
        front.connect(&stage);
        for sector in [2048, u64::MAX / 512 + 1, u64::MAX - 7, u64::MAX] {
            let flush = front.request(Operation::Flush, 1, sector, &[]);
            assert_eq!(front.one(flush).status, Status::Okay, "{sector}");
        }
    }
}

/// What a front sees of its right to write: `info`, and the answers to a write, a flush, a read.
fn judged(stage: &Stage, front: &mut Front) -> (u32, [Status; 3]) {
    let info = stage
        .store
        .read_parsed(&format!("{}/info", stage.back_dir()));
    let answers = [
        front.request(Operation::Write, 1, 0, &[0]),
        front.request(Operation::Flush, 2, 0, &[]),
        front.request(Operation::Read, 3, 0, &[0]),
    ]
    .map(|request| front.one(request).status);
    (info.expect("info"), answers)
}

// VDISK_READONLY, `xen/include/public/io/blkif.h`.
const MAY_READ: (u32, [Status; 3]) = (4, [Status::Error, Status::Okay, Status::Okay]);
const MAY_WRITE: (u32, [Status; 3]) = (0, [Status::Okay; 3]);

#[test]
fn the_toolstack_s_mode_is_obeyed_and_left_as_it_is() {
    for (mode, expected) in [
        (Some("r"), MAY_READ),
        (Some("r\0"), MAY_READ),
        (Some(" r\n"), MAY_READ),
        (Some(""), MAY_READ),
        (Some("tea"), MAY_READ),
        (Some("w"), MAY_WRITE),
        (Some("w\n\0\0"), MAY_WRITE),
        (None, MAY_WRITE),
    ] {
        let stage = Stage::new();
        let image = tempfile::NamedTempFile::new().expect("image");
        image.as_file().set_len(1 << 20).expect("size");
        let backing = Backing::File(image.path().into());
        let node = format!("{}/mode", stage.back_dir());
        match mode {
            Some(mode) => stage.write(&node, mode),
            None => stage.store.rm(&node).expect("rm"),
        }
        let _running = Running::start(&stage, |config| config.backing = backing.clone());
        let mut front = Front::new(&stage);
        front.connect(&stage);
        assert_eq!(judged(&stage, &mut front), expected, "{mode:?}");
        let left = stage.store.try_read(&node).expect("read");
        assert_eq!(left.as_deref(), mode.map(str::as_bytes));
        // As with --read-only, others may read the image.
        let shared = Disk::open(&backing, true).is_ok();
        assert_eq!(shared, expected == MAY_READ, "{mode:?}");
    }
}

#[test]
fn the_toolstack_s_mode_is_asked_anew_for_each_front() {
    let stage = Stage::new();
    let _running = Running::start(&stage, |_| {});
    for (mode, expected) in [("w", MAY_WRITE), ("r", MAY_READ), ("w", MAY_WRITE)] {
        stage.write(&format!("{}/mode", stage.back_dir()), mode);
        let mut front = Front::new(&stage);
        front.state(XenbusState::Initialising);
        front.connect(&stage);
        assert_eq!(judged(&stage, &mut front), expected, "{mode}");
        close(&front, &stage);
    }
}

#[test]
fn a_back_end_that_was_told_to_only_read_does_so_whatever_the_toolstack_says() {
    let stage = Stage::new();
    stage.write(&format!("{}/mode", stage.back_dir()), "w");
    let _running = Running::start(&stage, |config| config.read_only = true);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    assert_eq!(judged(&stage, &mut front), MAY_READ);
}

#[test]
fn nonsense_in_the_fronts_nodes_is_refused_with_a_reason() {
    for (node, value) in [
        ("ring-ref", "31000"),
        ("ring-ref", "tea"),
        ("event-channel", "4000"),
        ("event-channel", "0"),
        ("protocol", "powerpc64-abi"),
        (LIVENESS, "63"),
    ] {
        let stage = Stage::new();
        let running = Running::start(&stage, |_| {});
        stage.wait_back(XenbusState::InitWait);
        let front = Front::new(&stage);
        front.announce();
        front.set(node, value);
        front.state(XenbusState::Initialised);
        let reason = running.wait_fatal();
        running.wait_closed();
        assert!(
            error_node(&stage).contains(&reason),
            "{node}: {}",
            error_node(&stage)
        );
        // A ring that was mapped is on its way out.
        let mapped = running.ledger.counts().mapped_pages;
        assert_eq!(mapped, 0, "{node}: {:?}", running.ledger.snapshot());
        close(&front, &stage);
        front
            .store
            .rm(&format!("{}/{LIVENESS}", stage.front_dir()))
            .expect("rm");
        drop(front);
        serves_an_honest_front(&stage);
    }
}

#[test]
fn a_storm_of_events_and_of_states_does_not_stop_the_work() {
    let stage = Stage::new();
    let _running = Running::start(&stage, |_| {});
    let mut front = Front::new(&stage);
    front.connect(&stage);
    for id in 0..200 {
        for _ in 0..20 {
            front.channel.notify().expect("notify");
        }
        front.state(XenbusState::Connected);
        let request = front.request(Operation::Read, id, 0, &[0]);
        assert_eq!(front.one(request).status, Status::Okay);
    }
}

#[test]
fn a_domain_that_is_destroyed_in_mid_request_leaves_nothing() {
    let stage = Stage::new();
    let running = Running::start(&stage, |config| config.mode = Mode::Map);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let requests: Vec<Request> = (0..32)
        .map(|id| front.request(Operation::Read, id, 0, &[id as usize]))
        .collect();
    front.send(&requests);
    stage.dom0.destroy_domain(FRONT).expect("destroy");
    running.wait("front gone", |e| {
        matches!(e, BackEventKind::FrontGone { .. }).then_some(())
    });
    running.wait_closed();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !running.ledger.counts().is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            running.ledger.snapshot()
        );
        running.wait("released", |e| {
            matches!(e, BackEventKind::Released { .. }).then_some(())
        });
    }
}

/// A process of its own, for the next test: connects, leaves requests on the ring, and waits to
/// be killed. Does nothing unless that test calls it.
#[test]
fn child_front() {
    let Ok(dir) = std::env::var("PV_BACKEND_TEST_DIR") else {
        return;
    };
    common::child_front(std::path::Path::new(&dir));
    std::io::stdout().write_all(b"\nready\n").expect("stdout");
    std::io::stdout().flush().expect("stdout");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_front_that_is_killed_in_a_living_domain_is_noticed_by_its_byte() {
    let stage = Stage::new();
    let running = Running::start(&stage, |_| {});
    let mut child = Command::new(std::env::current_exe().expect("path"))
        .args(["--exact", "child_front", "--nocapture"])
        .env("PV_BACKEND_TEST_DIR", stage.dir())
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "ready");
    assert!(ready, "the child front did not connect");
    running.wait_connected();
    child.kill().expect("kill");
    child.wait().expect("wait");
    let how = running.wait("front gone", |e| match e {
        BackEventKind::FrontGone { how } => Some(how.clone()),
        _ => None,
    });
    assert!(how.contains("liveness"), "{how}");
    running.wait_closed();
    // The next front has no such byte.
    stage
        .store
        .rm(&format!("{}/{LIVENESS}", stage.front_dir()))
        .expect("rm");
    serves_an_honest_front(&stage);
}

#[test]
fn a_second_back_end_for_the_device_or_the_image_is_refused() {
    let stage = Stage::new();
    let _first = Running::start(&stage, |_| {});
    let second = Running::try_start(&stage, |_| {});
    assert!(matches!(second, Err(BackError::Claim(_))), "{second:?}");

    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(4096).expect("size");
    let other = Stage::new();
    let path = image.path().to_owned();
    let _writer = Running::start(&other, |c| c.backing = Backing::File(path.clone()));
    let third = Stage::new();
    let reader = Running::try_start(&third, |c| c.backing = Backing::File(path));
    let error = reader.expect_err("the image is in use");
    assert!(error.to_string().contains("another back end"), "{error}");
}

#[test]
fn a_device_that_was_never_attached_is_named() {
    let stage = Stage::new();
    let error =
        Running::try_start(&stage, |c| c.device = DeviceId(51728)).expect_err("no such device");
    assert!(error.to_string().contains("51728"), "{error}");
}
