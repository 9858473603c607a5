//! Back ends that come and go under a front end that knows nothing of it: Linux' marks its disk dead
//! when it is told to close.

mod common;

use common::program::Serving;
use common::{DATA_PAGES, FRONT, Front, Stage};
use libgnt::proto::blkif::{Operation, Request, Status};
use libgnt::{DomId, PAGE_SIZE};
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::BlockDevice;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn image(stage: &Stage) -> PathBuf {
    let path = stage.dir().join("image");
    let file = std::fs::File::create(&path).expect("image");
    file.set_len(1 << 20).expect("size");
    path
}

fn serve(stage: &Stage, image: &Path, more: &[&str]) -> Serving {
    let mut args = vec!["--image", image.to_str().expect("path")];
    args.extend(more);
    Serving::start(stage, &args)
}

fn state_is_still_connected(stage: &Stage) {
    let state = stage
        .store
        .read_string(&format!("{}/state", stage.back_dir()))
        .expect("state");
    assert_eq!(state, XenbusState::Connected.as_str());
}

fn error_of(stage: &Stage) -> Option<String> {
    pv_xenstore::toolstack::read_error(&stage.store, &stage.back_dir()).expect("error node")
}

/// Thirty-two writes of a page each, with this round's bytes.
fn writes(front: &Front, round: u64) -> Vec<Request> {
    (0..32)
        .map(|n| {
            let page = n as usize;
            let byte = (round * 37 + n + 1) as u8;
            front.pages().fill(page * PAGE_SIZE, PAGE_SIZE, byte);
            front.request(Operation::Write, round * 100 + n, n * 8, &[page])
        })
        .collect()
}

fn written(image: &Path, round: u64) {
    let bytes = std::fs::read(image).expect("image");
    for n in 0..32 {
        let expected = (round * 37 + n + 1) as u8;
        let sector = &bytes[n as usize * PAGE_SIZE..][..PAGE_SIZE];
        assert!(
            sector.iter().all(|byte| *byte == expected),
            "round {round}, page {n}"
        );
    }
}

#[test]
fn a_killed_back_end_is_replaced_under_a_front_that_stays_connected() {
    for mode in ["map", "copy", "auto"] {
        let stage = Stage::new();
        let image = image(&stage);
        let mut back = serve(&stage, &image, &["--mode", mode]);
        let mut front = Front::new(&stage);
        front.set("feature-persistent", 1);
        front.connect(&stage);
        let mut was_killed_in_mid_work = 0;
        for round in 0..8 {
            let requests = writes(&front, round);
            front.send(&requests);
            // Killed before, while, or after it answers.
            let mut answers = front.receive(round as usize * 4);
            back.kill();
            was_killed_in_mid_work += usize::from(answers.len() < 32);
            state_is_still_connected(&stage);
            back = serve(&stage, &image, &["--mode", mode]);
            answers.extend(front.receive(32 - answers.len()));
            let ids: BTreeSet<u64> = answers.iter().map(|answer| answer.id).collect();
            let asked = requests.iter().map(|request| request.id).collect();
            assert_eq!(ids, asked, "{mode}, round {round}");
            assert_eq!(answers.len(), 32, "{mode}, round {round}");
            assert!(
                answers.iter().all(|a| a.status == Status::Okay),
                "{answers:?}"
            );
            written(&image, round);
            state_is_still_connected(&stage);
        }
        assert!(was_killed_in_mid_work > 0, "{mode}: it was idle each time");
        // Nothing more comes: a flush is the next thing answered.
        let flush = front.request(Operation::Flush, 5000, 0, &[]);
        assert_eq!(front.one(flush).id, 5000);
        assert_eq!(error_of(&stage), None);
    }
}

/// The kernel says once that a flush failed: the process that heard it may be gone.
#[test]
fn a_failed_flush_is_known_to_the_next_back_end_until_the_device_is_attached_anew() {
    use std::os::unix::fs::FileExt;
    let stage = Stage::new();
    let image = image(&stage);
    let back = serve(&stage, &image, &[]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let write = front.request(Operation::Write, 1, 0, &[0]);
    assert_eq!(front.one(write).status, Status::Okay);
    back.kill();
    // As one leaves it whose flush had failed.
    let record = stage.dir().join("run-0/pv-backend/vbd-1-51712");
    let record = std::fs::File::options().write(true).open(record);
    let noted = record.expect("record").write_all_at(&[1], 28);
    noted.expect("write");
    let back = serve(&stage, &image, &[]);
    let flush = front.request(Operation::Flush, 2, 0, &[]);
    let read = front.request(Operation::Read, 3, 0, &[0]);
    assert_eq!(front.one(write).status, Status::Error);
    assert_eq!(front.one(flush).status, Status::Error);
    assert_eq!(front.one(read).status, Status::Okay, "reads go on");
    back.kill();
    drop(front);
    BlockDevice::new(FRONT, DomId::DOM0, common::DEVICE, "")
        .remove(&stage.store, std::time::Duration::ZERO)
        .expect("detach");
    stage.attach();
    let _back = serve(&stage, &image, &[]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    assert_eq!(
        front
            .one(front.request(Operation::Write, 1, 0, &[0]))
            .status,
        Status::Okay
    );
}

#[test]
fn an_orderly_hand_over_leaves_the_front_in_service() {
    let stage = Stage::new();
    let image = image(&stage);
    let mut back = serve(&stage, &image, &["--hand-over"]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let requests = writes(&front, 1);
    front.send(&requests);
    back.signal(Signal::TERM);
    let (status, log) = back.end();
    assert_eq!(status, 0, "{log}");
    assert!(log.contains("handed over"), "{log}");
    state_is_still_connected(&stage);
    let _back = serve(&stage, &image, &[]);
    assert_eq!(front.receive(32).len(), 32);
    written(&image, 1);
    state_is_still_connected(&stage);
}

#[test]
fn without_a_record_a_quiet_ring_is_taken_over_and_a_busy_one_is_closed_with_the_reason() {
    let stage = Stage::new();
    let image = image(&stage);
    let back = serve(&stage, &image, &[]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    back.kill();
    front.wait_back_byte(0);
    let elsewhere = stage.dir().join("elsewhere");
    let elsewhere = ["--run-dir", elsewhere.to_str().expect("path")];
    let back = serve(&stage, &image, &elsewhere);
    front.wait_back_byte(1);
    assert_eq!(front.one(request).status, Status::Okay);
    back.kill();
    state_is_still_connected(&stage);
    // Asked of nobody.
    front.send(&[request]);
    let _back = serve(
        &stage,
        &image,
        &[
            "--run-dir",
            stage.dir().join("third").to_str().expect("path"),
        ],
    );
    stage.wait_back(XenbusState::Closed);
    let error = error_of(&stage).expect("the reason");
    assert!(error.contains("no record of which"), "{error}");
}

#[test]
fn a_disk_in_memory_is_not_taken_for_the_one_that_is_gone() {
    let stage = Stage::new();
    let back = Serving::start(&stage, &["--memory", "1M"]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let request = front.request(Operation::Write, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    back.kill();
    let _back = Serving::start(&stage, &["--memory", "1M"]);
    stage.wait_back(XenbusState::Closed);
    let error = error_of(&stage).expect("the reason");
    assert!(error.contains("in the memory"), "{error}");
}

#[test]
fn a_second_back_end_with_claims_of_its_own_does_not_disturb_the_first() {
    let stage = Stage::new();
    let image = image(&stage);
    let _back = serve(&stage, &image, &["--read-only"]);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    let elsewhere = stage.dir().join("elsewhere");
    let more = [
        "--read-only",
        "--run-dir",
        elsewhere.to_str().expect("path"),
    ];
    let (status, log) = serve(&stage, &image, &more).end();
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("another back end serves it"), "{log}");
    state_is_still_connected(&stage);
    assert_eq!(error_of(&stage), None);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
}

#[test]
fn a_front_that_goes_straight_to_connected_is_served() {
    for in_advance in [false, true] {
        let stage = Stage::new();
        let image = image(&stage);
        let mut front = Front::new(&stage);
        let start = || serve(&stage, &image, &[]);
        let mut back = None;
        if !in_advance {
            back = Some(start());
            stage.wait_back(XenbusState::InitWait);
        }
        front.announce();
        front.state(XenbusState::Connected);
        let back = back.unwrap_or_else(start);
        stage.wait_back(XenbusState::Connected);
        let requests = writes(&front, 3);
        front.send(&requests);
        assert_eq!(front.receive(32).len(), 32);
        back.kill();
        let _back = start();
        let flush = front.request(Operation::Flush, 5000, 0, &[]);
        assert_eq!(front.one(flush).status, Status::Okay);
        written(&image, 3);
    }
}

#[test]
fn a_node_of_a_front_end_before_this_one_does_not_make_it_dead() {
    let stage = Stage::new();
    let image = image(&stage);
    let _back = serve(&stage, &image, &[]);
    let mut front = Front::new(&stage);
    // Its byte was never set, as in the ring of a Linux front end.
    front.set(libgnt::proto::blkif::nodes::LIVENESS, 62);
    front.connect(&stage);
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    assert_eq!(error_of(&stage), None);
}

#[test]
fn dom0_is_served_by_a_driver_domain() {
    let stage = Stage::new();
    let driver = DomId(2);
    stage.dom0.create_domain(driver, "driver").expect("domain");
    let device = BlockDevice::new(DomId::DOM0, driver, common::DEVICE, "");
    let paths = device.create(&stage.store).expect("attach");
    let image = image(&stage);
    let mut back = serve(&stage, &image, &["--domain", "2", "--front", "0"]);
    let dom0 = stage.platform(DomId::DOM0, "front");
    let mut front = Front::of(dom0, paths.front.clone(), driver);
    let state = format!("{}/state", paths.back);
    let is = |state: XenbusState| move |value: Option<&str>| value == Some(state.as_str());
    stage.wait_node(&state, "InitWait", is(XenbusState::InitWait));
    front.announce();
    front.state(XenbusState::Initialised);
    stage.wait_node(&state, "Connected", is(XenbusState::Connected));
    front.state(XenbusState::Connected);
    let requests = writes(&front, 2);
    front.send(&requests);
    assert_eq!(front.receive(32).len(), 32);
    written(&image, 2);
    back.signal(Signal::TERM);
    let (status, log) = back.end();
    assert_eq!(status, 0, "{log}");
    const { assert!(DATA_PAGES >= 32) };
    assert_eq!(FRONT, DomId(1));
}
