//! `pipe`: vmsplice puts references to the pages, not their bytes, into a pipe. Whoever has the
//! pipe has the pages, until the bytes are read or the pipe is closed. `tee` copies the
//! references into a second pipe, so the pages can be looked at without letting go of them.
//!
//! Holders whose release is more than that use the pipe, too: their reference is [`splice`]'s, and
//! [`Spliced`] looks.
#![allow(unsafe_code, reason = "vmsplice takes addresses")]

use super::{Export, Held, HoldError, HoldName, Holder, address_of, call, last_errno, parts};
use libgnt::{PAGE_SIZE, SharedPages};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, tee};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

const KIND: HoldName = HoldName::Pipe;

pub(super) struct Pipe;

/// A pipe with room for so many pages, one a slot.
fn pipe_for(kind: HoldName, pages: usize) -> Result<(OwnedFd, OwnedFd), HoldError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(call(kind, "pipe2"))?;
    fcntl_setpipe_size(&write, pages * PAGE_SIZE).map_err(call(kind, "F_SETPIPE_SZ"))?;
    Ok((read, write))
}

/// References to the pages, in a pipe of their own: its read end.
///
/// # Errors
/// What pipe2, `F_SETPIPE_SZ` and vmsplice say; a range outside the mapping.
pub(super) fn splice(
    kind: HoldName,
    pages: &SharedPages,
    first: usize,
    count: usize,
) -> Result<OwnedFd, HoldError> {
    let (address, len) = address_of(kind, pages, first, count)?;
    let (read, write) = pipe_for(kind, count)?;
    let range = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: len,
    };
    // SAFETY: the kernel takes references to the pages of a range that was checked to be
    // inside a living mapping; without SPLICE_F_GIFT it makes no claim on their contents.
    let spliced = unsafe { libc::vmsplice(write.as_raw_fd(), &range, 1, libc::SPLICE_F_NONBLOCK) };
    match usize::try_from(spliced) {
        Ok(spliced) if spliced == len => Ok(read),
        Ok(spliced) => {
            let what = format!("vmsplice took {spliced} of {len} bytes");
            Err(HoldError::Broken { kind, what })
        }
        Err(_) => Err(call(kind, "vmsplice")(last_errno())),
    }
}

impl Holder for Pipe {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let read = splice(KIND, pages, first, count)?;
        Ok(Export::new(KIND, count, vec![], vec![read]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let pages = export.pages as usize;
        let ([pipe], []) = parts(export)?;
        Ok(Box::new(Spliced::new(KIND, pipe, pages)))
    }
}

/// A pipe with references, in the consumer's process.
pub(super) struct Spliced {
    kind: HoldName,
    pipe: OwnedFd,
    pages: usize,
}

impl Spliced {
    pub fn new(kind: HoldName, pipe: OwnedFd, pages: usize) -> Spliced {
        Spliced { kind, pipe, pages }
    }
}

impl Held for Spliced {
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        let kind = self.kind;
        let (read, write) = pipe_for(kind, self.pages)?;
        let len = self.pages * PAGE_SIZE;
        let teed =
            tee(&self.pipe, &write, len, SpliceFlags::NONBLOCK).map_err(call(kind, "tee"))?;
        if teed != len {
            let what = format!("the pipe has {teed} bytes, not {len}");
            return Err(HoldError::Broken { kind, what });
        }
        let mut bytes = vec![0; len];
        File::from(read)
            .read_exact(&mut bytes)
            .map_err(|error| HoldError::Broken {
                kind,
                what: format!("reading the second pipe: {error}"),
            })?;
        Ok(Some(bytes))
    }

    /// The last descriptor of a pipe that closes drops the references of its buffers at once.
    fn release(self: Box<Self>) -> Result<(), HoldError> {
        Ok(())
    }
}
