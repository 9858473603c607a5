//! What the toolstack and the kernel have said about a device before a back end came.

mod common;

use common::{DEVICE, FRONT, Front, Running, Stage};
use libgnt::DomId;
use libgnt::proto::blkif::{Operation, Status};
use pv_backend::BackError;
use pv_xenstore::XenbusState;
use pv_xenstore::toolstack::{BlockDevice, DeviceClass};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A kernel whose driver takes the device, or leaves it.
struct Kernel {
    sysfs: tempfile::TempDir,
    link: PathBuf,
}

impl Kernel {
    fn new() -> Kernel {
        let sysfs = tempfile::tempdir().expect("directory");
        let device = sysfs.path().join("bus/xen-backend/devices/vbd-1-51712");
        std::fs::create_dir_all(&device).expect("device");
        let link = device.join("driver");
        Kernel { sysfs, link }
    }

    fn bind(&self) {
        symlink("../../drivers/vbd", &self.link).expect("bind");
    }

    fn unbind(&self) {
        std::fs::remove_file(&self.link).expect("unbind");
    }

    fn serve(&self, stage: &Stage) -> Result<Running, BackError> {
        Running::try_start(stage, |config| {
            config.sysfs = Some(self.sysfs.path().to_owned());
        })
    }
}

#[test]
fn a_device_that_the_kernel_has_taken_is_refused_and_left_alone() {
    let (stage, kernel) = (Stage::new(), Kernel::new());
    kernel.bind();
    let nodes = stage.store.directory(&stage.back_dir()).expect("nodes");
    let error = kernel.serve(&stage).map(drop).expect_err("taken");
    assert!(matches!(error, BackError::KernelDriver(_)), "{error}");
    assert!(error.to_string().contains("vbd-1-51712"), "{error}");
    let now = stage.store.directory(&stage.back_dir()).expect("nodes");
    assert_eq!(now, nodes, "nothing was written");
    stage.wait_back(XenbusState::Initialising);
    kernel.unbind();
    let _running = kernel.serve(&stage).expect("it is free now");
    stage.wait_back(XenbusState::InitWait);
}

#[test]
fn a_driver_that_is_bound_later_is_noticed_before_a_ring_is_mapped() {
    let (stage, kernel) = (Stage::new(), Kernel::new());
    let running = kernel.serve(&stage).expect("it is free");
    stage.wait_back(XenbusState::InitWait);
    kernel.bind();
    let front = Front::new(&stage);
    front.announce();
    front.state(XenbusState::Initialised);
    let error = running.ended().expect_err("taken");
    assert!(matches!(error, BackError::KernelDriver(_)), "{error}");
    stage.wait_back(XenbusState::InitWait);
}

#[test]
fn a_device_of_another_class_is_another_device() {
    let stage = Stage::new();
    let class = DeviceClass::new("pvstress");
    let mut device = BlockDevice::new(FRONT, DomId::DOM0, DEVICE, "");
    device.class = class.clone();
    let paths = device.create(&stage.store).expect("attach");
    let back = format!("/local/domain/0/backend/pvstress/{}/{DEVICE}", FRONT.0);
    assert_eq!(paths.back, back);
    let _running = Running::start(&stage, |config| config.class = class);
    stage.wait_node(&format!("{back}/state"), "2", |value| value == Some("2"));
    stage.wait_back(XenbusState::Initialising);
    let _other = Running::start(&stage, |_| {});
    stage.wait_back(XenbusState::InitWait);
}

/// libxl's nodes for a disk (`libxl__device_disk_add` and `device_disk_add`,
/// `tools/libs/light/libxl_disk.c`) and its hotplug script's.
const LIBXLS: [(&str, &str); 14] = [
    ("removable", "0"),
    ("bootable", "1"),
    ("online", "1"),
    ("dev", "xvda"),
    ("type", "phy"),
    ("mode", "w"),
    ("device-type", "disk"),
    ("params", "/dev/vg/disk"),
    ("script", "/etc/xen/scripts/block"),
    ("physical-device", "fd:3"),
    ("physical-device-path", "/dev/vg/disk"),
    ("hotplug-status", "connected"),
    ("discard-enable", "1"),
    ("direct-io-safe", "0"),
];

#[test]
fn what_the_toolstack_wrote_is_obeyed_and_never_overwritten() {
    // What is unusual, and bits of `info`: 1 CD-ROM, 2 removable, 4 read-only.
    for (unusual, info) in [
        (&[][..], "0"),
        (&[("mode", "r")], "4"),
        (&[("removable", "1\0")], "2"),
        (&[("device-type", "cdrom"), ("removable", "1")], "7"),
        (&[("device-type", "cdrom\0"), ("mode", "w")], "5"),
        (&[("removable", "yes"), ("device-type", "floppy")], "0"),
    ] {
        let stage = Stage::new();
        let path = |node: &str| format!("{}/{node}", stage.back_dir());
        for (node, value) in LIBXLS.iter().chain(unusual) {
            stage.write(&path(node), value);
        }
        let read = |node: &str| stage.store.read(&path(node)).expect(node);
        let before = LIBXLS.map(|(node, _)| (node, read(node)));
        let _running = Running::start(&stage, |_| {});
        let mut front = Front::new(&stage);
        front.connect(&stage);
        assert_eq!(read("info"), info.as_bytes(), "{unusual:?}");
        let write = front.request(Operation::Write, 1, 0, &[0]);
        let may_write = info.parse::<u32>().expect("number") & 4 == 0;
        assert_eq!(
            front.one(write).status == Status::Okay,
            may_write,
            "{unusual:?}"
        );
        for (node, value) in before {
            assert_eq!(read(node), value, "{unusual:?}: {node}");
        }
    }
}
