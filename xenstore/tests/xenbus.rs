//! The handshake of both ends over a real server, with each domain's own rights.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use libgnt::machine::{Machine, monotonic};
use pv_xenstore::toolstack::{BlockDevice, DevicePaths, End};
use pv_xenstore::xenbus::node::{Ends, Switched, read_online, read_state, switch_state};
use pv_xenstore::xenbus::{SwitchState, XenbusState, back, front};
use pv_xenstore::{Client, Permission, Rights};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn front_end(paths: &DevicePaths) -> Ends<'_> {
    Ends {
        own: &paths.front,
        peer: &paths.back,
        link: Some("backend"),
    }
}

fn back_end(paths: &DevicePaths) -> Ends<'_> {
    Ends {
        own: &paths.back,
        peer: &paths.front,
        link: None,
    }
}

/// From Initialising.
fn first(to: XenbusState, while_peer: Option<XenbusState>) -> SwitchState {
    SwitchState {
        to,
        from: XenbusState::Initialising,
        while_peer,
    }
}

struct Front {
    client: Client,
    paths: DevicePaths,
    machine: front::Handshake,
    rings: u32,
}

impl Front {
    fn start(xenstore: &Xenstore, paths: &DevicePaths) -> Front {
        let client = xenstore.client(2);
        client
            .watch(&format!("{}/state", paths.back), "peer")
            .unwrap();
        client
            .watch(&format!("{}/state", paths.front), "own")
            .unwrap();
        let machine = front::Handshake::new(Some(8));
        let mut front = Front {
            client,
            paths: paths.clone(),
            machine,
            rings: 0,
        };
        let own = read_state(&front.client, &front.paths.front).unwrap();
        front.tell(front::Input::Start(own));
        front
    }

    fn look(&self) -> front::Input {
        front::Input::Peer {
            state: read_state(&self.client, &self.paths.back).unwrap(),
            online: read_online(&self.client, &self.paths.back).unwrap(),
        }
    }

    fn pump(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.client.next_watch_event().unwrap() {
            any = true;
            match event.token.as_str() {
                "peer" => self.tell(self.look()),
                _ => {
                    let own = read_state(&self.client, &self.paths.front).unwrap();
                    self.tell(front::Input::Own(own));
                }
            }
        }
        any
    }

    fn tell(&mut self, input: front::Input) {
        use front::{Action, Input};
        let mut actions = Vec::new();
        self.machine.step(monotonic(), input, &mut actions);
        for action in actions {
            match action {
                Action::PrepareRing => {
                    self.rings += 1;
                    self.tell(Input::RingReady);
                }
                Action::ReadPeerAndConnect => {
                    let sectors = format!("{}/sectors", self.paths.back);
                    assert_eq!(self.client.read_parsed::<u64>(&sectors).unwrap(), 2048);
                    self.tell(Input::Connected);
                }
                Action::ReadPeer => self.tell(self.look()),
                Action::SwitchState(switch) => {
                    let ring = [("ring-ref", self.rings.to_string())];
                    let nodes = if switch.to == XenbusState::Initialised {
                        &ring[..]
                    } else {
                        &[]
                    };
                    let ends = front_end(&self.paths);
                    match switch_state(&self.client, ends, switch, nodes).unwrap() {
                        Switched::Done if switch.while_peer.is_some() => self.tell(Input::Switched),
                        Switched::Done => {}
                        Switched::OwnGone => self.tell(Input::Own(None)),
                        Switched::Renewed => self.tell(Input::Renewed),
                        Switched::PeerMoved(state) => {
                            let online = read_online(&self.client, &self.paths.back).unwrap();
                            self.tell(Input::PeerMoved { state, online });
                        }
                    }
                }
                Action::StopRequests => self.tell(Input::Quiet),
                Action::FreeResources => self.tell(Input::Freed),
                Action::ReportError(text) => panic!("{text}"),
                Action::RemoveDevice | Action::Refuse(_) => {}
            }
        }
    }
}

struct Back {
    client: Client,
    paths: DevicePaths,
    machine: back::Handshake,
    ring: Option<u32>,
}

impl Back {
    fn start(xenstore: &Xenstore, paths: &DevicePaths) -> Back {
        let client = xenstore.client(1);
        client
            .watch(&format!("{}/state", paths.front), "peer")
            .unwrap();
        client.watch(&paths.back, "own").unwrap();
        let machine = back::Handshake::new();
        let mut back = Back {
            client,
            paths: paths.clone(),
            machine,
            ring: None,
        };
        let own = read_state(&back.client, &back.paths.back).unwrap();
        let online = read_online(&back.client, &back.paths.back).unwrap();
        back.tell(back::Input::Start { own, online });
        back
    }

    fn pump(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.client.next_watch_event().unwrap() {
            any = true;
            if event.token == "peer" {
                let state = read_state(&self.client, &self.paths.front).unwrap();
                self.tell(back::Input::Peer(state));
            } else {
                let online = read_online(&self.client, &self.paths.back).unwrap();
                self.tell(back::Input::Online(online));
                let own = read_state(&self.client, &self.paths.back).unwrap();
                self.tell(back::Input::Own(own));
            }
        }
        any
    }

    fn tell(&mut self, input: back::Input) {
        use back::{Action, Input};
        let mut actions = Vec::new();
        self.machine.step(monotonic(), input, &mut actions);
        for action in actions {
            match action {
                Action::PublishFeatures => {
                    let node = format!("{}/feature-persistent", self.paths.back);
                    self.client.write(&node, "1").unwrap();
                }
                Action::ReadPeerAndConnect { .. } => {
                    let ring = self
                        .client
                        .read_parsed(&format!("{}/ring-ref", self.paths.front));
                    self.ring = Some(ring.unwrap());
                    self.tell(Input::Connected);
                }
                Action::ReadPeer => {
                    let state = read_state(&self.client, &self.paths.front).unwrap();
                    self.tell(Input::Peer(state));
                }
                Action::SwitchState(switch) => {
                    let size = [("sectors", "2048".to_owned())];
                    let nodes = if switch.to == XenbusState::Connected {
                        &size[..]
                    } else {
                        &[]
                    };
                    let ends = back_end(&self.paths);
                    match switch_state(&self.client, ends, switch, nodes).unwrap() {
                        Switched::Done if switch.while_peer.is_some() => self.tell(Input::Switched),
                        Switched::Done => {}
                        Switched::OwnGone => self.tell(Input::Own(None)),
                        Switched::Renewed => self.tell(Input::Renewed),
                        Switched::PeerMoved(state) => self.tell(Input::PeerMoved(state)),
                    }
                }
                Action::FreeResources => {
                    self.ring = None;
                    self.tell(Input::Freed);
                }
                Action::ReportError(text) => panic!("{text}"),
                Action::PeerGone | Action::RemoveDevice | Action::Refuse(_) => {}
            }
        }
    }
}

/// Until nobody has anything to say. The server answers a request after all events before it, so
/// one more request tells that nothing is on its way.
fn settle(front: &mut Front, back: &mut Back) {
    for _ in 0..200 {
        for client in [&front.client, &back.client] {
            client.read("domid").unwrap();
        }
        if !(front.pump() | back.pump()) {
            return;
        }
    }
    panic!("they never come to rest");
}

fn set_up() -> (Xenstore, BlockDevice, DevicePaths) {
    let xenstore = Xenstore::new();
    for domid in [1, 2] {
        xenstore.server.introduce(DomId(domid), "guest").unwrap();
    }
    let device = BlockDevice::new(DomId(2), DomId(1), "xvda".parse().unwrap(), "/tmp/image");
    let paths = device.create(&xenstore.dom0()).unwrap();
    (xenstore, device, paths)
}

fn in_service(front: &Front, back: &Back) {
    assert!(front.machine.is_connected() && back.machine.is_connected());
    assert_eq!(back.ring, Some(front.rings), "on one ring");
}

#[test]
fn connect_and_remove() {
    let (xenstore, device, paths) = set_up();
    let mut back = Back::start(&xenstore, &paths);
    let mut front = Front::start(&xenstore, &paths);
    settle(&mut front, &mut back);
    in_service(&front, &back);
    assert_eq!(front.rings, 1);
    std::thread::scope(|scope| {
        let dom0 = xenstore.dom0();
        let removal = scope.spawn(move || device.remove(&dom0, SOON).unwrap());
        let start = std::time::Instant::now();
        while !(front.machine.is_removed() && back.machine.is_removed()) {
            assert!(
                start.elapsed() < SOON,
                "{:?} {:?}",
                front.machine,
                back.machine
            );
            settle(&mut front, &mut back);
        }
        assert_eq!(removal.join().unwrap().end, End::Closed);
    });
    let dom0 = xenstore.dom0();
    assert!(!dom0.exists("/local/domain/1/backend").unwrap());
    assert!(!dom0.exists("/local/domain/2/device/vbd").unwrap());
}

#[test]
fn a_front_end_that_died_comes_back() {
    let (xenstore, _, paths) = set_up();
    let mut back = Back::start(&xenstore, &paths);
    let mut front = Front::start(&xenstore, &paths);
    settle(&mut front, &mut back);
    drop(front);
    back.tell(back::Input::PeerDied);
    assert_eq!(back.ring, None);
    let mut front = Front::start(&xenstore, &paths);
    front.rings = 10;
    settle(&mut front, &mut back);
    in_service(&front, &back);
}

#[test]
fn a_back_end_that_died_comes_back() {
    let (xenstore, _, paths) = set_up();
    let mut back = Back::start(&xenstore, &paths);
    let mut front = Front::start(&xenstore, &paths);
    settle(&mut front, &mut back);
    drop(back);
    front.tell(front::Input::PeerDied);
    assert_eq!(front.machine.own(), XenbusState::Closing);
    let mut back = Back::start(&xenstore, &paths);
    settle(&mut front, &mut back);
    in_service(&front, &back);
    assert_eq!(front.rings, 2, "a fresh ring");
}

#[test]
fn a_domain_that_dies_leaves_a_closed_back_end() {
    let (xenstore, device, paths) = set_up();
    let mut back = Back::start(&xenstore, &paths);
    let mut front = Front::start(&xenstore, &paths);
    settle(&mut front, &mut back);
    xenstore.server.release(DomId(2)).unwrap();
    // The front end's directory is gone, and its watch told so.
    for _ in 0..10 {
        back.client.read("domid").unwrap();
        back.pump();
    }
    assert_eq!((back.machine.own(), back.ring), (XenbusState::Closed, None));
    assert_eq!(
        device.remove(&xenstore.dom0(), SOON).unwrap().end,
        End::Closed
    );
    back.client.read("domid").unwrap();
    back.pump();
    assert!(back.machine.is_removed());
}

#[test]
fn nothing_is_written_where_nothing_is_or_for_a_peer_that_moved() {
    let (xenstore, device, paths) = set_up();
    let (back, front) = (xenstore.client(1), xenstore.client(2));
    let to = XenbusState::Initialised;
    let switch = first(to, Some(XenbusState::InitWait));
    let ring = [("ring-ref", "8".to_owned())];
    let switched = switch_state(&front, front_end(&paths), switch, &ring).unwrap();
    assert_eq!(
        switched,
        Switched::PeerMoved(Some(XenbusState::Initialising))
    );
    assert!(!front.exists("device/vbd/51712/ring-ref").unwrap());
    let waits = first(XenbusState::InitWait, None);
    switch_state(&back, back_end(&paths), waits, &[]).unwrap();
    assert_eq!(
        switch_state(&front, front_end(&paths), switch, &ring).unwrap(),
        Switched::Done
    );
    assert_eq!(read_state(&back, &paths.front).unwrap(), Some(to));
    let dom0 = xenstore.dom0();
    device.remove(&dom0, Duration::ZERO).unwrap();
    assert_eq!(read_state(&front, &paths.back).unwrap(), None);
    assert!(!read_online(&front, &paths.back).unwrap());
    for client in [&dom0, &back] {
        let gone = switch_state(client, back_end(&paths), first(to, None), &[]).unwrap();
        assert_eq!(gone, Switched::OwnGone);
    }
    assert!(
        !dom0.exists("/local/domain/1/backend").unwrap(),
        "no leftover is made"
    );
}

#[test]
fn nothing_is_written_into_a_device_that_was_made_anew() {
    let (xenstore, _, paths) = set_up();
    let front = xenstore.client(2);
    // It reads Initialising: no end that was further has written that.
    let closing = SwitchState {
        to: XenbusState::Closing,
        from: XenbusState::Connected,
        while_peer: None,
    };
    let renewed = switch_state(&front, front_end(&paths), closing, &[]).unwrap();
    assert_eq!(renewed, Switched::Renewed);
    let renewed = switch_state(&xenstore.client(1), back_end(&paths), closing, &[]).unwrap();
    assert_eq!(renewed, Switched::Renewed);
    // And the same state, with a back end elsewhere.
    let elsewhere = paths.back.replace("/1/", "/7/");
    let dom0 = xenstore.dom0();
    dom0.write(&format!("{}/backend", paths.front), elsewhere)
        .unwrap();
    let switch = first(XenbusState::Initialised, None);
    let renewed = switch_state(&front, front_end(&paths), switch, &[]).unwrap();
    assert_eq!(renewed, Switched::Renewed);
    let state = read_state(&front, &paths.front).unwrap();
    assert_eq!(state, Some(XenbusState::Initialising));
}

#[test]
fn values_of_other_toolstacks_are_read() {
    let (xenstore, _, paths) = set_up();
    let dom0 = xenstore.dom0();
    let online = format!("{}/online", paths.back);
    for (value, expected) in [
        (&b"1\0"[..], true),
        (b" 01\n", true),
        (b"0\0", false),
        (b"yes", false),
        (b"", false),
    ] {
        dom0.write(&online, value).unwrap();
        let read = read_online(&xenstore.client(2), &paths.back).unwrap();
        assert_eq!(read, expected, "{}", value.escape_ascii());
    }
    dom0.write(&format!("{}/state", paths.back), b"2\0")
        .unwrap();
    let front = xenstore.client(2);
    let switch = first(XenbusState::Initialised, Some(XenbusState::InitWait));
    assert_eq!(
        switch_state(&front, front_end(&paths), switch, &[]).unwrap(),
        Switched::Done
    );
}

#[test]
fn a_back_end_in_a_domain_of_its_own_may_be_told_of_dead_domains() {
    let (xenstore, _, _) = set_up();
    let reads = [
        Permission::new(Rights::None, DomId(0)),
        Permission::new(Rights::Read, DomId(1)),
    ];
    xenstore.dom0().set_perms("@releaseDomain", &reads).unwrap();
    let back = xenstore.client(1);
    back.watch("@releaseDomain", "r").unwrap();
    assert!(back.wait_watch_event(SOON).unwrap().is_some());
    xenstore.server.release(DomId(2)).unwrap();
    assert_eq!(
        back.wait_watch_event(SOON).unwrap().unwrap().path,
        "@releaseDomain"
    );
}
