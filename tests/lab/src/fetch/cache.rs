//! Where packages, what is in them, and builds are kept from one lab to the next: the user's cache
//! directory. Labs share it: one at a time fills it, and it is not pruned while one runs.

use crate::error::{LabError, Result};
use crate::progress::Progress;
use etcetera::BaseStrategy;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// A cache that this process uses.
pub struct Cache {
    root: PathBuf,
    /// Held shared for as long as the cache is in use.
    _in_use: File,
}

/// The cache's place: the named one, or else `$XDG_CACHE_HOME/pv-stress`, or below `~/.cache`.
///
/// # Errors
/// None is named, and neither is known.
pub fn root(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(root) = named {
        return Ok(root.to_owned());
    }
    let user = etcetera::base_strategy::Xdg::new().map_err(|error| LabError::Failed {
        doing: "looking for the user's cache directory".into(),
        cause: error.to_string(),
        cure: "set XDG_CACHE_HOME or HOME, or name a place with --cache".into(),
    })?;
    Ok(user.cache_dir().join("pv-stress"))
}

impl Cache {
    /// Opens a cache, and makes it if need be.
    ///
    /// # Errors
    /// It cannot be written; it is being pruned.
    pub fn open(root: &Path) -> Result<Cache> {
        let root = std::path::absolute(root).map_err(LabError::file(root))?;
        fs::create_dir_all(&root).map_err(|error| LabError::Failed {
            doing: format!("making the cache {}", root.display()),
            cause: error.to_string(),
            cure: "name a directory that can be written with --cache".into(),
        })?;
        let path = root.join("in-use");
        let in_use = open_lock(&path)?;
        match in_use.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LabError::Failed {
                    doing: format!("using the cache {}", root.display()),
                    cause: "it is being pruned".into(),
                    cure: "try again when that is done".into(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(LabError::file(&path)(error)),
        }
        Ok(Cache {
            root,
            _in_use: in_use,
        })
    }

    /// Opens a cache for pruning; `None` if there is none.
    ///
    /// # Errors
    /// A lab uses it.
    pub fn open_alone(root: &Path) -> Result<Option<Cache>> {
        let root = std::path::absolute(root).map_err(LabError::file(root))?;
        if !root.exists() {
            return Ok(None);
        }
        let path = root.join("in-use");
        let in_use = open_lock(&path)?;
        match in_use.try_lock() {
            Ok(()) => Ok(Some(Cache {
                root,
                _in_use: in_use,
            })),
            Err(TryLockError::WouldBlock) => Err(LabError::Failed {
                doing: format!("pruning the cache {}", root.display()),
                cause: "a lab is using it".into(),
                cure: "prune when that has ended".into(),
            }),
            Err(TryLockError::Error(error)) => Err(LabError::file(&path)(error)),
        }
    }

    /// A place in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// All of it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One lab at a time fills the cache: it may for as long as it keeps this.
    ///
    /// # Errors
    /// The cache cannot be written; we were interrupted.
    pub fn fill(&self, progress: &Progress) -> Result<File> {
        let path = self.path("lock");
        let lock = open_lock(&path)?;
        let mut told = false;
        // `flock` starts again after a signal whose handler returns: asked in turns, so that Ctrl-C
        // ends it.
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if told => {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                }
                Err(TryLockError::WouldBlock) => {
                    progress.tell("waiting for another lab to prepare the cache");
                    told = true;
                }
                Err(TryLockError::Error(error)) => return Err(LabError::file(&path)(error)),
            }
            progress.check()?;
        }
    }
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(LabError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_share_a_cache_and_pruning_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        assert!(Cache::open_alone(&root).unwrap().is_none());
        let one = Cache::open(&root).unwrap();
        let two = Cache::open(&root).unwrap();
        let refused = Cache::open_alone(&root).err().unwrap().to_string();
        assert!(refused.contains("a lab is using it"), "{refused}");
        drop((one, two));
        let pruning = Cache::open_alone(&root).unwrap().unwrap();
        let refused = Cache::open(&root).err().unwrap().to_string();
        assert!(refused.contains("it is being pruned"), "{refused}");
        drop(pruning);
        assert!(Cache::open(&root).is_ok());
    }
}
