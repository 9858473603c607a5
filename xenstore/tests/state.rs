//! The kept state, and a disk that does not take it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use pv_xenstore::Client;
use pv_xenstore::wire::{Kind, Packet};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

fn start() -> (Xenstore, Client, PathBuf) {
    let mut state = PathBuf::new();
    let xenstore = Xenstore::with(|config| {
        let dir = config
            .socket
            .as_deref()
            .and_then(Path::parent)
            .unwrap()
            .join("kept");
        std::fs::create_dir(&dir).unwrap();
        state = dir.join("state");
        config.state = Some(state.clone());
    });
    let client = xenstore.dom0();
    assert!(is_written(&state, "/tool", &client));
    (xenstore, client, state)
}

/// Asks the server, which is at work meanwhile, until the file holds the text, or it takes too long.
fn is_written(state: &Path, text: &str, client: &Client) -> bool {
    let holds = || {
        std::fs::read(state)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let deadline = Instant::now() + SOON;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        client.read("/tool/xenstored").unwrap();
    }
    true
}

#[test]
fn a_write_that_failed_is_tried_again_without_a_change() {
    // Ends after the server, which would wait for a reader.
    let mut reader = None;
    let (xenstore, client, state) = start();
    // A pipe takes the bytes, so it is known that they came, and cannot be made durable.
    let pipe = state.with_extension("new");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let pipe_end = OpenOptions::new().read(true).write(true).open(&pipe);
    let reader = reader.insert(pipe_end.unwrap());
    client.write("/later", b"1").unwrap();
    let (mut taken, mut part) = (Vec::new(), [0; 4096]);
    while !taken.windows(6).any(|w| w == b"/later") {
        let n = reader.read(&mut part).unwrap();
        taken.extend_from_slice(&part[..n]);
    }
    assert!(is_written(&state, "/later", &client));
    xenstore.server.stop();
    xenstore.server.wait().unwrap();
    assert!(!pipe.exists(), "what was half written stays");
}

#[test]
fn a_last_state_that_cannot_be_written_is_an_error() {
    let (xenstore, client, state) = start();
    std::fs::rename(state.parent().unwrap(), xenstore.dir.path().join("gone")).unwrap();
    client.write("/later", b"1").unwrap();
    xenstore.server.stop();
    let error = xenstore.server.wait().unwrap_err().to_string();
    assert!(error.contains("kept/state: No such file"), "{error}");
}

#[test]
fn a_server_that_is_never_quiet_keeps_its_state() {
    let (xenstore, client, state) = start();
    let others = [(); 4].map(|()| xenstore.stream(0));
    // More than a turn's requests wait at any time.
    let batch = Packet::new(Kind::Read, 1, 0, "/tool\0")
        .encode()
        .repeat(200);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (batch, is_over) = (&batch, &is_over);
        for other in &others {
            let (mut asks, mut hears) = (other.try_clone().unwrap(), other);
            threads.spawn(move || {
                while !is_over.load(Ordering::Relaxed) && asks.write_all(batch).is_ok() {}
                asks.shutdown(Shutdown::Both).unwrap();
            });
            threads.spawn(move || while hears.read(&mut [0; 65536]).is_ok_and(|n| n > 0) {});
        }
        client.write("/later", b"1").unwrap();
        let is_written = is_written(&state, "/later", &client);
        is_over.store(true, Ordering::Relaxed);
        assert!(is_written, "it is not written while others ask");
    });
}
