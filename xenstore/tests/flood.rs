//! Clients that take too much: of the server's time, of its patience, of its tree.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use libgnt::DomId;
use pv_xenstore::server::rate::WriteRate;
use pv_xenstore::wire::{Decoder, Kind, Packet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Keeps a hundred writes in flight until it is told to stop; counts the answers.
fn flood(mut stream: UnixStream, path: &str, stop: &AtomicBool, answers: &AtomicUsize) {
    let batch: Vec<u8> = (0..100u32)
        .flat_map(|n| Packet::new(Kind::Write, n, 0, format!("{path}\0{n}")).encode())
        .collect();
    let (mut decoder, mut buffer) = (Decoder::new(), [0; 4096]);
    stream.write_all(&batch).unwrap();
    let mut in_flight = 100;
    while in_flight > 0 {
        let n = stream.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "cut");
        decoder.push(&buffer[..n]);
        while decoder.next_packet().unwrap().is_some() {
            answers.fetch_add(1, Ordering::Relaxed);
            in_flight -= 1;
        }
        if in_flight == 0 && !stop.load(Ordering::Relaxed) {
            stream.write_all(&batch).unwrap();
            in_flight = 100;
        }
    }
}

#[test]
fn a_flood_starves_nobody() {
    let xenstore = Xenstore::new();
    let (stop, answers) = (Arc::default(), Arc::default());
    let floods: Vec<_> = (0..8)
        .map(|n| {
            let stream = UnixStream::connect(xenstore.socket()).unwrap();
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            std::thread::spawn(move || flood(stream, &format!("/flood/{n}"), &stop, &answers))
        })
        .collect();
    let client = xenstore.dom0();
    for n in 0..200 {
        client.write("/calm", n.to_string()).unwrap();
        assert_eq!(client.read("/calm").unwrap(), n.to_string().as_bytes());
    }
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    // They were served, too: otherwise this showed nothing.
    assert!(answers.load(Ordering::Relaxed) > 1000);
}

/// The limit holds the flood back while it is in the way of a transaction, and holds up nobody else.
#[test]
fn a_domain_that_writes_too_fast_waits_and_the_others_do_not() {
    let xenstore = Xenstore::with(|config| {
        let mut rate = WriteRate::default();
        // Nothing comes back, so the burst is all that is written.
        (rate.rate, rate.new_domains) = (0, 1);
        config.write_rate = Some(rate);
    });
    xenstore.server.introduce(DomId(1), "guest").unwrap();
    let dom0 = xenstore.dom0();
    let mut stream = xenstore.stream(1);
    let write = |n: u32| Packet::new(Kind::Write, n, 0, format!("data/x\0{n}")).encode();
    let mut decoder = Decoder::new();
    let mut answered = |stream: &mut UnixStream, count: usize| {
        let mut buffer = [0; 4096];
        let mut seen = 0;
        while seen < count {
            let n = stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "cut");
            decoder.push(&buffer[..n]);
            while let Some(packet) = decoder.next_packet().unwrap() {
                assert_eq!(packet.known_kind(), Some(Kind::Write));
                seen += 1;
            }
        }
    };
    // Nobody's transaction is open: nothing is limited.
    let all: Vec<u8> = (0..100).flat_map(write).collect();
    stream.write_all(&all).unwrap();
    answered(&mut stream, 100);
    let last = dom0
        .transaction(|tx| {
            tx.read("/local/domain/1/name")?;
            stream.write_all(&all).unwrap();
            // The burst of ten, and one on credit.
            answered(&mut stream, 11);
            for _ in 0..50 {
                dom0.read("/local/domain/1/data/x")?;
            }
            dom0.read_string("/local/domain/1/data/x")
        })
        .unwrap();
    assert_eq!(last, "10", "the eleventh is the last that was let through");
}

#[test]
fn who_stops_in_mid_message_holds_up_nobody() {
    let xenstore = Xenstore::new();
    let whole = Packet::new(Kind::Write, 1, 0, "/x\0value").encode();
    let streams: Vec<UnixStream> = (0..whole.len())
        .map(|length| {
            let mut stream = UnixStream::connect(xenstore.socket()).unwrap();
            stream.write_all(&whole[..length]).unwrap();
            stream
        })
        .collect();
    let dom0 = xenstore.dom0();
    dom0.write("/y", "1").unwrap();
    assert!(!dom0.exists("/x").unwrap(), "half a message does nothing");
    // Each goes on where it stopped.
    for (length, mut stream) in streams.into_iter().enumerate() {
        stream.write_all(&whole[length..]).unwrap();
        let mut answer = [0; 19];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[16..], *b"OK\0");
    }
}

/// A client that writes its requests, closes its half, and reads then, gets all its answers.
#[test]
fn requests_before_the_end_of_a_connection_are_answered() {
    let xenstore = Xenstore::new();
    let mut stream = UnixStream::connect(xenstore.socket()).unwrap();
    let all: Vec<u8> = (0..200)
        .flat_map(|n| Packet::new(Kind::Write, n, 0, format!("/n/{n}\0x")).encode())
        .collect();
    stream.write_all(&all).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    assert_eq!(answers.len(), 200 * 19);
    assert_eq!(xenstore.dom0().directory("/n").unwrap().len(), 200);
}

/// More answers than the server lets wait: it goes on as they are taken, to the last request.
#[test]
fn who_reads_late_gets_all_its_answers() {
    for domid in [None, Some(1)] {
        let xenstore = Xenstore::new();
        xenstore.server.introduce(DomId(1), "guest").unwrap();
        xenstore
            .dom0()
            .write("/local/domain/1/name", "n".repeat(2000))
            .unwrap();
        let stream = domid.map(|domid| xenstore.stream(domid));
        let stream = stream.unwrap_or_else(|| UnixStream::connect(xenstore.socket()).unwrap());
        const REQUESTS: u32 = 2000;
        let mut writer = stream.try_clone().unwrap();
        let writes = std::thread::spawn(move || {
            for n in 0..REQUESTS {
                let read = Packet::new(Kind::Read, n, 0, "/local/domain/1/name\0");
                writer.write_all(&read.encode()).unwrap();
            }
        });
        // The answers fill both sockets' buffers and the queue, before the first is taken.
        let dom0 = xenstore.dom0();
        for _ in 0..200 {
            dom0.read("/local/domain/1/domid").unwrap();
        }
        let (mut stream, mut decoder) = (stream, Decoder::new());
        let (mut next, mut buffer) = (0, [0; 4096]);
        while next < REQUESTS {
            let n = stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "cut");
            decoder.push(&buffer[..n]);
            while let Some(packet) = decoder.next_packet().unwrap() {
                assert_eq!((packet.req_id, packet.payload.len()), (next, 2000));
                next += 1;
            }
        }
        writes.join().unwrap();
    }
}
