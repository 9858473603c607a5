//! What a run in dom0 and the supervisor in a domain say to each other, in JSON. Whatever does not
//! fit into one frame goes in parts.

use super::link::MAX_PAYLOAD;
use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use pv_harness::processes::{Autopsy, Blocked};
use pv_harness::settings::HoldName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// To a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDomain {
    /// A session begins: whatever an earlier one left is to be ended.
    Hello,
    /// What does your clock say?
    Ping,
    /// Start a process: its number, its name, and what it is to do.
    Spawn(u32, String, serde_json::Value),
    /// Start a shell command: its number and text.
    Shell(u32, String),
    /// For a process's control socket.
    Order(u32, String),
    /// SIGKILL to a process and all it forked.
    Kill(u32),
    /// A question, with a number for its answer.
    Ask(u32, Question),
}

/// Answered at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// What is a process waiting for?
    Autopsy(u32),
    /// What does the kernel keep?
    Blocked,
    /// A process's timeline so far.
    Timeline(u32),
    /// The kernel's messages since the last time.
    KernelLog,
    /// Make a file of so many zero bytes.
    MakeFile(PathBuf, u64),
    /// Make a directory.
    MakeDir(PathBuf),
    /// Remove a file.
    Remove(PathBuf),
    /// Remove a directory and all below it; the answer names the sockets that were left in it.
    RemoveDir(PathBuf),
    /// SHA-256 of stretches of a file: offset and length of each.
    Digests(PathBuf, Vec<(u64, u64)>),
    /// Is there what this way to hold pages needs?
    CanHold(HoldName),
}

/// From a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDomain {
    /// The session has begun.
    Welcome(About),
    /// `CLOCK_MONOTONIC`.
    Pong(u64),
    /// From a process's control socket.
    News(u32, String),
    /// A part of what a process left: which file, and bytes of it, compressed.
    Left(u32, FileKind, Packed),
    /// A process ended, and left these processes running, which were killed.
    Exited(u32, End, Vec<u32>),
    /// A process could not be started.
    Refused(u32, String),
    /// The answer to a question, or why there is none.
    Answer(u32, Result<Answer, String>),
}

/// A file that a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// Its timeline.
    Timeline,
    /// Its standard error.
    Stderr,
    /// Its standard output.
    Stdout,
}

/// A process's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Exit status.
    Code(i32),
    /// A signal.
    Signal(i32),
}

/// A domain, as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// `uname -r`.
    pub kernel: String,
    /// `/sys/hypervisor/guest_type`.
    pub guest_type: String,
    /// Its gntdev waits for every page reference inside the unmap.
    pub unmap_waits: bool,
    /// What its `CLOCK_MONOTONIC` counts.
    pub clocksource: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// A process's state; `None` if it has ended.
    Autopsy(Option<Autopsy>),
    /// The tasks that the kernel keeps.
    Blocked(Blocked),
    /// Lines.
    Lines(Vec<String>),
    /// Bytes, compressed.
    Bytes(Packed),
    /// One digest a stretch.
    Digests(Vec<String>),
}

/// A message as the payloads of frames: each but the last one begins with `+`.
pub fn encode<M: Serialize>(message: &M) -> Vec<Vec<u8>> {
    // These types have no map with keys that are no strings, the only thing that fails here.
    let text = serde_json::to_vec(message).unwrap_or_default();
    let mut parts: Vec<Vec<u8>> = text
        .chunks(MAX_PAYLOAD - 1)
        .map(|part| [b"+", part].concat())
        .collect();
    if let Some(last) = parts.last_mut() {
        last[0] = b'.';
    }
    parts
}

/// Puts the payloads of frames together again.
#[derive(Debug, Default)]
pub struct Assembler {
    parts: Vec<u8>,
}

impl Assembler {
    /// Takes one payload in; a message, when it is complete.
    ///
    /// # Errors
    /// The message is none that we know.
    pub fn push<M: DeserializeOwned>(&mut self, payload: &[u8]) -> Result<Option<M>, String> {
        /// More than any message; the other side may be broken.
        const MAX: usize = 64 << 20;
        let (last, part) = match payload.split_first() {
            Some((b'+', part)) => (false, part),
            Some((b'.', part)) => (true, part),
            _ => return Err("a frame that is no part of a message".into()),
        };
        if self.parts.len() + part.len() > MAX {
            self.parts.clear();
            return Err(format!("a message of more than {MAX} bytes"));
        }
        self.parts.extend(part);
        if !last {
            return Ok(None);
        }
        let text = std::mem::take(&mut self.parts);
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| error.to_string())
    }
}

/// Bytes, compressed, as text: JSON would spell each as a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Packed(String);

impl Packed {
    /// Compresses.
    ///
    /// # Errors
    /// Out of memory.
    pub fn pack(bytes: &[u8]) -> io::Result<Packed> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(bytes)?;
        Ok(Packed(BASE64_STANDARD.encode(gz.finish()?)))
    }

    /// The reverse.
    ///
    /// # Errors
    /// `InvalidData`.
    pub fn unpack(&self) -> io::Result<Vec<u8>> {
        /// Twice a timeline's limit.
        const MAX: u64 = 512 << 20;
        let packed = BASE64_STANDARD.decode(&self.0).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        GzDecoder::new(&packed[..])
            .take(MAX)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_go_in_parts() {
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
        let message = FromDomain::Left(3, FileKind::Timeline, Packed::pack(&bytes).unwrap());
        let parts = encode(&message);
        assert!(
            parts
                .iter()
                .all(|part| part.len() <= MAX_PAYLOAD && !part.contains(&b'\n'))
        );
        let mut assembler = Assembler::default();
        let mut whole = None;
        for part in &parts {
            assert!(whole.is_none());
            whole = assembler.push::<FromDomain>(part).unwrap();
        }
        let Some(FromDomain::Left(3, FileKind::Timeline, packed)) = whole else {
            panic!()
        };
        assert_eq!(packed.unpack().unwrap(), bytes);
        assert!(assembler.push::<FromDomain>(b"x").is_err());
        assert!(assembler.push::<FromDomain>(b".nonsense").is_err());
    }
}
