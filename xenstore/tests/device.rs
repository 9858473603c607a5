//! Devices over a real server: features that are bad or missing, a back end that never comes, and many
//! devices of a driver domain's at once.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::keeper::News;
use pv_xenstore::toolstack::{DeviceKey, DevicePaths, read_error};
use pv_xenstore::xenbus::XenbusState;
use pv_xenstore::xenbus::device::{FrontDevice, FrontNews, FrontProtocol, FrontSetting, Link};
use pv_xenstore::xenbus::feature::{Feature, Published, ReadError};
use pv_xenstore::xenbus::node::read_state;
use pv_xenstore::xenbus::roster::{DeviceWatch, Limits, RosterNews};
use pv_xenstore::{Client, Error, Permission, Rights};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
const SIZE: Feature<u32> = Feature::new("max-size", 1);

fn deadline() -> Instant {
    Instant::now() + SOON
}

#[derive(Debug)]
struct Sized;

impl FrontProtocol for Sized {
    type Back = u32;
    type Change = Infallible;
    type Obstacle = Infallible;

    fn ring_nodes(&self) -> &[&'static str] {
        &["ring"]
    }

    fn read_back(&mut self, back: &Published<'_>) -> Result<u32, ReadError> {
        SIZE.agree(100, back)
    }
}

fn paths(front: u16, back: u16, n: usize) -> DevicePaths {
    let class = "thing".parse().unwrap();
    DeviceKey::new(DomId(front), class, n.to_string().parse().unwrap()).paths(DomId(back))
}

/// As a toolstack does: all at once, whatever was there.
fn create(dom0: &Client, front: u16, back: u16, n: usize) -> DevicePaths {
    let paths = paths(front, back, n);
    dom0.transaction(|tx| {
        for (directory, owner, reader) in [(&paths.front, front, back), (&paths.back, back, front)]
        {
            match tx.rm(directory) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
            tx.mkdir(directory)?;
            let perms = [
                Permission::new(Rights::None, DomId(owner)),
                Permission::new(Rights::Read, DomId(reader)),
            ];
            tx.set_perms(directory, &perms)?;
        }
        for (node, value) in [
            (format!("{}/backend", paths.front), paths.back.clone()),
            (format!("{}/backend-id", paths.front), back.to_string()),
            (format!("{}/frontend", paths.back), paths.front.clone()),
            (format!("{}/frontend-id", paths.back), front.to_string()),
            (format!("{}/online", paths.back), "1".into()),
            (format!("{}/state", paths.back), "1".into()),
            (format!("{}/state", paths.front), "1".into()),
        ] {
            tx.write(&node, value)?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    paths
}

/// Another connection of the domain, each time: as a daemon that restarts is seen.
fn opener(xenstore: &Xenstore, domid: u16) -> (Client, pv_xenstore::steady::Open) {
    let server = xenstore.server.clone();
    let open = move || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.attach(DomId(domid), theirs).unwrap();
        Client::from_stream(ours.into())
    };
    (open().unwrap(), Box::new(open))
}

fn front(xenstore: &Xenstore, n: usize, patience: Option<Duration>) -> FrontDevice<Sized> {
    let (client, open) = opener(xenstore, 2);
    let front = format!("device/thing/{n}");
    let link = Link::read(&client, &front).unwrap();
    let setting = FrontSetting {
        front,
        attempts_max: None,
        patience,
    };
    FrontDevice::start(Sized, setting, link, (client, open)).unwrap()
}

fn set_up() -> Xenstore {
    let xenstore = Xenstore::new();
    for domid in 1..=4 {
        let name = format!("domain {domid}");
        xenstore.server.introduce(DomId(domid), &name).unwrap();
    }
    xenstore
}

fn set(dom0: &Client, directory: &str, state: XenbusState) {
    dom0.write(&format!("{directory}/state"), state.as_str())
        .unwrap();
}

fn wait_state(dom0: &Client, directory: &str, state: XenbusState) {
    let node = format!("{directory}/state");
    dom0.watch(&node, "t").unwrap();
    while read_state(dom0, directory).unwrap() != Some(state) {
        assert!(
            dom0.wait_watch_event(SOON).unwrap().is_some(),
            "never {state}"
        );
    }
    dom0.unwatch(&node, "t").unwrap();
}

#[test]
fn a_feature_is_agreed_on_and_a_bad_one_ends_the_device_with_its_path() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    for (n, (value, agreed)) in [
        (None, Ok(1)),
        (Some("7"), Ok(7)),
        (Some("1000"), Ok(100)),
        (
            Some("big"),
            Err("max-size is \"big\", which is no number of 32 bits"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let paths = create(&dom0, 2, 1, n);
        if let Some(value) = value {
            dom0.write(&format!("{}/max-size", paths.back), value)
                .unwrap();
        }
        let mut device = front(&xenstore, n, None);
        set(&dom0, &paths.back, XenbusState::InitWait);
        let share = device.wait_news(deadline()).unwrap();
        assert!(
            matches!(share, Some(FrontNews::Share { back: DomId(1) })),
            "{share:?}"
        );
        device.ring_ready(vec![("ring", "8".into())]);
        wait_state(&dom0, &paths.front, XenbusState::Initialised);
        assert_eq!(dom0.read(&format!("{}/ring", paths.front)).unwrap(), b"8");
        set(&dom0, &paths.back, XenbusState::Connected);
        match agreed {
            Ok(size) => {
                let news = device.wait_news(deadline()).unwrap();
                assert!(
                    matches!(news, Some(FrontNews::Connected(is)) if is == size),
                    "{news:?}"
                );
            }
            Err(why) => {
                wait_state(&dom0, &paths.front, XenbusState::Closing);
                set(&dom0, &paths.back, XenbusState::Closed);
                loop {
                    match device.wait_news(deadline()).unwrap() {
                        Some(FrontNews::Free) => device.freed(),
                        Some(FrontNews::Removed { why: told }) => {
                            assert!(told.contains(why), "{told}");
                            break;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                let told = read_error(&dom0, &paths.front).unwrap().unwrap();
                assert!(told.contains(&paths.back) && told.contains(why), "{told}");
                // What would speak for another front end is gone.
                assert!(!dom0.exists(&format!("{}/ring", paths.front)).unwrap());
            }
        }
    }
}

#[test]
fn a_back_end_that_never_comes_is_given_up() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let paths = create(&dom0, 2, 1, 0);
    let mut device = front(&xenstore, 0, Some(Duration::from_millis(50)));
    let news = device.wait_news(deadline()).unwrap();
    let Some(FrontNews::Removed { why }) = news else {
        panic!("{news:?}")
    };
    assert!(why.contains("not in service after 50ms"), "{why}");
    assert!(why.contains("is Initialising (1)"), "{why}");
    let state = read_state(&dom0, &paths.front).unwrap();
    assert_eq!(state, Some(XenbusState::Closed));
}

#[test]
fn a_front_end_follows_its_device_to_another_back_ends_domain() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let old = create(&dom0, 2, 1, 0);
    let mut device = front(&xenstore, 0, None);
    set(&dom0, &old.back, XenbusState::InitWait);
    let share = device.wait_news(deadline()).unwrap();
    assert!(matches!(share, Some(FrontNews::Share { back: DomId(1) })));
    // Before the ring is there the domain dies, and the toolstack makes the device again elsewhere.
    dom0.rm(&old.back).unwrap();
    let new = create(&dom0, 2, 3, 0);
    device.ring_ready(vec![("ring", "8".into())]);
    set(&dom0, &new.back, XenbusState::InitWait);
    let mut freed = false;
    loop {
        match device.wait_news(deadline()).unwrap() {
            Some(FrontNews::Free) => {
                freed = true;
                device.freed();
            }
            Some(FrontNews::Share { back }) => {
                assert_eq!(back, DomId(3));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(freed, "the ring of the old device was never given up");
    let ring = format!("{}/ring", new.front);
    assert!(
        !dom0.exists(&ring).unwrap(),
        "announced to the wrong domain"
    );
}

/// What the watch has told, as it adds up.
fn follow(
    watch: &DeviceWatch,
    there: &mut BTreeMap<String, DomId>,
    until: impl Fn(&BTreeMap<String, DomId>) -> bool,
) {
    while !until(there) {
        match watch.wait_news(deadline()).unwrap() {
            News::Piece(RosterNews::Appeared { back, seen }) => {
                assert_eq!(there.insert(back, seen.front_domid), None);
            }
            News::Piece(RosterNews::Gone { back }) => {
                assert!(there.remove(&back).is_some(), "{back}");
            }
            News::Piece(RosterNews::Changed { back, .. }) => assert!(there.contains_key(&back)),
            News::Piece(RosterNews::Trouble { .. }) => {}
            other => panic!("{other:?}, {there:?}"),
        }
    }
}

#[test]
fn devices_come_and_go_in_a_driver_domain() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    let watch = DeviceWatch::start("backend/thing", Limits::at_depth(2), opener(&xenstore, 1));
    let watch = watch.unwrap();
    let mut there = BTreeMap::new();
    for (front, n) in [(2, 0), (2, 1), (3, 0), (4, 0)] {
        create(&dom0, front, 1, n);
    }
    follow(&watch, &mut there, |there| there.len() == 4);
    assert_eq!(there["backend/thing/3/0"], DomId(3));
    // One of them is half there, another makes no sense: only their trouble.
    dom0.write("/local/domain/1/backend/thing/2/7/online", "1")
        .unwrap();
    dom0.write("/local/domain/1/backend/thing/4/0/frontend-id", "me")
        .unwrap();
    follow(&watch, &mut there, |there| there.len() == 3);
    create(&dom0, 3, 1, 1);
    follow(&watch, &mut there, |there| there.len() == 4);
    // A whole domain's go at once, and one is made anew that was in service.
    set(&dom0, &paths(3, 1, 0).back, XenbusState::Connected);
    loop {
        match watch.wait_news(deadline()).unwrap() {
            News::Piece(RosterNews::Changed { seen, .. })
                if seen.state == XenbusState::Connected =>
            {
                break;
            }
            News::Piece(_) => {}
            other => panic!("{other:?}"),
        }
    }
    dom0.rm("/local/domain/1/backend/thing/2").unwrap();
    create(&dom0, 3, 1, 0);
    follow(&watch, &mut there, |there| {
        !there.contains_key("backend/thing/3/0")
    });
    follow(&watch, &mut there, |there| {
        there.contains_key("backend/thing/3/0")
    });
    follow(&watch, &mut there, |there| there.len() == 2);
    dom0.rm("/local/domain/1/backend").unwrap();
    follow(&watch, &mut there, BTreeMap::is_empty);
    create(&dom0, 2, 1, 0);
    follow(&watch, &mut there, |there| there.len() == 1);
}

#[test]
fn a_directory_that_stays_half_made_and_one_too_many_are_told() {
    let xenstore = set_up();
    let dom0 = xenstore.dom0();
    dom0.write("/local/domain/1/backend/thing/2/7/online", "1")
        .unwrap();
    let limits = Limits {
        patience: Duration::from_millis(10),
        devices: 2,
        ..Limits::at_depth(3)
    };
    let watch = DeviceWatch::start("backend", limits, opener(&xenstore, 1)).unwrap();
    let trouble = || loop {
        match watch.wait_news(deadline()).unwrap() {
            News::Piece(RosterNews::Trouble { back, why }) => return (back, why),
            News::Piece(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let (back, why) = trouble();
    assert_eq!(back, "backend/thing/2/7");
    assert_eq!(why, "backend/thing/2/7/state is missing");
    create(&dom0, 3, 1, 0);
    create(&dom0, 4, 1, 0);
    let (back, why) = trouble();
    assert_eq!(back, "backend/thing/4/0");
    assert!(why.contains("more devices"), "{why}");
    // There is room now.
    dom0.rm("/local/domain/1/backend/thing/2").unwrap();
    loop {
        match watch.wait_news(deadline()).unwrap() {
            News::Piece(RosterNews::Appeared { back, .. }) if back.ends_with("4/0") => break,
            News::Piece(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
