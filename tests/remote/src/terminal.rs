//! A console as a byte stream: raw, non-blocking, with what it did not take yet kept for later.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// An open console.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
    pending: Vec<u8>,
}

impl Terminal {
    /// Opens a terminal device, without becoming its session's leader.
    ///
    /// # Errors
    /// What `open` and `tcsetattr` say.
    pub fn open(path: &Path) -> io::Result<Terminal> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let mut attributes = tcgetattr(&fd)?;
        attributes.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &attributes)?;
        Ok(Terminal {
            fd,
            pending: Vec::new(),
        })
    }

    /// The descriptor, for polling.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// What is there now.
    ///
    /// # Errors
    /// What `read` says; `UnexpectedEof` if the other end is gone.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match rustix::io::read(&self.fd, &mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => all.extend(&bytes[..n]),
                Err(Errno::AGAIN) => return Ok(all),
                Err(Errno::INTR) => {}
                Err(errno) if all.is_empty() => return Err(errno.into()),
                Err(_) => return Ok(all),
            }
        }
    }

    /// Writes what it can of what was kept and of this.
    ///
    /// # Errors
    /// What `write` says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend(bytes);
        while !self.pending.is_empty() {
            match rustix::io::write(&self.fd, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Is something kept?
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
