//! The client's end of the byte stream: a Unix socket to the daemon, or `/dev/xen/xenbus`.

use crate::error::{Error, Result};
use crate::wire::{Decoder, HEADER_BYTES, PAYLOAD_MAX_BYTES, Packet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The kernel's buffer for one message on `/dev/xen/xenbus`: header and payload together
/// (`xenbus_dev_frontend.c`).
pub const DEVICE_MESSAGE_MAX_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Writes may be partial, and wait for room.
    Socket,
    /// One write a message; it never says that it is writable.
    Device,
}

/// The descriptor, non-blocking, and what it is.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    kind: Kind,
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd) -> Result<Stream> {
        let io = |operation| move |errno| Error::Io { operation, errno };
        let stat = fstat(&fd).map_err(io("fstat"))?;
        let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        let flags = fcntl_getfl(&fd).map_err(io("fcntl"))?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(io("fcntl"))?;
        Ok(Stream {
            fd,
            kind: if socket { Kind::Socket } else { Kind::Device },
        })
    }

    /// The longest payload that one message can carry here.
    pub(crate) fn payload_max(&self) -> usize {
        match self.kind {
            Kind::Socket => PAYLOAD_MAX_BYTES,
            Kind::Device => DEVICE_MESSAGE_MAX_BYTES - HEADER_BYTES,
        }
    }

    /// Sends a message; takes in what arrives meanwhile, so that two full buffers cannot block
    /// each other.
    ///
    /// An error after a part has gone leaves the stream unusable; `started` says so.
    pub(crate) fn send(
        &self,
        packet: &Packet,
        deadline: Instant,
        decoder: &mut Decoder,
        started: &mut bool,
    ) -> Result<(), SendError> {
        let bytes = packet.encode();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let sent = match self.kind {
                Kind::Socket => rustix::net::send(&self.fd, rest, SendFlags::NOSIGNAL),
                Kind::Device => rustix::io::write(&self.fd, rest),
            };
            match sent {
                Ok(n) => {
                    *started = true;
                    rest = &rest[n..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.kind == Kind::Socket => {
                    if !self.wait(PollFlags::IN | PollFlags::OUT, deadline)? {
                        return Err(SendError::Deadline);
                    }
                    self.receive(decoder)?;
                }
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(SendError::Failed(closed()));
                }
                Err(errno) => {
                    return Err(SendError::Failed(Error::Io {
                        operation: "write",
                        errno,
                    }));
                }
            }
        }
        Ok(())
    }

    /// Takes in what is there now, without waiting.
    pub(crate) fn receive(&self, decoder: &mut Decoder) -> Result<()> {
        let mut bytes = [0; 4096];
        // The server may write as fast as we read; leave the rest for the next time.
        while decoder.buffered() <= 16 * PAYLOAD_MAX_BYTES {
            match rustix::io::read(&self.fd, &mut bytes) {
                Ok(0) => return Err(closed()),
                Ok(n) => decoder.push(&bytes[..n]),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(closed()),
                Err(errno) => {
                    return Err(Error::Io {
                        operation: "read",
                        errno,
                    });
                }
            }
        }
        Ok(())
    }

    /// Waits for something to read. False: the deadline came first.
    pub(crate) fn wait_readable(&self, deadline: Instant) -> Result<bool> {
        self.wait(PollFlags::IN, deadline)
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.fd, what)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => {
                    return Err(Error::Io {
                        operation: "poll",
                        errno,
                    });
                }
            }
        }
    }
}

pub(crate) enum SendError {
    Deadline,
    Failed(Error),
}

impl From<Error> for SendError {
    fn from(error: Error) -> SendError {
        SendError::Failed(error)
    }
}

fn closed() -> Error {
    Error::Disconnected {
        cause: "closed by the server".into(),
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    // A year is as good as for ever, and fits everywhere.
    let duration = duration.min(Duration::from_secs(365 * 24 * 3600));
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    })
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
