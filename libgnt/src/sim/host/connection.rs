//! One client's socket: requests in, replies out, both bounded.

use super::super::frame::{Filled, FrameError, FrameReader, Outgoing, decode};
use super::super::wire::{ReplyFrame, RequestFrame};
use crate::error::{Error, Result};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Replies that a client has not read, in bytes: more than any client that reads can have, and
/// little enough that one that does not read is no burden.
const MAX_UNREAD_BYTES: usize = 8 << 20;
/// The same in frames.
const MAX_UNREAD_FRAMES: usize = 4096;

/// What the socket had.
#[derive(Debug)]
pub enum Incoming {
    /// A request.
    Request(RequestFrame),
    /// No whole request yet.
    Nothing,
    /// The client is gone.
    Closed,
}

/// A connected client.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    pid: u32,
    reader: FrameReader,
    unread: VecDeque<Outgoing>,
    unread_bytes: usize,
}

impl Connection {
    /// Registers a new stream.
    pub fn admit(mut stream: UnixStream, registry: &Registry, token: Token) -> Result<Self> {
        let failed = |operation, errno| Error::device("simulated Xen", operation, errno, "");
        let credentials = rustix::net::sockopt::socket_peercred(&stream)
            .map_err(|errno| failed("SO_PEERCRED", errno))?;
        registry
            .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
            .map_err(|e| failed("epoll_ctl", crate::shm::errno_of(&e)))?;
        let pid = u32::try_from(credentials.pid.as_raw_nonzero().get()).unwrap_or(0);
        Ok(Connection {
            stream,
            pid,
            reader: FrameReader::new(0),
            unread: VecDeque::new(),
            unread_bytes: 0,
        })
    }

    /// The client's pid, as the kernel says.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next request; reads until there is one, or no more bytes.
    pub fn next_request(&mut self) -> Result<Incoming, FrameError> {
        loop {
            if let Some(frame) = self.reader.next_frame()? {
                return decode(&frame.payload).map(Incoming::Request);
            }
            match self.reader.fill(self.stream.as_fd())? {
                Filled::Bytes => {}
                Filled::WouldBlock => return Ok(Incoming::Nothing),
                Filled::Closed => return Ok(Incoming::Closed),
            }
        }
    }

    /// Sends a reply, or queues what the socket does not take. The error is why the client has
    /// to be cut off.
    pub fn send(&mut self, reply: &ReplyFrame, fds: Vec<Arc<OwnedFd>>) -> Result<(), String> {
        let frame = Outgoing::new(reply, fds).map_err(|e| format!("reply not sent: {e}"))?;
        self.unread_bytes += frame.len();
        self.unread.push_back(frame);
        self.flush()
            .map_err(|errno| format!("cannot be written to: {errno}"))?;
        if self.unread_bytes > MAX_UNREAD_BYTES || self.unread.len() > MAX_UNREAD_FRAMES {
            return Err(format!(
                "does not read its replies: {} of them, {} bytes",
                self.unread.len(),
                self.unread_bytes
            ));
        }
        Ok(())
    }

    /// Sends what the socket takes now. Mio says when it takes more.
    pub fn flush(&mut self) -> Result<(), Errno> {
        while let Some(frame) = self.unread.front_mut() {
            match frame.send(self.stream.as_fd()) {
                Ok(true) => {
                    self.unread_bytes -= frame.len();
                    self.unread.pop_front();
                }
                Ok(false) => break,
                // The reader finds the end, after the requests that came before it.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.unread.clear();
                    self.unread_bytes = 0;
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Takes the stream out of the loop. The socket closes with the connection.
    pub fn close(&mut self, registry: &Registry) {
        if let Err(error) = registry.deregister(&mut self.stream) {
            tracing::debug!(%error, "deregister");
        }
    }
}
