//! The kept state, and a disk that does not take it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use pv_xenstore::Client;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

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
    wait_for(&state, "/tool", &client);
    (xenstore, client, state)
}

/// Asks the server, which is at work meanwhile, until the file holds the text.
fn wait_for(state: &Path, text: &str, client: &Client) {
    let holds = || {
        std::fs::read(state)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{text} is never written");
        client.read("/tool/xenstored").unwrap();
    }
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
    wait_for(&state, "/later", &client);
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
