//! `fork`: a child of the mapper keeps its copy of the mapping until it is told to go, or nobody
//! is left who could tell it. It looks at the pages when asked, and sends what it sees.
//!
//! The child is a grandchild, really: its parent ends at once and is reaped, so the mapper is left
//! with nobody to wait for. Only the held mapping is copied: `libgnt` keeps its mappings out of
//! forks, since a child that had them all would hold them all, the ring included.
#![allow(
    unsafe_code,
    reason = "fork, and the child's system calls on plain memory"
)]

use super::{
    Export, Held, HoldError, HoldName, Holder, PATIENCE, address_of, call, last_errno, parts,
};
use libgnt::{PAGE_SIZE, SharedPages};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

const KIND: HoldName = HoldName::Fork;
/// Asks the child for the pages' bytes.
const LOOK: u8 = b'l';

pub(super) struct Fork;

impl Holder for Fork {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let (address, len) = address_of(KIND, pages, first, count)?;
        let (ours, theirs) = UnixStream::pair()
            .map_err(|e| call(KIND, "socketpair")(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        pages.set_inherited(true).map_err(not_inherited)?;
        // SAFETY: the child only calls async-signal-safe functions on values it has already
        // (`in_child`), and never returns; nothing of this process's state is used in it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: in the child of fork, as `in_child` wants it.
            unsafe { in_child(theirs.as_raw_fd(), address, len) }
        }
        let forked = match child {
            ..0 => Err(call(KIND, "fork")(last_errno())),
            _ => reap(child),
        };
        pages.set_inherited(false)?;
        forked?;
        Ok(Export::new(KIND, count, vec![], vec![OwnedFd::from(ours)]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let pages = export.pages as usize;
        let ([child], []) = parts(export)?;
        let child = UnixStream::from(child);
        let patience = Some(PATIENCE);
        child
            .set_read_timeout(patience)
            .and_then(|()| child.set_write_timeout(patience))
            .map_err(|error| broken(&error))?;
        Ok(Box::new(Forked { child, pages }))
    }
}

/// Linux 7.2 does not let MADV_DONTFORK be undone on gntdev's pages; 6.12 does.
fn not_inherited(error: libgnt::Error) -> HoldError {
    match error.errno() {
        Some(Errno::INVAL) => HoldError::NotHere {
            kind: KIND,
            cause: "cannot copy pages that are kept out of forks, because this Linux does not let that be undone (EINVAL)".into(),
            cure: "use another holder, or an older kernel".into(),
        },
        _ => error.into(),
    }
}

fn broken(error: &std::io::Error) -> HoldError {
    HoldError::Broken {
        kind: KIND,
        what: format!("the forked child: {error}"),
    }
}

/// Waits for the middle process, which ends as soon as it has forked.
fn reap(child: libc::pid_t) -> Result<(), HoldError> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(child, &mut status, 0) };
        match (pid, last_errno()) {
            (-1, Errno::INTR) => {}
            (-1, errno) => return Err(call(KIND, "waitpid")(errno)),
            _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 => return Ok(()),
            _ => return Err(call(KIND, "the second fork")(Errno::AGAIN)),
        }
    }
}

/// The middle process and, in it, the holder.
///
/// # Safety
/// Only in the child of `fork`. Calls nothing but async-signal-safe functions: no allocation, no
/// locks, no panic.
unsafe fn in_child(control: RawFd, address: usize, len: usize) -> ! {
    // SAFETY: plain system calls; the range is mapped in this copy of the address space, and is
    // only passed to write(2).
    unsafe {
        match libc::fork() {
            0 => {}
            -1 => libc::_exit(1),
            _ => libc::_exit(0),
        }
        // The rest of the mapper's descriptors must close when the mapper dies.
        if control > 0 {
            libc::syscall(libc::SYS_close_range, 0, control - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, control + 1, libc::c_uint::MAX, 0);
        let mut order = 0u8;
        loop {
            match libc::read(control, (&raw mut order).cast(), 1) {
                1 if order == LOOK => {
                    let mut sent = 0;
                    while sent < len {
                        let from = (address + sent) as *const libc::c_void;
                        match libc::write(control, from, len - sent) {
                            n if n > 0 => sent += n as usize,
                            -1 if *libc::__errno_location() == libc::EINTR => {}
                            _ => libc::_exit(1),
                        }
                    }
                }
                -1 if *libc::__errno_location() == libc::EINTR => {}
                // Told to go, or nobody is left to tell.
                _ => libc::_exit(0),
            }
        }
    }
}

struct Forked {
    child: UnixStream,
    pages: usize,
}

impl Held for Forked {
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        let mut bytes = vec![0; self.pages * PAGE_SIZE];
        self.child
            .write_all(&[LOOK])
            .and_then(|()| self.child.read_exact(&mut bytes))
            .map_err(|error| broken(&error))?;
        Ok(Some(bytes))
    }

    /// The child's address space goes before its descriptors, so the end of its socket says that
    /// the mapping is gone.
    fn release(mut self: Box<Self>) -> Result<(), HoldError> {
        self.child
            .shutdown(Shutdown::Write)
            .and_then(|()| self.child.read(&mut [0]))
            .map_err(|error| broken(&error))?;
        Ok(())
    }
}
