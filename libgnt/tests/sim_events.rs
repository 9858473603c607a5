//! Event channels of the simulated Xen: from process to process, past the host.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use libgnt::platform::{Evtchn, Platform};
use libgnt::types::{DomId, EvtchnPort};
use rustix::io::Errno;
use sim_common::{PATIENCE, Process, Xen, errno, hear, readable, role, say, wait_events};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const ROUNDS: u32 = 2000;

/// Takes one event, and writes its port back.
fn receive(evtchn: &dyn Evtchn) -> Vec<EvtchnPort> {
    let ports = wait_events(evtchn);
    evtchn.unmask(&ports).unwrap();
    ports
}

#[test]
fn ping_pong_between_processes_asks_the_host_nothing() {
    if let Some((_, dir)) = role() {
        let xen = libgnt::sim::client::connect(&dir, Some(DomId(5)), "pong").unwrap();
        let evtchn = xen.open_evtchn().unwrap();
        let port = EvtchnPort(hear().unwrap().parse().unwrap());
        let port = evtchn.bind_interdomain(DomId(0), port).unwrap();
        // Xen raises a port that is bound to another, in case a notify came before.
        assert_eq!(receive(&*evtchn), [port]);
        evtchn.notify(port).unwrap();
        say("ready");
        for _ in 0..ROUNDS {
            assert_eq!(receive(&*evtchn), [port]);
            evtchn.notify(port).unwrap();
        }
        hear();
        return;
    }
    let xen = Xen::start();
    let ping = xen.join(0, "ping");
    let evtchn = ping.open_evtchn().unwrap();
    let port = evtchn.bind_unbound(DomId(5)).unwrap();
    let test = "ping_pong_between_processes_asks_the_host_nothing";
    let mut child = Process::spawn(test, "pong", xen.dir.path());
    child.say(&port.0.to_string());
    assert_eq!(child.hear(), "ready");
    receive(&*evtchn);
    // The first notify asks where the port leads; only that one.
    evtchn.notify(port).unwrap();
    receive(&*evtchn);
    let before = xen.host.stats().requests();
    for _ in 1..ROUNDS {
        evtchn.notify(port).unwrap();
        assert_eq!(receive(&*evtchn), [port]);
    }
    assert_eq!(
        xen.host.stats().requests(),
        before,
        "an event asked the host"
    );
    child.finish();
}

struct Pair {
    _xen: Xen,
    near: Box<dyn Evtchn>,
    far: Box<dyn Evtchn>,
    near_port: EvtchnPort,
    far_port: EvtchnPort,
}

impl Pair {
    fn new() -> Self {
        let xen = Xen::start();
        let near = xen.join(0, "near").open_evtchn().unwrap();
        let far = xen.join(5, "far").open_evtchn().unwrap();
        let near_port = near.bind_unbound(DomId(5)).unwrap();
        let far_port = far.bind_interdomain(DomId(0), near_port).unwrap();
        // A bind may raise the port, in case a notify came before it.
        for evtchn in [&near, &far] {
            while readable(&**evtchn, Duration::ZERO) {
                let mut ports = Vec::new();
                evtchn.read(&mut ports).unwrap();
                evtchn.unmask(&ports).unwrap();
            }
        }
        Pair {
            _xen: xen,
            near,
            far,
            near_port,
            far_port,
        }
    }
}

#[test]
fn a_port_is_masked_until_it_is_written_back() {
    let pair = Pair::new();
    pair.far.notify(pair.far_port).unwrap();
    assert_eq!(wait_events(&*pair.near), [pair.near_port]);
    pair.far.notify(pair.far_port).unwrap();
    let mut none = Vec::new();
    assert_eq!(
        pair.near.read(&mut none).unwrap(),
        0,
        "delivered while masked"
    );
    assert!(!readable(&*pair.near, Duration::ZERO), "woken while masked");
    pair.near.unmask(&[pair.near_port]).unwrap();
    assert!(readable(&*pair.near, PATIENCE));
    assert_eq!(wait_events(&*pair.near), [pair.near_port]);
    pair.near.unmask(&[pair.near_port]).unwrap();
    assert!(
        !readable(&*pair.near, Duration::ZERO),
        "an event out of nothing"
    );
}

#[test]
fn a_notify_after_the_peer_left_is_silent_and_a_foreign_port_is_refused() {
    let pair = Pair::new();
    pair.far.notify(pair.far_port).unwrap();
    wait_events(&*pair.near);
    pair.near.unbind(pair.near_port).unwrap();
    pair.far.notify(pair.far_port).expect("silent");
    assert_eq!(errno(pair.near.notify(pair.near_port)), Errno::NOTCONN);
    assert_eq!(errno(pair.near.unbind(pair.near_port)), Errno::NOTCONN);
    let far_port = pair.far_port;
    drop(pair.near);
    pair.far.notify(far_port).expect("silent");
}

#[test]
fn a_restricted_file_binds_to_one_domain_only() {
    let xen = Xen::start();
    let evtchn = xen.join(0, "back").open_evtchn().unwrap();
    evtchn.restrict(DomId(5)).unwrap();
    assert_eq!(errno(evtchn.restrict(DomId(6))), Errno::ACCESS);
    assert_eq!(errno(evtchn.bind_unbound(DomId(6))), Errno::ACCESS);
    // Not even for its own domain.
    assert_eq!(errno(evtchn.bind_unbound(DomId(5))), Errno::ACCESS);
}

#[test]
fn a_virq_comes_from_the_host() {
    let xen = Xen::start();
    let dom0 = xen.join(0, "toolstack");
    let evtchn = xen.join(5, "front").open_evtchn().unwrap();
    let port = evtchn.bind_virq(xen_virq()).unwrap();
    dom0.raise_virq(DomId(5), xen_virq()).unwrap();
    assert_eq!(wait_events(&*evtchn), [port]);
    assert_eq!(
        errno(dom0.raise_virq(DomId(5), xen_virq() + 1)),
        Errno::NOENT
    );
}

/// `VIRQ_DEBUG`, which any domain may bind.
fn xen_virq() -> u32 {
    1
}

/// A notify races with the other end's unbind, so that the closed port is raised and taken. The next
/// port of the same number is pending from its bind on, and must be heard.
#[test]
fn a_ports_number_used_again_loses_nothing() {
    const ROUNDS: u32 = 300;
    let xen = Xen::start();
    let near = xen.join(0, "near").open_evtchn().unwrap();
    let front = xen.join(5, "far");
    for round in 0..ROUNDS {
        let far = front.open_evtchn().unwrap();
        let far_port = far.bind_unbound(DomId(0)).unwrap();
        let port = near.bind_interdomain(DomId(5), far_port).unwrap();
        let heard = receive(&*near);
        assert_eq!(heard, [port], "round {round}");
        std::thread::scope(|scope| {
            scope.spawn(|| far.notify(far_port).unwrap());
            // Somewhere in the notifier's question where its port leads.
            for _ in 0..(round * 37) % 2000 {
                std::hint::spin_loop();
            }
            near.unbind(port).unwrap();
        });
        // The port is closed: what is still read of it is nobody's, and nobody writes it back.
        let mut ports = Vec::new();
        while near.read(&mut ports).unwrap() > 0 {}
    }
}

/// Several raisers and several receivers on one file: every raise is followed by a delivery that
/// sees its data.
#[test]
fn many_threads_lose_nothing() {
    const PORTS: usize = 4;
    const EVENTS: u64 = 20_000;
    let xen = Xen::start();
    let near: Arc<dyn Evtchn> = xen.join(0, "near").open_evtchn().unwrap().into();
    let far: Arc<dyn Evtchn> = xen.join(5, "far").open_evtchn().unwrap().into();
    let ports: Vec<(EvtchnPort, EvtchnPort)> = (0..PORTS)
        .map(|_| {
            let near_port = near.bind_unbound(DomId(5)).unwrap();
            (
                near_port,
                far.bind_interdomain(DomId(0), near_port).unwrap(),
            )
        })
        .collect();
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..PORTS).map(|_| AtomicU64::new(0)).collect());
    let seen: Arc<Vec<AtomicU64>> = Arc::new((0..PORTS).map(|_| AtomicU64::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let receivers: Vec<_> = (0..2)
        .map(|_| {
            let (near, ports) = (Arc::clone(&near), ports.clone());
            let (sent, seen, stop) = (Arc::clone(&sent), Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    // Bounded, so that the thread sees `stop`; the events themselves wake it.
                    readable(&*near, Duration::from_millis(50));
                    let mut got = Vec::new();
                    near.read(&mut got).unwrap();
                    for port in &got {
                        let n = ports
                            .iter()
                            .position(|(near, _)| near == port)
                            .expect("our port");
                        seen[n].fetch_max(sent[n].load(Ordering::Acquire), Ordering::AcqRel);
                    }
                    near.unmask(&got).unwrap();
                }
            })
        })
        .collect();
    let raisers: Vec<_> = (0..PORTS)
        .map(|n| {
            let (far, port, sent) = (Arc::clone(&far), ports[n].1, Arc::clone(&sent));
            std::thread::spawn(move || {
                for event in 1..=EVENTS {
                    sent[n].store(event, Ordering::Release);
                    far.notify(port).unwrap();
                }
            })
        })
        .collect();
    for raiser in raisers {
        raiser.join().unwrap();
    }
    sim_common::eventually("the last event of every port", || {
        seen.iter()
            .all(|seen| seen.load(Ordering::Acquire) == EVENTS)
    });
    stop.store(true, Ordering::Release);
    for receiver in receivers {
        receiver.join().unwrap();
    }
}
