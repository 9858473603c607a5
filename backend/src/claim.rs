//! One back end for one device: a file that is locked as long as the device is served. The kernel
//! takes the lock back when the process dies, however it dies. xenstore cannot tell: a killed back
//! end leaves its state behind. In the file is what the next back end has to know
//! ([`record`](crate::record)).

use crate::record::Record;
use pv_xenstore::toolstack::DeviceKey;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Below the directory for such things.
const DIRECTORY: &str = "pv-backend";

/// Why a device cannot be claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Somebody else serves it.
    #[error(
        "{device} is served by another back end, which holds {}; \
         stop that one first", path.display()
    )]
    Taken {
        /// The device.
        device: DeviceKey,
        /// The file that it has locked.
        path: PathBuf,
    },
    /// The file that is locked for it cannot be made.
    #[error("cannot claim {device}: {what} {}: {cause}{}", path.display(), cure(*cause))]
    System {
        /// The device.
        device: DeviceKey,
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        cause: Errno,
    },
}

fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            "; run as root, or name a directory of your own"
        }
        Errno::NOSPC | Errno::DQUOT => "; free some space there, or name another directory",
        Errno::LOOP | Errno::NOTDIR => "; somebody has put something else there: remove it",
        _ => "",
    }
}

/// Where files for claims are.
#[derive(Clone, Debug)]
pub(crate) enum RunDir {
    /// The platform's; what is made there is removed again.
    Platforms(PathBuf),
    /// One that the user named.
    Users(PathBuf),
}

impl RunDir {
    fn path(&self) -> &Path {
        match self {
            RunDir::Platforms(path) | RunDir::Users(path) => path,
        }
    }
}

/// A locked file. Held as long as the device is served; then removed, unless a next back end has to
/// know what is in it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub file: File,
    path: PathBuf,
    run_dir: RunDir,
    device: DeviceKey,
}

impl Claim {
    /// Claims a device of a front. All back ends of a domain must be given the same directory
    /// ([`libgnt::Platform::run_dir`]): in a container, mount the host's there.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] at once if somebody has it.
    pub fn take(run_dir: RunDir, device: &DeviceKey) -> Result<Self, ClaimError> {
        let directory = run_dir.path().join(DIRECTORY);
        let front = device.front_domid.0;
        let path = directory.join(format!("{}-{front}-{}", device.class, device.devid));
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| ClaimError::System {
                device: device.clone(),
                what,
                path,
                cause,
            }
        };
        loop {
            for new in [run_dir.path(), &directory] {
                match rustix::fs::mkdir(new, Mode::RWXU) {
                    Err(Errno::EXIST) => {}
                    other => other.map_err(failed("create", new))?,
                }
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR) {
                // Somebody who ended has just removed the directory.
                Err(Errno::NOENT) => continue,
                other => other.map_err(failed("open", &path))?,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::AGAIN) => {
                    return Err(ClaimError::Taken {
                        device: device.clone(),
                        path,
                    });
                }
                other => other.map_err(failed("lock", &path))?,
            }
            // Whoever had it may have removed it between our opening and our locking.
            let locked = rustix::fs::fstat(&file).map_err(failed("look at", &path))?;
            match rustix::fs::lstat(&path) {
                Ok(there) if (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino) => {
                    let file = File::from(file);
                    let device = device.clone();
                    return Ok(Claim {
                        file,
                        path,
                        run_dir,
                        device,
                    });
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(cause) => return Err(failed("look at", &path)(cause)),
            }
        }
    }

    /// The error when something cannot be done with the file.
    pub fn cannot(&self, what: &'static str, error: &std::io::Error) -> ClaimError {
        ClaimError::System {
            device: self.device.clone(),
            what,
            path: self.path.clone(),
            cause: Errno::from_io_error(error).unwrap_or(Errno::IO),
        }
    }
}

/// Gives the device back.
impl Drop for Claim {
    fn drop(&mut self) {
        if Record::is_of_use(&self.file) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the claim's file stays");
        }
        // Those of other devices stay, and the directories with them.
        let _ = self.path.parent().map(std::fs::remove_dir);
        if let RunDir::Platforms(run_dir) = &self.run_dir {
            let _ = std::fs::remove_dir(run_dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::DomId;
    use pv_xenstore::toolstack::{DeviceClass, DeviceId};

    fn device(front: u16, class: DeviceClass, devid: u32) -> DeviceKey {
        DeviceKey::new(DomId(front), class, DeviceId(devid))
    }

    #[test]
    fn a_device_is_claimed_once_and_given_back() {
        let dir = tempfile::tempdir().expect("directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let (here, there) = (|| RunDir::Platforms(a.clone()), RunDir::Users(b.clone()));
        let xvda = device(1, DeviceClass::VBD, 51712);
        let first = Claim::take(here(), &xvda).expect("first");
        let second = Claim::take(here(), &xvda);
        let text = second.expect_err("taken").to_string();
        assert!(text.contains("vbd-1-51712"), "{text}");
        let class = "other".parse().expect("a class");
        let others = [
            device(1, DeviceClass::VBD, 51728),
            device(2, DeviceClass::VBD, 51712),
            device(1, class, 51712),
        ];
        let others = others.map(|other| Claim::take(here(), &other).expect("another device"));
        let other_place = Claim::take(there, &xvda).expect("place");
        drop(first);
        let again = Claim::take(here(), &xvda).expect("given back");
        let path = again.path.clone();
        assert!(path.exists());
        drop(again);
        assert!(!path.exists());
        drop((others, other_place));
        assert!(!a.exists() && b.exists() && !b.join(DIRECTORY).exists());
    }

    #[test]
    fn what_the_next_back_end_has_to_know_is_kept() {
        let dir = tempfile::tempdir().expect("directory");
        let xvda = device(1, DeviceClass::VBD, 51712);
        let here = || RunDir::Platforms(dir.path().join("a"));
        let claim = Claim::take(here(), &xvda).expect("claim");
        let record = Record::open(&claim.file, DomId(1), xvda.devid).expect("record");
        record.failed_flush().note();
        let path = claim.path.clone();
        drop((claim, record));
        assert!(path.exists());
        let claim = Claim::take(here(), &xvda).expect("claim");
        Record::open(&claim.file, DomId(1), xvda.devid)
            .expect("record")
            .forget();
        drop(claim);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_in_the_way_is_named_with_a_cure() {
        let dir = tempfile::tempdir().expect("directory");
        let place = dir.path().join(DIRECTORY);
        std::fs::create_dir(&place).expect("directory");
        std::os::unix::fs::symlink("/etc/passwd", place.join("vbd-1-51712")).expect("link");
        let error = Claim::take(
            RunDir::Users(dir.path().into()),
            &device(1, DeviceClass::VBD, 51712),
        );
        let text = error.expect_err("a link").to_string();
        assert!(
            text.contains("vbd-1-51712") && text.contains("remove it"),
            "{text}"
        );
    }
}
