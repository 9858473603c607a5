//! Frames on a Unix stream socket: 32-bit length, 32-bit count of descriptors, payload in
//! postcard's encoding (see [`super::wire`]).
//!
//! Descriptors travel with the frame's first bytes (`SCM_RIGHTS`, `unix(7)`), so that they are
//! all here when the last byte is. The kernel takes at most 253 in one message
//! (`SCM_MAX_FD`, Linux `include/net/scm.h`); a frame with more puts each full chunk on one byte.

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::wire::MAX_FRAME;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;
/// Descriptors in one `sendmsg`; the kernel's own limit is 253.
const CHUNK: usize = 250;
/// Descriptors that one frame may carry: more runs than a machine's gntalloc has pages, at its default.
pub const MAX_DESCRIPTORS: usize = 16 * 1024;
/// Bytes asked of one `recvmsg`.
const READ_BYTES: usize = 16 * 1024;

/// What is wrong with a peer's bytes, or with the socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A system call failed.
    #[error("socket: {0}")]
    Socket(Errno),
    /// The header claims more than [`MAX_FRAME`].
    #[error("a frame of {len} bytes, over the limit of {MAX_FRAME}")]
    TooLong {
        /// The claim.
        len: usize,
    },
    /// More descriptors than this side takes.
    #[error("a frame with {count} descriptors, over the limit of {limit}")]
    TooManyDescriptors {
        /// The claim.
        count: usize,
        /// What is taken.
        limit: usize,
    },
    /// The frame is complete, but its descriptors did not come.
    #[error("a frame announces {announced} descriptors and {came} came")]
    MissingDescriptors {
        /// In the header.
        announced: usize,
        /// On the socket.
        came: usize,
    },
    /// The kernel dropped descriptors on receipt.
    #[error("descriptors were lost on receipt: too many open files, or none were expected")]
    LostDescriptors,
    /// The payload is no message.
    #[error("a frame that is no message: {0}")]
    NoMessage(postcard::Error),
    /// Bytes after the message, inside the frame.
    #[error("{count} bytes after the message in a frame")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The peer closed the socket in the middle of a frame.
    #[error("the stream ended in the middle of a frame")]
    Truncated,
}

/// A frame on its way out.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<Arc<OwnedFd>>,
    descriptors_sent: usize,
}

impl Outgoing {
    /// Encodes a message.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], [`FrameError::TooManyDescriptors`].
    pub fn new<T: Serialize>(
        message: &T,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Result<Self, FrameError> {
        let mut bytes =
            postcard::to_extend(message, vec![0; HEADER_BYTES]).map_err(FrameError::NoMessage)?;
        let len = bytes.len() - HEADER_BYTES;
        if len > MAX_FRAME {
            return Err(FrameError::TooLong { len });
        }
        let count = descriptors.len();
        // Each chunk needs a byte of its own to ride on.
        let limit = MAX_DESCRIPTORS.min(bytes.len() * CHUNK);
        if count > limit {
            return Err(FrameError::TooManyDescriptors { count, limit });
        }
        bytes[..4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        Ok(Outgoing {
            bytes,
            sent: 0,
            descriptors,
            descriptors_sent: 0,
        })
    }

    /// Bytes in all, header included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Sends what the socket takes, without blocking. True when the whole frame is out.
    ///
    /// # Errors
    /// What `sendmsg` says, EAGAIN excepted.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        while self.sent < self.bytes.len() {
            let left = &self.descriptors[self.descriptors_sent..];
            let chunk = &left[..left.len().min(CHUNK)];
            let until = if left.len() > CHUNK {
                self.sent + 1
            } else {
                self.bytes.len()
            };
            match send_once(socket, &self.bytes[self.sent..until], chunk) {
                Ok(n) => {
                    // The kernel attaches the descriptors to the first byte it takes.
                    self.descriptors_sent += chunk.len();
                    self.sent += n;
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.descriptors.clear();
        self.descriptors_sent = 0;
        Ok(true)
    }
}

fn send_once(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[Arc<OwnedFd>],
) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let rights = SendAncillaryMessage::ScmRights(&fds);
    let mut space = vec![MaybeUninit::uninit(); if fds.is_empty() { 0 } else { rights.size() }];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(rights) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// What one read of the socket gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Bytes came; there may be more.
    Bytes,
    /// Nothing to read now.
    WouldBlock,
    /// The peer closed the stream, between two frames.
    Closed,
}

/// Puts a stream's bytes together into frames, however they were cut.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out already.
    done: usize,
    descriptors: VecDeque<OwnedFd>,
    max_descriptors: usize,
}

/// A whole frame.
#[derive(Debug)]
pub struct Frame {
    /// The payload.
    pub payload: Vec<u8>,
    /// What travelled with it, in order.
    pub descriptors: Vec<OwnedFd>,
}

impl FrameReader {
    /// `max_descriptors` bounds what one frame may carry: 0 for the host, whose clients send none.
    pub fn new(max_descriptors: usize) -> Self {
        FrameReader {
            buffer: Vec::new(),
            done: 0,
            descriptors: VecDeque::new(),
            max_descriptors: max_descriptors.min(MAX_DESCRIPTORS),
        }
    }

    /// Reads once from the socket, without blocking.
    ///
    /// # Errors
    /// [`FrameError::Socket`], [`FrameError::LostDescriptors`], [`FrameError::Truncated`],
    /// [`FrameError::TooManyDescriptors`].
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<Filled, FrameError> {
        self.buffer.drain(..self.done);
        self.done = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let received = self.receive(socket, held);
        let got = received.as_ref().map_or(0, |n| n.unwrap_or(0));
        self.buffer.truncate(held + got);
        match received? {
            None => Ok(Filled::WouldBlock),
            Some(0) if held == 0 => Ok(Filled::Closed),
            Some(0) => Err(FrameError::Truncated),
            Some(_) => Ok(Filled::Bytes),
        }
    }

    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        held: usize,
    ) -> Result<Option<usize>, FrameError> {
        let room = if self.max_descriptors == 0 {
            0
        } else {
            rustix::cmsg_space!(ScmRights(253))
        };
        let mut space = vec![MaybeUninit::uninit(); room];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = loop {
            let mut slices = [IoSliceMut::new(&mut self.buffer[held..])];
            match recvmsg(socket, &mut slices, &mut control, flags) {
                Ok(message) => break message,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // A peer that died with our bytes unread resets the stream: it is gone.
                Err(Errno::CONNRESET) => return Ok(Some(0)),
                Err(errno) => return Err(FrameError::Socket(errno)),
            }
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.descriptors.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(FrameError::LostDescriptors);
        }
        // One frame's worth may wait, and the next one's first chunk.
        let (count, limit) = (self.descriptors.len(), self.max_descriptors + CHUNK);
        if count > limit {
            return Err(FrameError::TooManyDescriptors { count, limit });
        }
        Ok(Some(message.bytes))
    }

    /// Takes the next whole frame out, if there is one.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], [`FrameError::TooManyDescriptors`] as soon as the header says so;
    /// [`FrameError::MissingDescriptors`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.done..];
        let Some((len, rest)) = split_u32(bytes) else {
            return Ok(None);
        };
        let Some((count, rest)) = split_u32(rest) else {
            return Ok(None);
        };
        if len > MAX_FRAME {
            return Err(FrameError::TooLong { len });
        }
        if count > self.max_descriptors {
            let limit = self.max_descriptors;
            return Err(FrameError::TooManyDescriptors { count, limit });
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let came = self.descriptors.len();
        if came < count {
            return Err(FrameError::MissingDescriptors {
                announced: count,
                came,
            });
        }
        let payload = payload.to_vec();
        self.done += HEADER_BYTES + len;
        Ok(Some(Frame {
            payload,
            descriptors: self.descriptors.drain(..count).collect(),
        }))
    }
}

fn split_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*word) as usize, rest))
}

/// Decodes a payload; the whole of it must be the message.
///
/// # Errors
/// [`FrameError::NoMessage`], [`FrameError::TrailingBytes`].
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes(payload).map_err(FrameError::NoMessage)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(FrameError::TrailingBytes { count: rest.len() })
    }
}

#[cfg(test)]
mod tests;
