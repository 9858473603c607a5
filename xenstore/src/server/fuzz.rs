//! Random requests, half sensible, half garbage: the server never panics, always answers once,
//! and its books stay right. The seed is printed on failure.

use super::queue::{OutQueue, QueueLimits};
use super::quota::Quotas;
use super::{Action, ConnId, Input, Server};
use crate::testing::step;
use crate::wire::{Decoder, PAYLOAD_MAX_BYTES, Packet};
use libgnt::DomId;

fn payload(rng: &mut fastrand::Rng) -> Vec<u8> {
    const WORDS: &[&[u8]] = &[
        b"/",
        b"/a",
        b"/a/b",
        b"a",
        b"a/b",
        b"@releaseDomain",
        b"@",
        b"",
        b"T",
        b"F",
        b"0",
        b"1",
        b"9",
        b"n0",
        b"b1",
        b"r2",
        b"/local/domain/1",
        b"/local/domain/1/data/x",
        b"data/x",
        b"4294967296",
        b"data",
        b"\xff\xfe",
        b"..",
        b"print",
        b"domid",
    ];
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(0..4) {
        bytes.extend_from_slice(WORDS[rng.usize(0..WORDS.len())]);
        bytes.push(0);
    }
    if rng.u8(0..4) == 0 {
        bytes.pop();
    }
    if rng.u8(0..8) == 0 {
        for _ in 0..rng.usize(0..64) {
            bytes.push(rng.u8(..));
        }
    }
    if rng.u8(0..64) == 0 {
        bytes.resize(PAYLOAD_MAX_BYTES, b'a');
    }
    bytes
}

fn check_books(server: &Server, seed: u64) {
    let all = server.tree().subtree("/");
    for domid in 0..5 {
        let count = all
            .iter()
            .filter(|(_, node)| node.grant().owner() == DomId(domid))
            .count();
        assert_eq!(
            count,
            server.tree().owned_by(DomId(domid)),
            "domain {domid}, seed {seed}"
        );
    }
}

fn connect(server: &mut Server, conn: ConnId, domid: DomId) {
    step(
        server,
        Input::Connected {
            conn,
            domid,
            device: false,
        },
    );
}

/// A domain comes, and connects.
fn come(server: &mut Server, connections: &mut Vec<ConnId>, domid: DomId) {
    let conn = ConnId(connections.len() as u64);
    step(server, Input::Introduce(domid));
    connect(server, conn, domid);
    connections.push(conn);
}

#[test]
fn random_requests_are_answered_and_never_panic() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut server = Server::new(Quotas::default());
        let mut connections: Vec<ConnId> = Vec::new();
        for domid in [0, 0, 1, 1, 2] {
            come(&mut server, &mut connections, DomId(domid));
        }
        for _ in 0..2000 {
            let conn = connections[rng.usize(0..connections.len())];
            let kind = if rng.u8(0..16) == 0 {
                rng.u32(..)
            } else {
                rng.u32(0..24)
            };
            let tx_id = if rng.bool() { 0 } else { rng.u32(0..4) };
            let packet = Packet {
                kind,
                req_id: rng.u32(..),
                tx_id,
                payload: payload(&mut rng),
            };
            let actions = step(&mut server, Input::Request(conn, packet.clone()));
            let replies = actions
                .iter()
                .filter(|action| matches!(action, Action::Reply(..)))
                .count();
            let known = server.knows(conn);
            assert_eq!(
                replies,
                usize::from(known || !actions.is_empty()),
                "seed {seed} {packet:?}"
            );
            for action in &actions {
                let (Action::Reply(_, p) | Action::Event(_, p)) = action else {
                    continue;
                };
                assert!(
                    p.payload.len() <= PAYLOAD_MAX_BYTES,
                    "seed {seed} {packet:?}"
                );
            }
            if rng.u8(..) == 0 {
                let domid = DomId(rng.u16(0..3));
                step(&mut server, Input::Release(domid));
                come(&mut server, &mut connections, domid);
            }
        }
        check_books(&server, seed);
    }
}

#[test]
fn random_bytes_are_messages_or_a_typed_error() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut server = Server::new(Quotas::default());
        let conn = ConnId(1);
        connect(&mut server, conn, DomId(1));
        let (mut decoder, mut queue) = (Decoder::new(), OutQueue::new(QueueLimits::default()));
        'stream: for _ in 0..50 {
            let mut bytes: Vec<u8> = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect();
            // Small lengths, or nothing would ever pass the decoder.
            for byte in bytes.iter_mut().skip(1).step_by(2) {
                *byte = 0;
            }
            decoder.push(&bytes);
            loop {
                match decoder.next_packet() {
                    Ok(Some(packet)) => {
                        for action in step(&mut server, Input::Request(conn, packet)) {
                            if let Action::Reply(_, reply) = action {
                                queue.push_reply(&reply);
                            }
                        }
                        while !queue.is_empty() {
                            let some = queue.front().len().min(rng.usize(1..64));
                            queue.advance(some);
                        }
                    }
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
        }
    }
}
