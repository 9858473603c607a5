//! What the toolstack and the kernel have said about a device before a front end came.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{DEVICE, FRONT, PATIENCE, Stage};
use libgnt::DomId;
use pv_frontend::{DeviceClass, Disk, FrontError};
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::{BlockDevice, error_path};
use std::os::unix::fs::symlink;
use std::time::Duration;

#[test]
fn a_device_that_the_kernel_has_taken_is_refused_and_left_alone() {
    let stage = Stage::new();
    let sysfs = tempfile::tempdir().expect("directory");
    let device = sysfs.path().join("bus/xen/devices/vbd-51712");
    std::fs::create_dir_all(&device).expect("device");
    symlink("../../drivers/vbd", device.join("driver")).expect("link");
    let nodes = stage.store.directory(&stage.front_dir()).expect("nodes");
    let config = || {
        let mut config = stage.config();
        config.sysfs = Some(sysfs.path().to_owned());
        config
    };
    let error = Disk::open(config()).map(drop).expect_err("taken");
    assert!(matches!(error, FrontError::KernelDriver(_)), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("vbd-51712") && told.contains("unbind"),
        "{told}"
    );
    let now = stage.store.directory(&stage.front_dir()).expect("nodes");
    assert_eq!(now, nodes, "nothing was written");
    std::fs::remove_file(device.join("driver")).expect("unbind");
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let disk = Disk::open(config()).expect("it is free now");
    disk.write_at(0, &[5; 512]).expect("write");
    disk.close().expect("close");
    back.join().expect("no panic");
}

#[test]
fn a_driver_that_is_bound_later_is_noticed_before_a_ring_is_offered() {
    let stage = Stage::new();
    let sysfs = tempfile::tempdir().expect("directory");
    let device = sysfs.path().join("bus/xen/devices/vbd-51712");
    std::fs::create_dir_all(&device).expect("device");
    let mut config = stage.config();
    config.sysfs = Some(sysfs.path().to_owned());
    // What an earlier front end reported is taken away by one that has begun.
    let report = error_path(&stage.front_dir());
    stage.store.write(&report, "old").expect("write");
    stage.store.watch(&report, "report").expect("watch");
    let error = std::thread::scope(|scope| {
        let front = scope.spawn(|| Disk::open(config).map(drop).expect_err("taken"));
        while stage.store.exists(&report).expect("read") {
            let event = stage.store.wait_watch_event(PATIENCE).expect("event");
            event.expect("in time");
        }
        symlink("../../drivers/vbd", device.join("driver")).expect("bind");
        let waiting = XenbusState::InitWait.as_str();
        let state = format!("{}/state", stage.back_dir());
        stage.store.write(&state, waiting).expect("write");
        front.join().expect("no panic")
    });
    assert!(matches!(error, FrontError::KernelDriver(_)), "{error}");
    stage.wait_state(&stage.front_dir(), XenbusState::Initialising);
}

#[test]
fn a_device_is_looked_for_in_its_class() {
    let stage = Stage::new();
    let class = DeviceClass::new("pvstress");
    let config = || {
        let mut config = stage.config();
        config.class = class.clone();
        config.reconnect = Duration::from_millis(50);
        config
    };
    let error = Disk::open(config()).map(drop).expect_err("no device");
    let told = error.to_string();
    assert!(told.contains("device/pvstress/51712"), "{told}");
    let mut device = BlockDevice::new(FRONT, DomId::DOM0, DEVICE, "");
    device.class = class.clone();
    device.create(&stage.store).expect("device");
    // Nobody serves it; that it was found is what counts.
    let error = Disk::open(config()).map(drop).expect_err("no back end");
    let told = error.to_string();
    assert!(told.contains("no back end for xvda"), "{told}");
}
