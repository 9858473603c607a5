//! One host for one directory.

use super::super::wire::HOST_SOCKET;
use crate::error::Result;
use crate::platform::not_available;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The lock file beside the socket.
const LOCK: &str = "xen.lock";
/// Locks that went away under us before we believe that something else is wrong.
const TRIES: usize = 16;

/// The right to serve a directory. Dropping it removes the socket, then the lock.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    /// Held for the lock on it: the kernel lets go of it when the process dies, however it dies.
    _lock: OwnedFd,
}

impl Claim {
    /// Locks the directory, and removes a socket that a dead host left.
    pub fn take(dir: &Path) -> Result<Self> {
        let refused = |cause: String, cure: &str| {
            not_available(
                &format!("directory {} for a simulated Xen", dir.display()),
                cause,
                cure,
            )
        };
        let another = "use another directory with `--dir`";
        std::fs::create_dir_all(dir).map_err(|e| refused(e.to_string(), another))?;
        let lock = lock_file(&dir.join(LOCK)).map_err(|errno| match errno {
            Errno::AGAIN => refused(
                "another host serves it".into(),
                "stop that one, or use another directory with `--dir`",
            ),
            errno => refused(format!("{LOCK}: {errno}"), another),
        })?;
        match std::fs::remove_file(dir.join(HOST_SOCKET)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(refused(format!("{HOST_SOCKET}: {e}"), another));
            }
            _ => {}
        }
        Ok(Claim {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Both while the lock is still held: nobody else's files can be meant.
        for name in [HOST_SOCKET, LOCK] {
            if let Err(error) = std::fs::remove_file(self.dir.join(name)) {
                tracing::debug!(%error, name, "not removed");
            }
        }
    }
}

fn lock_file(path: &Path) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = open(path, flags, Mode::from_raw_mode(0o600))?;
        flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        // A host that just stopped may have removed the file between our open and our lock: then
        // the lock is on nothing, and the next one would get a lock of its own.
        let ours = fstat(&fd)?;
        match stat(path) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                return Ok(fd);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_left_behind() {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().join("deep/er");
        let first = Claim::take(&dir).expect("free");
        let refused = Claim::take(&dir).expect_err("taken").to_string();
        assert!(refused.contains("another host serves it"), "{refused}");
        std::fs::write(dir.join(HOST_SOCKET), b"").expect("socket");
        drop(first);
        assert_eq!(std::fs::read_dir(&dir).expect("dir").count(), 0);
        // As after a kill: both files there, no lock held.
        for name in [HOST_SOCKET, LOCK] {
            std::fs::write(dir.join(name), b"").expect("stale");
        }
        let second = Claim::take(&dir).expect("stale files do not stop a host");
        assert!(!dir.join(HOST_SOCKET).exists());
        drop(second);
    }
}
