//! How a toolstack finds a device that it is to take away, and how it takes it away.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::toolstack::{BlockDevice, DeviceKey, End, Removed, remove, report_error};
use pv_xenstore::{Client, DeviceTrouble, Error, XenbusState};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// For removals that must not wait for it.
const NEVER: Duration = Duration::from_secs(100_000);
const FRONT: &str = "/local/domain/2/device/vbd/51712";
const BACK: &str = "/local/domain/1/backend/vbd/2/51712";
const RECORD: &str = "/pvpair/2/device/vbd/51712";

fn set_up() -> Xenstore {
    let xenstore = Xenstore::new();
    for domid in [1, 2, 3] {
        xenstore.server.introduce(DomId(domid), "guest").unwrap();
    }
    xenstore
}

fn device() -> BlockDevice {
    BlockDevice::new(DomId(2), DomId(1), "xvda".parse().unwrap(), "/tmp/image")
}

/// Everything below a node: path, value.
fn tree(client: &Client, path: &str) -> Vec<(String, String)> {
    let mut nodes = vec![(path.to_owned(), client.read_string(path).unwrap())];
    for name in client.directory(path).unwrap() {
        nodes.extend(tree(
            client,
            &format!("{}/{name}", path.trim_end_matches('/')),
        ));
    }
    nodes
}

fn assert_nothing_left(dom0: &Client) {
    for path in [
        "/local/domain/1/backend",
        "/local/domain/2/device/vbd",
        "/pvpair",
    ] {
        assert!(!dom0.exists(path).unwrap(), "{path}");
    }
    assert!(
        dom0.exists("/local/domain/2/device").unwrap(),
        "the domain's own directory stays"
    );
}

/// As a person detaches: with nothing but the device's name.
fn detach(dom0: &Client, key: &DeviceKey, timeout: Duration) -> Result<Removed, Error> {
    let paths = key.locate(dom0, None)?;
    remove(dom0, key, &paths, timeout)
}

/// The same, where it must not take its whole time.
fn detach_at_once(xenstore: &Xenstore) -> Removed {
    let (send, ended) = channel();
    let dom0 = xenstore.dom0();
    std::thread::spawn(move || send.send(detach(&dom0, &device().key(), NEVER)));
    match ended.recv_timeout(SOON) {
        Ok(removed) => removed.unwrap(),
        Err(RecvTimeoutError::Timeout) => panic!("it waits for its deadline"),
        Err(error) => panic!("{error}"),
    }
}

fn invalid<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Invalid(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn trouble<T: std::fmt::Debug>(result: Result<T, Error>, expected: DeviceTrouble) -> String {
    match result {
        Err(Error::Device { trouble, text }) if trouble == expected => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_back_end_in_another_domain_is_found_by_the_record() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let paths = device().create(&dom0).unwrap();
    assert_eq!(device().key().locate(&dom0, None).unwrap(), paths);
    assert_eq!(device().key().locate(&dom0, Some(DomId(1))).unwrap(), paths);
    let before = tree(&dom0, "/");
    let elsewhere = device().key().locate(&dom0, Some(DomId(3)));
    let text = trouble(elsewhere, DeviceTrouble::OtherBack);
    assert!(
        text.contains(BACK) && text.contains("name no domain"),
        "{text}"
    );
    assert_eq!(tree(&dom0, "/"), before);
    detach(&dom0, &device().key(), SOON).unwrap();
    assert_nothing_left(&dom0);
}

/// libxl puts a disk of its `qdisk` kind elsewhere than in `backend/vbd`, and has its own record.
#[test]
fn a_device_of_libxls_is_found_by_libxls_record() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let back = "/local/domain/1/backend/qdisk/2/51712";
    let record = "/libxl/2/device/vbd/51712";
    for (node, value) in [
        (format!("{back}/state"), "1"),
        (format!("{FRONT}/state"), "1"),
        (format!("{record}/backend"), back),
        (format!("{record}/script"), "/etc/xen/scripts/block"),
        (
            "/libxl/2/device/vif/0/backend".into(),
            "/local/domain/0/backend/vif/2/0",
        ),
    ] {
        dom0.write(&node, value).unwrap();
    }
    for back_domid in [None, Some(DomId(1))] {
        let paths = device().key().locate(&dom0, back_domid).unwrap();
        assert_eq!((paths.front.as_str(), paths.back.as_str()), (FRONT, back));
    }
    let removed = detach_at_once(&xenstore);
    assert_eq!(
        removed.hotplug_script.as_deref(),
        Some("/etc/xen/scripts/block"),
        "it was not run"
    );
    assert_nothing_left(&dom0);
    assert_eq!(dom0.directory("/libxl/2/device").unwrap(), ["vif"]);
}

/// XSA-175, XSA-178: the front end's directory is the guest's to write.
#[test]
fn a_guest_that_points_elsewhere_hurts_nobody() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let mut victim = device();
    victim.front_domid = DomId(3);
    let victim_paths = victim.create(&dom0).unwrap();
    xenstore
        .client(1)
        .write(&format!("{}/state", victim_paths.back), "4")
        .unwrap();
    dom0.rm("/pvpair").unwrap();
    let others = tree(&dom0, "/");
    for with_record in [true, false] {
        device().create(&dom0).unwrap();
        if !with_record {
            dom0.rm("/pvpair").unwrap();
        }
        let guest = xenstore.client(2);
        for (node, value) in [
            ("backend", victim_paths.back.as_str()),
            ("backend-id", "1"),
            ("frontend", &victim_paths.front),
        ] {
            guest.write(&format!("{FRONT}/{node}"), value).unwrap();
        }
        if !with_record {
            let before = tree(&dom0, "/");
            let unknown = detach(&dom0, &device().key(), SOON);
            let text = trouble(unknown, DeviceTrouble::BackUnknown);
            for part in [
                FRONT,
                "name the back end's domain",
                "domain 1",
                "guest may have written",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert_eq!(tree(&dom0, "/"), before, "nothing was touched");
            let paths = device().key().locate(&dom0, Some(DomId(1))).unwrap();
            assert_eq!(paths, device().paths());
            remove(&dom0, &device().key(), &paths, SOON).unwrap();
        } else {
            detach(&dom0, &device().key(), SOON).unwrap();
        }
        assert_eq!(tree(&dom0, "/"), others, "record: {with_record}");
    }
}

#[test]
fn without_a_record_the_back_end_may_be_in_this_domain() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let mut here = device();
    here.back_domid = DomId::DOM0;
    here.create(&dom0).unwrap();
    dom0.rm("/pvpair").unwrap();
    detach(&dom0, &here.key(), SOON).unwrap();
    assert_nothing_left(&dom0);
    assert!(!dom0.exists("/local/domain/0/backend").unwrap());
    let gone = detach(&dom0, &here.key(), SOON);
    let text = trouble(gone, DeviceTrouble::NotThere);
    assert!(text.contains(FRONT) && text.contains("create it"), "{text}");
}

/// A domain's number is used again, and the record of an earlier one is left.
#[test]
fn a_record_that_has_outlived_its_device_does_not_hide_the_one_that_is_there() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let mut here = device();
    here.back_domid = DomId::DOM0;
    here.create(&dom0).unwrap();
    dom0.write(&format!("{RECORD}/backend"), BACK).unwrap();
    assert_eq!(here.key().locate(&dom0, None).unwrap(), here.paths());
    detach(&dom0, &here.key(), SOON).unwrap();
    assert_nothing_left(&dom0);
    assert!(!dom0.exists("/local/domain/0/backend").unwrap());
}

/// A record is as good as its form: a device that it does not name is not touched.
#[test]
fn a_record_of_something_else_is_refused() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    for wrong in [
        "/local/domain/1/backend/vbd/3/51712",
        "/local/domain/1/backend/vbd/2/51728",
        "/local/domain/1/backend/vbd/2/51712/state",
        "/local/domain/1/device/vbd/2/51712",
        "/local/domain/x/backend/vbd/2/51712",
        "/",
        "",
    ] {
        dom0.write(&format!("{RECORD}/backend"), wrong).unwrap();
        let before = tree(&dom0, "/");
        let text = invalid(detach(&dom0, &device().key(), SOON));
        assert!(text.contains(RECORD), "{text}");
        assert_eq!(tree(&dom0, "/"), before);
    }
}

/// A driver domain may write its own half of a device, and no more.
#[test]
fn who_may_not_remove_everything_changes_nothing() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    let before = tree(&dom0, "/");
    let driver_domain = xenstore.client(1);
    let paths = device().key().locate(&driver_domain, None).unwrap();
    assert_eq!(paths, device().paths(), "it sees its own devices");
    let text = invalid(remove(&driver_domain, &device().key(), &paths, SOON));
    assert!(text.contains("dom0 only"), "{text}");
    assert_eq!(tree(&dom0, "/"), before);
}

/// Nobody has to close a device that was never in use: the states are the toolstack's own, or a back
/// end's that died, or that is a kernel's and waits for its front end.
#[test]
fn a_device_that_was_never_in_use_goes_at_once() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    // 5: somebody has tried to remove it before, and given up.
    for (front, back) in [("1", "1"), ("1", "2"), ("6", "2"), ("2", "1"), ("1", "5")] {
        device().create(&dom0).unwrap();
        dom0.write(&format!("{FRONT}/state"), front).unwrap();
        dom0.write(&format!("{BACK}/state"), back).unwrap();
        let removed = detach_at_once(&xenstore);
        assert_eq!(removed.end, End::Unused, "{front} {back}: {removed:?}");
        assert_nothing_left(&dom0);
    }
    // It has been in use: who tells a front end the disk's size has mapped its ring.
    device().create(&dom0).unwrap();
    for (node, value) in [("state", "5"), ("sectors", "8")] {
        dom0.write(&format!("{BACK}/{node}"), value).unwrap();
    }
    let removed = detach(&dom0, &device().key(), Duration::ZERO).unwrap();
    assert_eq!(removed.end, End::Forced);
    // The front end's domain is gone, or the back end's.
    for gone in [2, 1] {
        device().create(&dom0).unwrap();
        xenstore.server.release(DomId(gone)).unwrap();
        let removed = detach_at_once(&xenstore);
        assert_ne!(removed.end, End::Forced, "{gone}: {removed:?}");
        assert!(!dom0.exists("/pvpair").unwrap());
        assert!(!dom0.exists(&format!("/local/domain/{gone}")).unwrap());
        xenstore.server.introduce(DomId(gone), "again").unwrap();
        assert_nothing_left(&dom0);
    }
}

/// A domain that writes its nodes as fast as it can is in the way of every transaction.
#[test]
fn nobody_can_keep_a_device_by_writing() {
    const WRITERS: usize = 12;
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    for (domid, directory, states, end) in [
        (2, FRONT, ["1", "2"], End::Unused),
        (1, BACK, ["4", "4"], End::Forced),
    ] {
        device().create(&dom0).unwrap();
        let stop = AtomicBool::new(false);
        let at_work = Barrier::new(WRITERS + 1);
        let removed = std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                let writer = xenstore.client(domid);
                let (stop, at_work) = (&stop, &at_work);
                scope.spawn(move || {
                    at_work.wait();
                    let node = format!("{directory}/state");
                    for state in states.iter().cycle() {
                        if stop.load(Relaxed) || writer.write(&node, state).is_err() {
                            break;
                        }
                    }
                });
            }
            at_work.wait();
            let removed = detach(&dom0, &device().key(), Duration::ZERO);
            stop.store(true, Relaxed);
            removed
        });
        assert_eq!(removed.unwrap().end, end);
        assert_nothing_left(&dom0);
    }
}

#[test]
fn a_removal_waits_for_both_and_leaves_nothing() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    let (back, front) = (xenstore.client(1), xenstore.client(2));
    for (client, dir) in [(&back, BACK), (&front, FRONT)] {
        client.write(&format!("{dir}/state"), "4").unwrap();
    }
    dom0.watch("/elsewhere", "other").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The back end is asked to close, and does so after the front end.
            back.watch(&format!("{BACK}/state"), "s").unwrap();
            while back.read_string(&format!("{BACK}/state")).unwrap() != "5" {
                back.wait_watch_event(SOON).unwrap().unwrap();
            }
            assert_eq!(back.read_string(&format!("{BACK}/online")).unwrap(), "0");
            front.write(&format!("{FRONT}/state"), "6").unwrap();
            back.write(&format!("{BACK}/state"), "6").unwrap();
        });
        let removed = device().remove(&dom0, SOON).unwrap();
        assert_eq!(removed.end, End::Closed, "{removed:?}");
        assert_eq!(removed.states, [Some(XenbusState::Closed); 2]);
    });
    assert_nothing_left(&dom0);
    assert_eq!(
        dom0.next_watch_event().unwrap().unwrap().token,
        "other",
        "others' events are kept"
    );
    assert_eq!(dom0.next_watch_event().unwrap(), None);
    assert!(matches!(
        device().remove(&dom0, SOON),
        Err(Error::Invalid(_))
    ));
    device().create(&dom0).expect("the number is free again");
}

#[test]
fn a_removal_does_not_wait_for_ever() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    let mut other = device();
    other.devid = "xvdb".parse().unwrap();
    other.create(&dom0).unwrap();
    report_error(&xenstore.client(2), "device/vbd/51712", "no ring").unwrap();
    xenstore
        .client(2)
        .write(&format!("{FRONT}/state"), "4")
        .unwrap();
    let removed = device().remove(&dom0, Duration::from_millis(50)).unwrap();
    assert_eq!(removed.end, End::Forced);
    assert_eq!(
        removed.states,
        [Some(XenbusState::Connected), Some(XenbusState::Closing)]
    );
    assert_eq!(removed.front_error.as_deref(), Some("no ring"));
    assert_eq!(removed.back_error, None);
    assert_eq!(
        dom0.directory("/local/domain/1/backend/vbd/2").unwrap(),
        ["51728"],
        "the other stays"
    );
    assert_eq!(
        dom0.directory("/local/domain/2/error").unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn a_removal_after_the_front_domain_died() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    device().create(&dom0).unwrap();
    xenstore.server.release(DomId(2)).unwrap();
    xenstore
        .client(1)
        .write(&format!("{BACK}/state"), "6")
        .unwrap();
    let removed = device().remove(&dom0, SOON).unwrap();
    assert_eq!(
        (removed.end, removed.states),
        (End::Closed, [None, Some(XenbusState::Closed)])
    );
    assert!(!dom0.exists("/local/domain/1/backend").unwrap());
    assert!(
        !dom0.exists("/local/domain/2").unwrap(),
        "nothing of the dead is made anew"
    );
}
