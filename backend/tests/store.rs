//! xenstore's bad days, and what a guest can do to it: the data path goes on.

mod common;

use common::{DEVICE, FRONT, Front, PATIENCE, Running, Stage};
use libgnt::DomId;
use libgnt::proto::blkif::{Operation, Status};
use pv_backend::BackEventKind;
use pv_xenstore::toolstack::BlockDevice;
use pv_xenstore::{Client, XenbusState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

fn in_service(stage: &Stage) -> (Running, Front) {
    let back = Running::start(stage, |_| {});
    let front = Front::new(stage);
    front.connect(stage);
    back.wait_connected();
    (back, front)
}

fn works(front: &mut Front) {
    for id in 0..64 {
        let request = front.request(Operation::Write, id, 0, &[id as usize % 32]);
        assert_eq!(front.one(request).status, Status::Okay);
    }
}

#[test]
fn a_daemon_that_is_slow_stops_nothing_and_is_caught_up_with() {
    let stage = Stage::new();
    stage.gate.arm();
    let (back, mut front) = in_service(&stage);
    stage.gate.hold();
    // Something to ask about.
    let state = format!("{}/state", stage.front_dir());
    stage.write(&state, XenbusState::Connected.as_str());
    works(&mut front);
    stage.gate.wait_pressed();
    works(&mut front);
    stage.gate.open();
    works(&mut front);
    // What happened meanwhile is seen.
    front.state(XenbusState::Closing);
    stage.wait_back(XenbusState::Closing);
    front.state(XenbusState::Closed);
    back.wait_closed();
    back.stop().expect("in order");
}

#[test]
fn a_daemon_that_goes_and_comes_stops_nothing_and_is_caught_up_with() {
    let stage = Stage::new();
    stage.gate.arm();
    let (back, mut front) = in_service(&stage);
    // The front end's own connection is not the question.
    front.store = Client::connect(&stage.dom0).expect("xenstore");
    stage.gate.cut();
    works(&mut front);
    assert!(
        Client::connect(&stage.dom0)
            .and_then(|c| c.read("domid"))
            .is_err()
    );
    works(&mut front);
    stage.write(
        &format!("{}/state", stage.front_dir()),
        XenbusState::Closing.as_str(),
    );
    stage.gate.open();
    stage.wait_back(XenbusState::Closing);
    stage.write(
        &format!("{}/state", stage.front_dir()),
        XenbusState::Closed.as_str(),
    );
    back.wait_closed();
    back.stop().expect("in order");
}

#[test]
fn a_back_end_ends_although_the_daemon_is_gone() {
    let stage = Stage::new();
    stage.gate.arm();
    let (back, mut front) = in_service(&stage);
    stage.gate.hold();
    works(&mut front);
    let began = Instant::now();
    back.stop().expect("it ends");
    assert!(began.elapsed() < PATIENCE);
    stage.gate.open();
}

#[test]
fn a_front_that_rewrites_its_state_for_ever_costs_only_its_own_device_time() {
    let stage = Stage::new();
    let (back, mut front) = in_service(&stage);
    let flooding = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let flood = Client::connect(&*stage.platform(FRONT, "flood")).expect("xenstore");
        let path = format!("{}/state", stage.front_dir());
        let flooding = &flooding;
        scope.spawn(move || {
            while flooding.load(Ordering::Relaxed) {
                for state in [XenbusState::Connected, XenbusState::Unknown] {
                    flood.write(&path, state.as_str()).expect("write");
                }
            }
            flood
                .write(&path, XenbusState::Connected.as_str())
                .expect("write");
        });
        works(&mut front);
        // The back end writes its own state in the flood, too.
        back.stop.ask();
        stage.wait_back(XenbusState::Closing);
        flooding.store(false, Ordering::Relaxed);
    });
    front.state(XenbusState::Closing);
    front.state(XenbusState::Closed);
    back.wait_closed();
}

/// A handshake under a flood: each transaction that looks at the front end's state is in conflict.
#[test]
fn conflicts_without_end_end_no_process() {
    let stage = Stage::new();
    let back = Running::start(&stage, |_| {});
    let mut front = Front::new(&stage);
    stage.wait_back(XenbusState::InitWait);
    front.announce();
    let flooding = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let flood = Client::connect(&*stage.platform(FRONT, "flood")).expect("xenstore");
        let path = format!("{}/state", stage.front_dir());
        let flooding = &flooding;
        scope.spawn(move || {
            let mut writes = 0_u64;
            while flooding.load(Ordering::Relaxed) {
                flood
                    .write(&path, XenbusState::Initialised.as_str())
                    .expect("write");
                writes += 1;
            }
            assert!(writes > 1000, "{writes} writes are no flood");
        });
        // Time for more than the attempts of one transaction: the other end's clock is its writes.
        let counter = Client::connect(&stage.dom0).expect("xenstore");
        for _ in 0..60_000 {
            counter.read("domid").expect("read");
        }
        flooding.store(false, Ordering::Relaxed);
    });
    stage.wait_back(XenbusState::Connected);
    front.state(XenbusState::Connected);
    works(&mut front);
    back.wait_connected();
}

#[test]
fn transactions_that_are_used_up_for_a_moment_are_waited_for() {
    let stage = Stage::new();
    let driver = DomId(2);
    stage.dom0.create_domain(driver, "driver").expect("domain");
    let device = BlockDevice::new(FRONT, driver, common::DEVICE, "");
    // The front's directory is taken by dom0's device.
    BlockDevice::new(FRONT, DomId::DOM0, DEVICE, "")
        .remove(&stage.store, std::time::Duration::ZERO)
        .expect("detach");
    let paths = device.create(&stage.store).expect("attach");
    let state = format!("{}/state", paths.back);
    let back = Running::try_start_on(stage.platform(driver, "back"), |_| {}).expect("back end");
    back.wait("waiting", |e| {
        matches!(e, BackEventKind::Waiting).then_some(())
    });
    let mut front = Front::of(stage.platform(FRONT, "front"), paths.front.clone(), driver);
    let thief = Client::connect(&*stage.platform(driver, "thief")).expect("xenstore");
    let mut opened = 0;
    take_all(&thief, &mut opened, &mut || {
        front.announce();
        front.state(XenbusState::Initialised);
        // Time to be refused in: measured in answers of the same daemon.
        for _ in 0..4000 {
            thief.read("domid").expect("read");
        }
    });
    assert!(opened >= 10, "only {opened} transactions");
    stage.wait_node(&state, "Connected", |v| {
        v == Some(XenbusState::Connected.as_str())
    });
    front.state(XenbusState::Connected);
    works(&mut front);
}

/// Opens transactions until there are no more, then goes on.
fn take_all(client: &Client, opened: &mut u32, then: &mut dyn FnMut()) {
    let mut done = false;
    let result = client.transaction(|_| {
        *opened += 1;
        assert!(*opened < 1000, "no quota");
        take_all(client, opened, then);
        done = true;
        Ok(())
    });
    if let Err(error) = result
        && !done
    {
        assert_eq!(error.errno(), Some(rustix::io::Errno::NOSPC), "{error}");
        then();
    }
}
