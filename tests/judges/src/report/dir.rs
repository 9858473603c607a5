//! The report's directory. It is the user's disk: nothing is removed that a run did not make.

use pv_harness::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Marks a directory as one of ours; locked while a run writes there.
const MARKER: &str = ".pv-stress-report";
/// What an earlier run made.
const OURS: [&str; 7] = [
    "report.json",
    "junit.xml",
    "report.html",
    "conform.json",
    "peers",
    "runs",
    "machine",
];

/// A directory that this run, and no other, writes to.
#[derive(Debug)]
pub struct ReportDir {
    path: PathBuf,
    _lock: File,
}

impl ReportDir {
    /// Makes the directory, or takes over one that an earlier run made, and empties it of that
    /// run's files.
    ///
    /// # Errors
    /// [`Error::Usage`] if it holds anything else, or another run is writing there.
    pub fn claim(path: &Path) -> Result<ReportDir> {
        let cannot = |error: io::Error| {
            Error::file(
                path,
                error,
                "name a directory that can be written with --report",
            )
        };
        match fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => return Err(cannot(io::ErrorKind::NotADirectory.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(cannot)?;
            }
            Err(error) => return Err(cannot(error)),
        }
        let ours = path.join(MARKER).exists();
        let empty = fs::read_dir(path).map_err(cannot)?.next().is_none();
        if !ours && !empty {
            return Err(Error::Usage(format!(
                "{} is not empty and holds no report of pv-stress, so nothing is written there; name another directory with --report",
                path.display()
            )));
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(MARKER))
            .map_err(cannot)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Usage(format!(
                "another pv-stress is writing its report to {}; name another directory with --report",
                path.display()
            )));
        }
        for name in OURS {
            remove(&path.join(name)).map_err(cannot)?;
        }
        let path = fs::canonicalize(path).map_err(cannot)?;
        Ok(ReportDir { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one scenario's logs, and its name below the report's.
    pub fn logs(&self, scenario: &str) -> (PathBuf, String) {
        let below = format!("runs/{scenario}");
        (self.path.join(&below), below)
    }

    /// Removes one scenario's logs, before it is played again.
    ///
    /// # Errors
    /// What the file system says.
    pub fn forget(&self, scenario: &str) -> Result<()> {
        let (logs, _) = self.logs(scenario);
        remove(&logs).map_err(|error| Error::file(&logs, error, "remove it by hand"))
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, bytes)
            .map_err(|error| Error::file(&path, error, "free some space, or use another --report"))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "years of work").unwrap();
        fs::write(temp.path().join("report.json"), "{}").unwrap();
        let error = ReportDir::claim(temp.path()).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(temp.path().join("report.json").exists());
    }

    #[test]
    fn an_earlier_report_is_replaced_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let first = ReportDir::claim(&path).unwrap();
        let (logs, below) = first.logs("copy");
        assert_eq!(below, "runs/copy");
        fs::create_dir_all(&logs).unwrap();
        first.write("report.json", "{}").unwrap();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        drop(first);
        ReportDir::claim(&path).unwrap();
        assert!(!path.join("report.json").exists() && !path.join("runs").exists());
        assert!(path.join("notes.txt").exists());
    }

    #[test]
    fn two_runs_do_not_share_a_directory() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("r");
        let first = ReportDir::claim(&path).unwrap();
        first.write("report.json", "{}").unwrap();
        let error = ReportDir::claim(&path).unwrap_err();
        assert!(error.to_string().contains("another pv-stress"), "{error}");
        assert!(path.join("report.json").exists());
    }

    #[test]
    fn a_file_is_no_directory() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let error = ReportDir::claim(temp.path()).unwrap_err().to_string();
        assert!(error.contains("--report"), "{error}");
    }
}
