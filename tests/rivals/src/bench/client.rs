//! The benchmark's client: one thread, requests that are bytes already, answers of which only the
//! headers are looked at, so that the daemon is what is measured.

use crate::error::{Result, RivalError};
use pv_xenstore::wire::{HEADER_BYTES, Kind, Packet};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longer than any answer and some events.
const BUFFER_BYTES: usize = 256 << 10;
/// The longest message that is taken: oxenstored's list of the long directory, which is far longer than a
/// message may be. The buffer has room for it.
const MESSAGE_BYTES: usize = 128 << 10;

/// How long something that is measured may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    socket: PathBuf,
    deadline: Instant,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its kind's number.
    pub kind: u32,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// Is it a watch event?
    pub fn is_event(&self) -> bool {
        self.kind == Kind::WatchEvent as u32
    }

    /// Is it the answer that a request failed?
    pub fn is_error(&self) -> bool {
        self.kind == Kind::Error as u32
    }
}

impl Wire {
    /// Connects. What is not done when `patience` is over fails.
    ///
    /// # Errors
    /// What the socket says.
    pub fn open(socket: &Path, patience: Duration) -> Result<Wire> {
        let stream = UnixStream::connect(socket).map_err(RivalError::file(socket))?;
        let set = stream.set_read_timeout(Some(patience));
        set.and_then(|()| stream.set_write_timeout(Some(patience)))
            .map_err(RivalError::file(socket))?;
        Ok(Wire {
            stream,
            socket: socket.to_owned(),
            deadline: Instant::now() + patience,
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        })
    }

    /// Sends it all.
    ///
    /// # Errors
    /// What the socket says; [`RivalError::Slow`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        if Instant::now() > self.deadline {
            return Err(RivalError::Slow);
        }
        let sent = self.stream.write_all(bytes);
        sent.map_err(|error| self.failed(error))
    }

    /// Sends what the socket takes without waiting, and says how much.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send_some(&mut self, bytes: &[u8]) -> Result<usize> {
        match self.at_once(|stream| stream.write(bytes)) {
            Ok(n) => Ok(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Takes and drops what is there, without waiting.
    ///
    /// # Errors
    /// What the socket says.
    pub fn drop_some(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.at_once(|stream| stream.read(&mut buffer));
        self.buffer = buffer;
        match done {
            Ok(0) => Err(self.failed(ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn at_once(
        &mut self,
        work: impl FnOnce(&mut UnixStream) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let done = work(&mut self.stream);
        self.stream.set_nonblocking(false)?;
        done
    }

    /// Waits for so many messages, and shows each.
    ///
    /// # Errors
    /// As [`Wire::send`]; the first error of `each`.
    pub fn hear(
        &mut self,
        count: usize,
        mut each: impl FnMut(Message<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let Some((header, rest)) =
                self.buffer[self.start..self.end].split_first_chunk::<HEADER_BYTES>()
            else {
                self.fill()?;
                continue;
            };
            let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| header[at + n]));
            let bytes = word(12) as usize;
            if bytes > MESSAGE_BYTES - HEADER_BYTES {
                return Err(self.failed(ErrorKind::InvalidData.into()));
            }
            let Some(payload) = rest.get(..bytes) else {
                self.fill()?;
                continue;
            };
            let kind = word(0);
            // It is taken, whatever is thought of it.
            self.start += HEADER_BYTES + bytes;
            left -= 1;
            each(Message { kind, payload })?;
        }
        Ok(())
    }

    /// Waits for so many messages, none of which may be an error.
    ///
    /// # Errors
    /// As [`Wire::hear`]; [`RivalError::Refused`].
    pub fn good(&mut self, count: usize) -> Result<()> {
        self.hear(count, |message| match message.is_error() {
            true => Err(refused(message)),
            false => Ok(()),
        })
    }

    /// Sends one request, and waits for its answer. There must be no watch on this connection.
    ///
    /// # Errors
    /// As [`Wire::good`].
    pub fn ask(&mut self, kind: Kind, payload: &str) -> Result<Vec<u8>> {
        self.send(&Packet::new(kind, 1, 0, payload).encode())?;
        let mut answer = Vec::new();
        self.hear(1, |message| match message.is_error() {
            true => Err(refused(message)),
            false => {
                answer.extend_from_slice(message.payload);
                Ok(())
            }
        })?;
        Ok(answer)
    }

    fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < MESSAGE_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match self.stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(self.failed(ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: std::io::Error) -> RivalError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => RivalError::Slow,
            _ => RivalError::file(&self.socket)(error),
        }
    }
}

/// The error for an answer that should have been a good one.
pub fn refused(message: Message<'_>) -> RivalError {
    let text = String::from_utf8_lossy(message.payload);
    RivalError::Refused(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn pair() -> (Wire, UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let wire = Wire::open(&socket, Duration::from_millis(50)).unwrap();
        (wire, listener.accept().unwrap().0, dir)
    }

    #[test]
    fn an_error_is_refused_and_silence_is_slow() {
        let (mut wire, mut daemon, _dir) = pair();
        let good = Packet::new(Kind::Read, 1, 0, "value").encode();
        let bad = Packet::new(Kind::Error, 1, 0, "ENOENT\0").encode();
        daemon
            .write_all(&[good.clone(), bad, good].concat())
            .unwrap();
        wire.good(1).unwrap();
        assert!(matches!(wire.good(1), Err(RivalError::Refused(text)) if text == "ENOENT"));
        assert!(matches!(wire.good(3), Err(RivalError::Slow)));
        assert!(
            matches!(wire.send(b"x"), Err(RivalError::Slow)),
            "its time is over"
        );
        drop(daemon);
        assert!(matches!(wire.good(1), Err(RivalError::File { .. })));
    }
}
