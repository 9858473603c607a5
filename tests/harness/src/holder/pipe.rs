//! `pipe`: vmsplice puts references to the pages, not their bytes, into a pipe. Whoever has the
//! pipe has the pages, until the bytes are read or the pipe is closed. `tee` copies the
//! references into a second pipe, so the pages can be looked at without letting go of them.
#![allow(unsafe_code, reason = "vmsplice takes addresses")]

use super::{
    Export, Held, HoldError, HoldName, Holder, address_of, call, last_errno, parts, sha256,
};
use libgnt::{PAGE_SIZE, SharedPages};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, tee};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

const KIND: HoldName = HoldName::Pipe;

pub(super) struct Pipe;

/// A pipe with room for so many pages, one a slot.
fn pipe_for(pages: usize) -> Result<(OwnedFd, OwnedFd), HoldError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(call(KIND, "pipe2"))?;
    fcntl_setpipe_size(&write, pages * PAGE_SIZE).map_err(call(KIND, "F_SETPIPE_SZ"))?;
    Ok((read, write))
}

impl Holder for Pipe {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let (address, len) = address_of(KIND, pages, first, count)?;
        let (read, write) = pipe_for(count)?;
        let range = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: len,
        };
        // SAFETY: the kernel takes references to the pages of a range that was checked to be
        // inside a living mapping; without SPLICE_F_GIFT it makes no claim on their contents.
        let spliced =
            unsafe { libc::vmsplice(write.as_raw_fd(), &range, 1, libc::SPLICE_F_NONBLOCK) };
        match usize::try_from(spliced) {
            Ok(spliced) if spliced == len => {}
            Ok(spliced) => {
                let what = format!("vmsplice took {spliced} of {len} bytes");
                return Err(HoldError::Broken { kind: KIND, what });
            }
            Err(_) => return Err(call(KIND, "vmsplice")(last_errno())),
        }
        Ok(Export::new(KIND, count, vec![], vec![read]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let pages = export.pages as usize;
        let ([pipe], []) = parts(export)?;
        Ok(Box::new(Spliced { pipe, pages }))
    }
}

struct Spliced {
    pipe: OwnedFd,
    pages: usize,
}

impl Held for Spliced {
    fn checksum(&mut self) -> Result<Option<String>, HoldError> {
        let (read, write) = pipe_for(self.pages)?;
        let len = self.pages * PAGE_SIZE;
        let teed =
            tee(&self.pipe, &write, len, SpliceFlags::NONBLOCK).map_err(call(KIND, "tee"))?;
        if teed != len {
            let what = format!("the pipe has {teed} bytes, not {len}");
            return Err(HoldError::Broken { kind: KIND, what });
        }
        let mut bytes = vec![0; len];
        File::from(read)
            .read_exact(&mut bytes)
            .map_err(|error| HoldError::Broken {
                kind: KIND,
                what: format!("reading the second pipe: {error}"),
            })?;
        Ok(Some(sha256(&bytes)))
    }

    /// The last descriptor of a pipe that closes drops the references of its buffers at once.
    fn release(self: Box<Self>) -> Result<(), HoldError> {
        Ok(())
    }
}
