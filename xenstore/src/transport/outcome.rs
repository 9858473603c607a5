//! What becomes of sending and receiving.

use crate::error::Error;
use rustix::io::Errno;

/// Bytes after which a stream is left for the next turn: the server may write as fast as we read.
pub(super) const RECEIVE_MAX_BYTES: usize = 64 * 1024;

/// What became of what was to be sent.
#[derive(Debug)]
pub(crate) enum Sent {
    /// It is gone.
    All,
    /// There is no room for more now.
    NoRoom,
    /// The kernel refused this request, and took it out; the others are still to go.
    Refused(u32, Errno),
}

/// What is left to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing, until the descriptor says so.
    All,
    /// Something, perhaps.
    Some,
}

pub(super) fn closed() -> Error {
    Error::Disconnected {
        cause: "closed by the server".into(),
    }
}
