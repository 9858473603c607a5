//! A Unix socket to the daemon, or `/dev/xen/xenbus`.

use super::outbox::Outbox;
use super::outcome::{RECEIVE_MAX_BYTES, Received, Sent, closed};
use crate::error::{Error, Result};
use crate::wire::{HEADER_BYTES, PAYLOAD_MAX_BYTES};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The kernel's buffer for one message on `/dev/xen/xenbus`: header and payload together
/// (`xenbus_dev_frontend.c`).
pub const DEVICE_MESSAGE_MAX_BYTES: usize = 4096;
/// Messages that go in one call.
const MESSAGES_AT_ONCE: usize = 64;
/// Bytes that one call reads.
const READ_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Writes may be partial, and wait for room.
    Socket,
    /// One write a message, which is refused or queued by the kernel, and never waits; answers come in
    /// the order in which the daemon gives them, and watches are the open file's. An open file has one
    /// buffer, out of which the kernel sends at its leisure: a message that is written before the last one
    /// was answered may go in its place (`xenbus_dev_request_and_reply`).
    Device,
}

/// The descriptor, non-blocking, and what it is.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: OwnedFd,
    kind: Kind,
}

impl Descriptor {
    pub(super) fn new(fd: OwnedFd) -> Result<Descriptor> {
        let io = |operation| move |errno| Error::Io { operation, errno };
        let stat = fstat(&fd).map_err(io("fstat"))?;
        let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        let flags = fcntl_getfl(&fd).map_err(io("fcntl"))?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(io("fcntl"))?;
        let kind = if socket { Kind::Socket } else { Kind::Device };
        Ok(Descriptor { fd, kind })
    }

    pub(super) fn is_one_at_a_time(&self) -> bool {
        self.kind == Kind::Device
    }

    pub(super) fn payload_max(&self) -> usize {
        match self.kind {
            Kind::Socket => PAYLOAD_MAX_BYTES,
            Kind::Device => DEVICE_MESSAGE_MAX_BYTES - HEADER_BYTES,
        }
    }

    pub(super) fn send(&self, outbox: &mut Outbox) -> Result<Sent> {
        while let Some((first, started)) = outbox.first() {
            let sent = match self.kind {
                Kind::Socket => sendmsg(
                    &self.fd,
                    &outbox.slices(MESSAGES_AT_ONCE),
                    &mut SendAncillaryBuffer::default(),
                    SendFlags::NOSIGNAL,
                ),
                Kind::Device => rustix::io::write(&self.fd, first),
            };
            match sent {
                Ok(bytes) => {
                    outbox.went(bytes);
                    if self.kind == Kind::Device && !outbox.is_empty() {
                        return Ok(Sent::NoRoom);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.kind == Kind::Socket => return Ok(Sent::NoRoom),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(closed()),
                // The kernel itself looks at a message, and says what is wrong with it instead of an
                // answer. The file stays as it was.
                Err(errno) if self.kind == Kind::Device && !started => {
                    return Ok(match outbox.drop_first() {
                        Some(id) => Sent::Refused(id, errno),
                        None => Sent::All,
                    });
                }
                Err(errno) => {
                    let operation = "write";
                    return Err(Error::Io { operation, errno });
                }
            }
        }
        Ok(Sent::All)
    }

    pub(super) fn receive(&self, into: &mut Vec<u8>) -> Result<Received> {
        loop {
            into.reserve(READ_BYTES);
            let room = into.capacity() - into.len();
            match rustix::io::read(&self.fd, rustix::buffer::spare_capacity(into)) {
                Ok(0) => return Err(closed()),
                // Less than there was room for: nothing more is there now, or an edge will tell.
                Ok(bytes) if bytes < room => return Ok(Received::All),
                Ok(_) if into.len() >= RECEIVE_MAX_BYTES => return Ok(Received::Some),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::All),
                Err(Errno::CONNRESET) => return Err(closed()),
                Err(errno) => {
                    let operation = "read";
                    return Err(Error::Io { operation, errno });
                }
            }
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
