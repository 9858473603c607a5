//! One host for one directory.

use super::super::wire::{HOST_SOCKET, XENSTORE_SOCKET};
use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The lock file beside the socket.
const LOCK: &str = "xen.lock";
/// `sun_path` of `struct sockaddr_un` has 108 bytes, the last of them zero (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;
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
            Error::not_available(
                &format!("directory {} for a simulated Xen", dir.display()),
                cause,
                cure,
            )
        };
        let another = "use another directory";
        let longest = dir.join(XENSTORE_SOCKET).as_os_str().as_bytes().len();
        if longest > MAX_SOCKET_PATH {
            return Err(refused(
                format!("its sockets' paths would be {longest} bytes long, over {MAX_SOCKET_PATH}"),
                "use a directory with a shorter path",
            ));
        }
        std::fs::create_dir_all(dir).map_err(|e| refused(e.to_string(), another))?;
        let lock = lock_file(&dir.join(LOCK)).map_err(|errno| match errno {
            Errno::AGAIN => refused(
                "another host serves it".into(),
                "stop that one, or use another directory",
            ),
            errno => refused(format!("{LOCK}: {errno}"), another),
        })?;
        if let Err(cause) = remove_stale(&dir.join(HOST_SOCKET)) {
            // Still locked, so still ours to remove.
            let _ = std::fs::remove_file(dir.join(LOCK));
            return Err(refused(format!("{HOST_SOCKET}: {cause}"), another));
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

/// Removes a socket, and nothing else that may have its name.
fn remove_stale(socket: &Path) -> Result<(), String> {
    match std::fs::symlink_metadata(socket) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.to_string()),
        Ok(there) if there.file_type().is_socket() => {
            std::fs::remove_file(socket).map_err(|e| e.to_string())
        }
        Ok(_) => Err("is there, and is no socket".into()),
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
    use std::os::unix::net::UnixListener;

    #[test]
    fn one_at_a_time_and_nothing_left_behind() {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().join("deep/er");
        let first = Claim::take(&dir).expect("free");
        let refused = Claim::take(&dir).expect_err("taken").to_string();
        assert!(refused.contains("another host serves it"), "{refused}");
        drop(UnixListener::bind(dir.join(HOST_SOCKET)).expect("socket"));
        drop(first);
        assert_eq!(std::fs::read_dir(&dir).expect("dir").count(), 0);
        // As after a kill: both files there, no lock held.
        std::fs::write(dir.join(LOCK), b"").expect("stale lock");
        drop(UnixListener::bind(dir.join(HOST_SOCKET)).expect("stale socket"));
        let second = Claim::take(&dir).expect("stale files do not stop a host");
        assert!(!dir.join(HOST_SOCKET).exists());
        drop(second);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let temp = tempfile::tempdir().expect("dir");
        let file = temp.path().join(HOST_SOCKET);
        std::fs::write(&file, b"somebody's").expect("file");
        let refused = Claim::take(temp.path()).expect_err("not ours").to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(std::fs::read(&file).expect("file"), b"somebody's");
        assert_eq!(std::fs::read_dir(temp.path()).expect("dir").count(), 1);
    }

    #[test]
    fn a_directory_too_deep_for_a_socket_is_refused_in_words() {
        let temp = tempfile::tempdir().expect("dir");
        let deep = temp.path().join("d".repeat(MAX_SOCKET_PATH));
        let refused = Claim::take(&deep).expect_err("too long").to_string();
        assert!(refused.contains("shorter path"), "{refused}");
        assert!(!deep.exists());
    }
}
