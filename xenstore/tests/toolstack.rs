//! Devices as a toolstack creates and removes them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::toolstack::{
    BlockDevice, Mode, clear_error, create_domain, read_error, read_mode, remove_domain,
    report_error,
};
use pv_xenstore::{DeviceTrouble, Error};
use std::time::Duration;

const FRONT: &str = "/local/domain/2/device/vbd/51712";
const BACK: &str = "/local/domain/1/backend/vbd/2/51712";

fn set_up() -> Xenstore {
    let xenstore = Xenstore::new();
    for domid in [1, 2] {
        xenstore.server.introduce(DomId(domid), "guest").unwrap();
    }
    xenstore
}

fn device() -> BlockDevice {
    BlockDevice::new(DomId(2), DomId(1), "xvda".parse().unwrap(), "/tmp/image")
}

#[test]
fn both_ends_find_what_they_need_and_may_use_it() {
    let xenstore = set_up();
    let paths = device().create(&xenstore.dom0()).unwrap();
    assert_eq!((paths.front.as_str(), paths.back.as_str()), (FRONT, BACK));
    let (back, front) = (xenstore.client(1), xenstore.client(2));
    assert_eq!(front.directory("device/vbd").unwrap(), ["51712"]);
    assert_eq!(front.read_string("device/vbd/51712/backend").unwrap(), BACK);
    assert_eq!(
        front.read_string("device/vbd/51712/backend-id").unwrap(),
        "1"
    );
    assert_eq!(
        front
            .read_string("device/vbd/51712/virtual-device")
            .unwrap(),
        "51712"
    );
    assert_eq!(back.directory("backend/vbd/2").unwrap(), ["51712"]);
    assert_eq!(
        back.read_string("backend/vbd/2/51712/frontend").unwrap(),
        FRONT
    );
    let own = [
        ("mode", "w"),
        ("online", "1"),
        ("dev", "xvda"),
        ("params", "/tmp/image"),
        ("state", "1"),
    ];
    for (name, value) in own {
        assert_eq!(
            back.read_string(&format!("backend/vbd/2/51712/{name}"))
                .unwrap(),
            value
        );
    }
    // Each reads the other's and writes its own, no more.
    assert_eq!(front.read_string(&format!("{BACK}/state")).unwrap(), "1");
    assert_eq!(back.read_string(&format!("{FRONT}/state")).unwrap(), "1");
    front.write(&format!("{FRONT}/ring-ref"), "8").unwrap();
    assert_eq!(back.read_string(&format!("{FRONT}/ring-ref")).unwrap(), "8");
    back.write(&format!("{BACK}/sectors"), "8").unwrap();
    assert_eq!(front.read_string(&format!("{BACK}/sectors")).unwrap(), "8");
    assert!(front.write(&format!("{BACK}/state"), "6").is_err());
    assert!(back.write(&format!("{FRONT}/state"), "6").is_err());
}

#[test]
fn only_a_w_allows_to_write() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    assert_eq!(read_mode(&dom0, BACK).unwrap(), None);
    let mut read_only = device();
    read_only.mode = Mode::ReadOnly;
    for device in [device(), read_only] {
        device.create(&dom0).unwrap();
        assert_eq!(read_mode(&dom0, BACK).unwrap(), Some(device.mode));
        device.remove(&dom0, Duration::ZERO).unwrap();
    }
    for (value, mode) in [
        ("w\0", Mode::ReadWrite),
        (" w!\n", Mode::ReadWrite),
        ("r\0\0", Mode::ReadOnly),
        ("\tr", Mode::ReadOnly),
        ("", Mode::ReadOnly),
        ("\0", Mode::ReadOnly),
        ("W", Mode::ReadOnly),
        ("rw", Mode::ReadOnly),
    ] {
        assert_eq!(Mode::parse(value.as_bytes()), mode, "{value:?}");
    }
}

/// A watcher of the whole tree never sees a value before its permissions, and `state` comes last.
#[test]
fn nothing_is_seen_half_done() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    dom0.watch("/local/domain/1/backend", "b").unwrap();
    dom0.watch("/local/domain/2/device", "f").unwrap();
    device().create(&dom0).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = dom0.next_watch_event().unwrap() {
        seen.push(event.path);
    }
    for dir in [FRONT, BACK] {
        let own: Vec<_> = seen.iter().filter(|p| p.starts_with(dir)).collect();
        assert_eq!(own.first().map(|p| p.as_str()), Some(dir));
        assert_eq!(
            own.last().map(|p| p.as_str()),
            Some(&*format!("{dir}/state"))
        );
    }
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let refused = |device: BlockDevice| match device.create(&dom0) {
        Err(Error::Invalid(text)) => text,
        other => panic!("{other:?}"),
    };
    let mut missing_front = device();
    missing_front.front_domid = DomId(8);
    assert!(refused(missing_front).contains("no domain 8 for the front end"));
    let mut missing_back = device();
    missing_back.back_domid = DomId(9);
    assert!(refused(missing_back).contains("no domain 9 for the back end"));
    let mut its_own = device();
    its_own.back_domid = DomId(2);
    assert!(refused(its_own).contains("serve itself"));
    assert!(!dom0.exists("/local/domain/2/device/vbd").unwrap());
    assert!(!dom0.exists("/local/domain/1/backend").unwrap());
    assert!(!dom0.exists("/pvpair").unwrap());
    device().create(&dom0).unwrap();
    assert!(refused(device()).contains("is there already"));
    // A guest cannot play the toolstack.
    let guest = xenstore.client(2);
    let mut another = device();
    another.devid = "xvdb".parse().unwrap();
    assert!(another.create(&guest).is_err());
}

/// Who takes a device away later believes the record, so no guest may write it.
#[test]
fn the_record_of_a_device_is_dom0s_alone() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    let record = "/pvpair/2/device/vbd/51712";
    let node = |name: &str| dom0.read_string(&format!("{record}/{name}")).unwrap();
    assert_eq!(
        (node("frontend"), node("backend")),
        (FRONT.into(), BACK.into())
    );
    for guest in [1, 2] {
        let guest = xenstore.client(guest);
        for path in [
            "/pvpair",
            "/pvpair/2",
            record,
            "/pvpair/2/device/vbd/51712/backend",
        ] {
            assert!(guest.read(path).is_err(), "{path}");
            assert!(guest.write(path, "x").is_err(), "{path}");
            assert!(guest.write(&format!("{path}/new"), "x").is_err(), "{path}");
        }
    }
}

/// A domain's number is used again; what served the earlier one's device must not be forgotten.
#[test]
fn a_device_is_not_created_over_the_rest_of_an_earlier_one() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    xenstore.server.release(DomId(2)).unwrap();
    xenstore.server.introduce(DomId(2), "another").unwrap();
    let mut elsewhere = device();
    elsewhere.back_domid = DomId::DOM0;
    let Err(Error::Device {
        trouble: DeviceTrouble::LeftBehind,
        text,
    }) = elsewhere.create(&dom0)
    else {
        panic!("it is created, or refused for another reason");
    };
    assert!(
        text.contains(BACK) && text.contains("remove that"),
        "{text}"
    );
    device().remove(&dom0, Duration::ZERO).unwrap();
    elsewhere.create(&dom0).unwrap();
}

#[test]
fn errors_are_found_where_tools_look() {
    let xenstore = set_up();
    let guest = xenstore.client(2);
    assert_eq!(read_error(&guest, "device/vbd/51712").unwrap(), None);
    let long = format!("ring: {}", "\u{e9}".repeat(3000));
    report_error(&guest, "device/vbd/51712", &long).unwrap();
    let path = "/local/domain/2/error/device/vbd/51712/error";
    let found = xenstore.dom0().read_string(path).unwrap();
    assert!(found.starts_with("ring: \u{e9}") && found.len() <= 1024);
    report_error(&guest, FRONT, "again").unwrap();
    assert_eq!(
        read_error(&xenstore.dom0(), FRONT).unwrap().as_deref(),
        Some("again")
    );
    report_error(&guest, "device/vbd/51712", "\u{1b}[2Jgone\n\0").unwrap();
    assert_eq!(
        read_error(&xenstore.dom0(), FRONT).unwrap().as_deref(),
        Some("\\u{1b}[2Jgone\\n"),
        "nothing acts on a terminal"
    );
    report_error(&guest, "device/vbd/51728", "other").unwrap();
    clear_error(&guest, "device/vbd/51712").unwrap();
    clear_error(&guest, "device/vbd/51712").unwrap();
    assert_eq!(read_error(&guest, "device/vbd/51712").unwrap(), None);
    assert_eq!(
        read_error(&guest, "device/vbd/51728").unwrap().as_deref(),
        Some("other")
    );
    clear_error(&xenstore.dom0(), "/local/domain/2/device/vbd/51728").unwrap();
    assert_eq!(guest.directory("error").unwrap(), Vec::<String>::new());
}

#[test]
fn a_domain_made_by_hand() {
    let xenstore = Xenstore::new();
    let dom0 = xenstore.dom0();
    create_domain(&dom0, DomId(5), "five").unwrap();
    assert_eq!(xenstore.client(5).read_string("name").unwrap(), "five");
    remove_domain(&dom0, DomId(5)).unwrap();
    assert!(!dom0.exists("/local/domain/5").unwrap());
}
