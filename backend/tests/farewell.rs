//! A back end that cannot go on tells its front end: a state 4 with nobody behind it lets a guest hang.

mod common;

use common::bent::Bent;
use common::{FRONT, Front, Running, Stage};
use libgnt::DomId;
use libgnt::proto::blkif::{Operation, Status};
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::read_error;
use std::sync::atomic::Ordering;

#[test]
fn an_error_that_ends_the_service_is_told_to_the_front_end() {
    let stage = Stage::new();
    // The back end's own file of event channels is the first; the mapper's goes on.
    let (platform, bend) = Bent::new(stage.platform(DomId::DOM0, "backend"));
    let back = Running::start_on(platform, |config| config.spin = std::time::Duration::ZERO);
    let mut front = Front::new(&stage);
    front.connect(&stage);
    back.wait_connected();
    let request = front.request(Operation::Read, 1, 0, &[0]);
    assert_eq!(front.one(request).status, Status::Okay);
    bend.first_evtchn_breaks.store(true, Ordering::Relaxed);
    front.channel.notify().expect("notify");
    stage.wait_back(XenbusState::Closed);
    let reason = read_error(&stage.store, &stage.back_dir()).expect("read");
    assert!(
        reason.as_ref().is_some_and(|r| r.contains("evtchn")),
        "{reason:?}"
    );
    let ended = back.stop().expect_err("it failed");
    assert!(ended.to_string().contains("/dev/xen/evtchn"), "{ended}");
    assert_eq!(FRONT, DomId(1));
}
