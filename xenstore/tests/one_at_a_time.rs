//! What is no socket is the kernel's device, which has room for one request of a file: the next one goes
//! when that is answered. A pseudo terminal stands for the device.
#![allow(clippy::unwrap_used, reason = "a test")]

use pv_xenstore::Client;
use pv_xenstore::client::Request;
use pv_xenstore::wire::{Decoder, Kind, Packet};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// The daemon's end and the client's.
fn terminal() -> (OwnedFd, OwnedFd) {
    let daemon = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&daemon).unwrap();
    unlockpt(&daemon).unwrap();
    let name = ptsname(&daemon, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let client = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
    let mut attributes = tcgetattr(&client).unwrap();
    attributes.make_raw();
    tcsetattr(&client, OptionalActions::Now, &attributes).unwrap();
    (daemon, client)
}

/// What has been sent by now.
fn sent(daemon: &OwnedFd, decoder: &mut Decoder) -> Vec<Packet> {
    rustix::io::ioctl_fionbio(daemon, true).unwrap();
    let mut bytes = [0; 4096];
    match rustix::io::read(daemon, &mut bytes) {
        Ok(n) => decoder.push(&bytes[..n]),
        Err(Errno::AGAIN) => {}
        Err(errno) => panic!("{errno}"),
    }
    std::iter::from_fn(|| decoder.next_packet().unwrap()).collect()
}

fn answer(daemon: &OwnedFd, request: &Packet) {
    let path = request.payload.strip_suffix(b"\0").unwrap();
    let answer = Packet::new(Kind::Read, request.req_id, 0, path).encode();
    assert_eq!(rustix::io::write(daemon, &answer), Ok(answer.len()));
}

#[test]
fn the_device_has_one_request_on_its_way() {
    let (daemon, device) = terminal();
    let client = Client::from_stream(device).unwrap();
    let mut decoder = Decoder::new();
    let paths = ["a", "b", "c"];
    let tickets = paths.map(|path| client.submit(Request::read(path)).unwrap());
    for path in paths {
        let now = sent(&daemon, &mut decoder);
        let [request] = &now[..] else {
            panic!("{path}: {now:?}")
        };
        assert_eq!(request.payload, [path.as_bytes(), b"\0"].concat());
        assert!(!client.wants_room(), "for an answer, and not for room");
        answer(&daemon, request);
        // Takes it in, and sends the next.
        while client.drive().is_ok() && !tickets.iter().any(|ticket| ticket.is_answered()) {}
        if path != "c" {
            let deadline = std::time::Instant::now() + SOON;
            while !is_sent(&daemon) {
                assert!(std::time::Instant::now() < deadline, "the next is not sent");
                client.drive().unwrap();
            }
        }
    }
    for (ticket, path) in tickets.into_iter().zip(paths) {
        assert_eq!(ticket.wait(SOON).unwrap(), path.as_bytes());
    }
}

/// Is there something to read?
fn is_sent(daemon: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(daemon).unwrap() > 0
}

#[test]
fn a_socket_has_many() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = Client::from_stream(ours.into()).unwrap();
    let daemon = OwnedFd::from(theirs);
    let tickets = ["a", "b", "c"].map(|path| client.submit(Request::read(path)).unwrap());
    let now = sent(&daemon, &mut Decoder::new());
    assert_eq!(now.len(), tickets.len());
}

/// Threads that wait for each other's answers all get their own.
#[test]
fn threads_on_the_device_take_turns() {
    const THREADS: usize = 8;
    const EACH: usize = 50;
    let (daemon, device) = terminal();
    let client = Client::from_stream(device).unwrap();
    client.set_deadline(SOON);
    // It stays open to the end: what is in a terminal goes with it.
    let daemon = &daemon;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut decoder = Decoder::new();
            for _ in 0..THREADS * EACH {
                let mut bytes = [0; 4096];
                let request = loop {
                    if let Some(request) = decoder.next_packet().unwrap() {
                        break request;
                    }
                    let n = rustix::io::read(daemon, &mut bytes).unwrap();
                    decoder.push(&bytes[..n]);
                };
                assert_eq!(decoder.buffered(), 0, "one at a time");
                answer(daemon, &request);
            }
        });
        for thread in 0..THREADS {
            let client = &client;
            scope.spawn(move || {
                for round in 0..EACH {
                    let path = format!("/{thread}/{round}");
                    assert_eq!(client.read_string(&path).unwrap(), path);
                }
            });
        }
    });
}
