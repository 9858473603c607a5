//! One run's own directory below the cache: removed with the run, and swept by the next one if it
//! was killed.

use super::cache::Cache;
use crate::error::{LabError, Result};
use std::fs;
use std::path::{Path, PathBuf};

const PREFIX: &str = "run-";

/// A directory that goes with its run.
pub struct Work {
    dir: PathBuf,
}

impl Work {
    /// Makes it, and removes those of runs that are no more.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn new(cache: &Cache) -> Result<Work> {
        let cache = cache.root();
        for entry in fs::read_dir(cache)
            .map_err(LabError::file(cache))?
            .flatten()
        {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another run may be sweeping too.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = cache.join(format!("{PREFIX}{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).map_err(LabError::file(&dir))?;
        Ok(Work { dir })
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_runs_directory_is_swept_and_a_living_ones_stays() {
        let cache = tempfile::tempdir().unwrap();
        let dead = cache.path().join("run-4194305");
        let living = cache.path().join("run-1");
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&living).unwrap();
        let opened = Cache::open(cache.path()).unwrap();
        let work = Work::new(&opened).unwrap();
        assert!(!dead.exists() && living.exists());
        let own = work.path("x");
        fs::write(&own, "").unwrap();
        drop(work);
        assert!(!own.exists());
    }
}
