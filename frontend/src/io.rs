//! An I/O as callers see it: bytes, and the buffer that carries them.

use crate::machine::{IoError, IoOp, IoRequest};
use libgnt::proto::blkif::SECTOR_SIZE;

/// One I/O. It owns its buffer, so that nothing of the caller's is touched after a timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    pub(crate) op: IoOp,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

impl Io {
    /// A read of `len` bytes at byte `offset`, both whole sectors of the disk.
    pub fn read(offset: u64, len: usize) -> Self {
        Self::read_into(offset, vec![0; len])
    }

    /// A read that fills a buffer which was used before.
    pub fn read_into(offset: u64, buffer: Vec<u8>) -> Self {
        Io {
            op: IoOp::Read,
            offset,
            data: buffer,
        }
    }

    /// A write of whole sectors.
    pub fn write(offset: u64, data: Vec<u8>) -> Self {
        Io {
            op: IoOp::Write,
            offset,
            data,
        }
    }

    /// A flush: every write submitted before is durable when it completes.
    pub fn flush() -> Self {
        Io {
            op: IoOp::Flush,
            offset: 0,
            data: Vec::new(),
        }
    }

    /// Gives the buffer back.
    pub fn into_buffer(self) -> Vec<u8> {
        self.data
    }

    pub(crate) fn request(&self) -> Result<IoRequest, IoError> {
        if self.op == IoOp::Flush {
            return Ok(IoRequest::flush());
        }
        let sector = self.offset / SECTOR_SIZE as u64;
        let sectors = u32::try_from(self.data.len().div_ceil(SECTOR_SIZE)).unwrap_or(u32::MAX);
        let request = IoRequest {
            op: self.op,
            sector,
            sectors,
        };
        let whole = self.offset.is_multiple_of(SECTOR_SIZE as u64)
            && self.data.len() == sectors as usize * SECTOR_SIZE;
        match whole {
            true => Ok(request),
            false => Err(IoError::Misaligned {
                io: request,
                sector_size: SECTOR_SIZE as u32,
            }),
        }
    }
}

/// The end of an I/O.
#[derive(Debug)]
pub struct Completion {
    /// The caller's tag.
    pub tag: u64,
    /// How it went.
    pub result: Result<(), IoError>,
    /// The buffer: what was read, or what was to be written.
    pub data: Vec<u8>,
}

/// An I/O that was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// Why.
    pub error: IoError,
    /// The I/O, for another attempt.
    pub io: Io,
}
