//! A set of packages as it is kept: chosen once, with every file's size and SHA-256, so that a result
//! can be repeated.

use super::archive::Package;
use super::cache::Cache;
use super::tree::Sum;
use crate::error::{LabError, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Packages that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// What they are for, and of which release: `xen-bookworm`.
    pub name: String,
    /// The version of the package that matters most.
    pub version: String,
    /// Something else about them: the kernel's `uname -r`.
    pub detail: String,
    /// All of them.
    pub packages: Vec<Package>,
}

impl Set {
    /// The version of one of them.
    pub fn version_of(&self, package: &str) -> Option<&str> {
        let mut packages = self.packages.iter();
        let found = packages.find(|p| p.name == package)?;
        Some(&found.version)
    }

    /// What it unpacks to: another set, another directory.
    pub fn directory(&self, part: &Part) -> String {
        format!("{}.{}", self.state(), part.label)
    }

    /// Is this the name of a directory that a part of it unpacks to?
    pub fn unpacks_to(&self, directory: &str) -> bool {
        directory
            .rsplit_once('.')
            .is_some_and(|(state, _)| state == self.state())
    }

    fn state(&self) -> String {
        let text: Vec<&str> = self
            .packages
            .iter()
            .map(|p| p.sum.sha256.as_str())
            .collect();
        let sum = Sum::of_bytes(text.join("\n").as_bytes());
        format!("{}-{}", self.name, &sum.sha256[..12])
    }
}

/// What is taken out of packages. Another choice of files needs another label.
pub struct Part {
    /// In the directory's name.
    pub label: &'static str,
    /// Which files.
    pub wanted: fn(&Path) -> bool,
}

/// Everything.
pub const WHOLE: Part = Part {
    label: "whole",
    wanted: |_| true,
};

/// Every set that is kept, and where.
///
/// # Errors
/// If the cache cannot be read.
pub fn sets(cache: &Cache) -> Result<Vec<(PathBuf, Set)>> {
    let dir = cache.path("sets");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LabError::file(&dir)(error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // The newest of a name comes before those that it replaced.
    paths.sort();
    let sets = paths.into_iter();
    Ok(sets
        .filter_map(|path| Some((path.clone(), read_set(&path)?)))
        .collect())
}

/// The set in a file. One that is damaged is none: it is chosen again.
pub fn read_set(path: &Path) -> Option<Set> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Keeps a set in a file, whole or not at all.
///
/// # Errors
/// What the file system says.
pub fn write_set(path: &Path, set: &Set) -> Result<()> {
    let failed = |error: io::Error| LabError::file(path)(error);
    let text = serde_json::to_vec_pretty(set).map_err(|error| failed(error.into()))?;
    let partial = path.with_extension("partial");
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(&partial, text).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}
