//! How fast the xenstore server is, and how much a node takes.
//!
//! `cargo bench -p pv-xenstore --bench server [-- [--socket PATH] [--nodes N] [--seconds S]]`
//!
//! Without `--socket` the server runs on a thread of this process, and the memory of the tree is
//! measured, too. With it whatever xenstored listens there is the server: the rival, same client.
//!
//! Each row is the requests that one client thread gets answered in a second over so many
//! connections, with so many requests in flight on each: it writes a batch to every connection, then
//! reads all answers. A transaction is four requests: start, read, write, end. All rows come twice:
//! with a small tree, and with N nodes more, a hundred to a directory.
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use pv_xenstore::wire::{Decoder, Kind, Packet};
use pv_xenstore::{ServerConfig, ServerHandle};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

struct Conn {
    stream: UnixStream,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Conn {
    fn open(socket: &Path) -> Conn {
        Conn {
            stream: UnixStream::connect(socket).unwrap(),
            decoder: Decoder::new(),
            buffer: vec![0; 64 << 10],
        }
    }

    fn send(&mut self, packets: &[Packet]) {
        let bytes: Vec<u8> = packets.iter().flat_map(Packet::encode).collect();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message that is an event, or is none.
    fn hear(&mut self, events: bool) -> Packet {
        loop {
            while let Some(packet) = self.decoder.next_packet().unwrap() {
                if (packet.known_kind() == Some(Kind::WatchEvent)) == events {
                    return packet;
                }
            }
            let n = self.stream.read(&mut self.buffer).unwrap();
            assert_ne!(n, 0, "the server has closed the connection");
            self.decoder.push(&self.buffer[..n]);
        }
    }

    fn answer(&mut self) -> Packet {
        let packet = self.hear(false);
        assert_ne!(packet.known_kind(), Some(Kind::Error), "{packet:?}");
        packet
    }

    fn ask(&mut self, kind: Kind, payload: &str) -> Packet {
        self.send(&[Packet::new(kind, 0, 0, payload)]);
        self.answer()
    }
}

/// How often a second `round` is done, which does `count` things.
fn rate(span: Duration, count: usize, mut round: impl FnMut(usize)) -> f64 {
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < span {
        round(rounds);
        rounds += 1;
    }
    (rounds * count) as f64 / begun.elapsed().as_secs_f64()
}

fn requests(
    socket: &Path,
    span: Duration,
    [connections, depth]: [usize; 2],
    request: impl Fn(usize, usize) -> Packet,
) -> f64 {
    let mut conns: Vec<Conn> = (0..connections).map(|_| Conn::open(socket)).collect();
    rate(span, connections * depth, |round| {
        for (n, conn) in conns.iter_mut().enumerate() {
            let batch: Vec<_> = (0..depth).map(|k| request(n, round * depth + k)).collect();
            conn.send(&batch);
        }
        for conn in &mut conns {
            for _ in 0..depth {
                conn.answer();
            }
        }
    })
}

fn transactions(socket: &Path, span: Duration, connections: usize) -> f64 {
    let mut conns: Vec<Conn> = (0..connections).map(|_| Conn::open(socket)).collect();
    rate(span, connections, |_| {
        for conn in &mut conns {
            conn.send(&[Packet::new(Kind::TransactionStart, 0, 0, "\0")]);
        }
        for (n, conn) in conns.iter_mut().enumerate() {
            let id = conn.answer().payload;
            let id = String::from_utf8_lossy(&id).trim_end_matches('\0').parse();
            let id = id.unwrap();
            let path = format!("/bench/{n}/value\0");
            conn.send(&[
                Packet::new(Kind::Read, 0, id, path.clone()),
                Packet::new(Kind::Write, 0, id, path + "new"),
                Packet::new(Kind::TransactionEnd, 0, id, "T\0"),
            ]);
        }
        for conn in &mut conns {
            (0..3).for_each(|_| drop(conn.answer()));
        }
    })
}

fn watches(socket: &Path, span: Duration) -> f64 {
    let (mut watcher, mut writer) = (Conn::open(socket), Conn::open(socket));
    watcher.ask(Kind::Watch, "/bench/0\0token\0");
    watcher.hear(true);
    rate(span, 1, |_| {
        writer.ask(Kind::Write, "/bench/0/value\0x");
        watcher.hear(true);
    })
}

/// Seconds to list a directory of 10,000 entries, in parts.
fn listing(socket: &Path, span: Duration) -> f64 {
    let mut conn = Conn::open(socket);
    for n in 0..10_000 {
        conn.ask(Kind::Mkdir, &format!("/bench/long/entry-{n:05}\0"));
    }
    let rate = rate(span, 1, |_| {
        let mut names = Vec::new();
        while !names.ends_with(b"\0\0") {
            let request = format!("/bench/long\0{}\0", names.len());
            let part = conn.ask(Kind::DirectoryPart, &request).payload;
            let nul = part.iter().position(|byte| *byte == 0).unwrap();
            names.extend_from_slice(&part[nul + 1..]);
        }
        assert_eq!(names.len(), 10_000 * "entry-00000\0".len() + 1);
    });
    conn.ask(Kind::Rm, "/bench/long\0");
    1.0 / rate
}

fn fill(socket: &Path, nodes: usize) {
    let mut conn = Conn::open(socket);
    for first in (0..nodes).step_by(100) {
        let write = |n: usize| {
            let payload = format!("/bench/tree/{}/{}\0value-{n}", n / 100, n % 100);
            Packet::new(Kind::Write, 0, 0, payload)
        };
        let batch: Vec<_> = (first..(first + 100).min(nodes)).map(write).collect();
        conn.send(&batch);
        (0..batch.len()).for_each(|_| drop(conn.answer()));
    }
}

fn measure(socket: &Path, span: Duration) -> Vec<(String, f64)> {
    let mut rows = Vec::new();
    let read = |n: usize, _| Packet::new(Kind::Read, 0, 0, format!("/bench/{n}/value\0"));
    let write = |n: usize, k: usize| {
        Packet::new(
            Kind::Write,
            0,
            0,
            format!("/bench/{n}/value\0value-{}", k % 10),
        )
    };
    for [connections, depth] in [[1, 1], [1, 16], [50, 1], [50, 16]] {
        let of = |what: &str| format!("{what}, {connections} x {depth}");
        let shape = [connections, depth];
        rows.push((of("reads/s"), requests(socket, span, shape, read)));
        rows.push((of("writes/s"), requests(socket, span, shape, write)));
    }
    for connections in [1, 50] {
        let of = format!("transactions/s, {connections}");
        rows.push((of, transactions(socket, span, connections)));
    }
    rows.push(("watch round trips/s".into(), watches(socket, span)));
    let seconds = listing(socket, span);
    rows.push(("listing 10,000 entries, us".into(), seconds * 1e6));
    rows
}

/// Of this process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() * 1024.0
}

fn option(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.nth(1)
}

fn main() {
    let nodes: usize = option("--nodes").map_or(100_000, |n| n.parse().unwrap());
    let seconds: f64 = option("--seconds").map_or(1.0, |s| s.parse().unwrap());
    let span = Duration::from_secs_f64(seconds);
    let dir = tempfile::tempdir().unwrap();
    let ours = option("--socket").is_none().then(|| {
        let mut config = ServerConfig::default();
        config.socket = Some(dir.path().join("sock"));
        ServerHandle::start(config).unwrap()
    });
    let socket = option("--socket").map_or(dir.path().join("sock"), PathBuf::from);
    let mut conn = Conn::open(&socket);
    for n in 0..50 {
        conn.ask(Kind::Write, &format!("/bench/{n}/value\0value"));
    }
    if ours.is_some() {
        // Before anything else has left memory that is used again.
        let before = resident();
        fill(&socket, nodes);
        let bytes = (resident() - before) / nodes as f64;
        println!("memory, bytes a node: {bytes:.0}");
        conn.ask(Kind::Rm, "/bench/tree\0");
    }
    let small = measure(&socket, span);
    fill(&socket, nodes);
    let large = measure(&socket, span);
    println!(
        "{:32} {:>12} {:>12}",
        "",
        "small tree",
        format!("{nodes} more")
    );
    for ((what, small), (_, large)) in small.into_iter().zip(large) {
        println!("{what:32} {small:>12.0} {large:>12.0}");
    }
    conn.ask(Kind::Rm, "/bench\0");
    if let Some(server) = ours {
        server.stop();
    }
}
