//! What was unpacked, with a list of every file's size and SHA-256: looked through before use, so
//! that a cache that was damaged or half filled is noticed.

use crate::error::{LabError, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The list's name, in the directory that it is about.
const LIST: &str = ".pv-stress-files.json";

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Bytes.
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl Sum {
    /// That of these bytes.
    pub fn of_bytes(bytes: &[u8]) -> Sum {
        Sum {
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(bytes)),
        }
    }

    /// That of a file.
    ///
    /// # Errors
    /// What reading it says.
    pub fn of_file(path: &Path) -> io::Result<Sum> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 18];
        let mut bytes = 0;
        loop {
            let n = file.read(&mut piece)?;
            if n == 0 {
                return Ok(Sum {
                    bytes,
                    sha256: hex(&hash.finalize()),
                });
            }
            bytes += n as u64;
            hash.update(&piece[..n]);
        }
    }

    /// How a file differs from this; `None` if it does not.
    pub fn differs(&self, path: &Path) -> Option<String> {
        match Sum::of_file(path) {
            Ok(is) if is == *self => None,
            Ok(is) if is.bytes != self.bytes => Some(format!(
                "{} has {} bytes instead of {}",
                path.display(),
                is.bytes,
                self.bytes
            )),
            Ok(is) => Some(format!(
                "{} has another SHA-256 than it must: {} instead of {}",
                path.display(),
                is.sha256,
                self.sha256
            )),
            Err(error) => Some(format!("{}: {error}", path.display())),
        }
    }
}

/// Bytes as people write hashes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A directory is complete with this.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct List {
    files: BTreeMap<PathBuf, Sum>,
    links: BTreeMap<PathBuf, PathBuf>,
}

impl List {
    fn of(dir: &Path) -> io::Result<List> {
        let mut list = List::default();
        let mut todo = vec![dir.to_owned()];
        while let Some(dir_of_it) = todo.pop() {
            for entry in fs::read_dir(&dir_of_it)? {
                let path = entry?.path();
                let kind = fs::symlink_metadata(&path)?;
                let name = || path.strip_prefix(dir).unwrap_or(&path).to_owned();
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_symlink() {
                    list.links.insert(name(), fs::read_link(&path)?);
                } else if name() != Path::new(LIST) {
                    list.files.insert(name(), Sum::of_file(&path)?);
                }
            }
        }
        Ok(list)
    }
}

/// Puts what `fill` makes at `dir`, whole or not at all.
///
/// # Errors
/// What `fill` or the file system says.
pub fn complete(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = dir.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    remove(&partial)?;
    remove(dir)?;
    fs::create_dir_all(&partial).map_err(LabError::file(&partial))?;
    fill(&partial)?;
    let list = List::of(&partial).map_err(LabError::file(&partial))?;
    let text = serde_json::to_vec(&list).map_err(|e| LabError::file(&partial)(e.into()))?;
    let path = partial.join(LIST);
    fs::write(&path, text).map_err(LabError::file(&path))?;
    fs::rename(&partial, dir).map_err(LabError::file(dir))
}

/// What is wrong with a directory that [`complete`] made; `None` if it is as it was then.
pub fn damage(dir: &Path) -> Option<String> {
    let path = dir.join(LIST);
    let list: List = match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(list)) => list,
        Ok(Err(error)) => return Some(format!("{}: {error}", path.display())),
        Err(error) => return Some(format!("{}: {error}", path.display())),
    };
    for (name, target) in &list.links {
        if fs::read_link(dir.join(name)).ok().as_ref() != Some(target) {
            return Some(format!("the link {} is gone", dir.join(name).display()));
        }
    }
    let mut files = list.files.iter();
    files.find_map(|(name, sum)| sum.differs(&dir.join(name)))
}

/// The first file below a directory that is wanted.
///
/// # Errors
/// There is none: `what` says what was looked for.
pub fn find(tree: &Path, what: &str, wanted: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut todo = vec![tree.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = fs::read_dir(&dir).map_err(LabError::file(&dir))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        if let Some(found) = paths.iter().find(|p| p.is_file() && wanted(p)) {
            return Ok(found.clone());
        }
        todo.extend(
            paths
                .into_iter()
                .rev()
                .filter(|p| p.is_dir() && !p.is_symlink()),
        );
    }
    Err(LabError::Failed {
        doing: format!("looking for {what} in the packages"),
        cause: format!("{} has none", tree.display()),
        cure: "remove that directory and run again".into(),
    })
}

/// Removes a directory, if it is there.
///
/// # Errors
/// What the file system says.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LabError::file(dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_every_kind_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tree");
        let fill = |dir: &Path| {
            fs::create_dir(dir.join("a")).unwrap();
            fs::write(dir.join("a/file"), "content").unwrap();
            std::os::unix::fs::symlink("file", dir.join("a/link")).unwrap();
            Ok(())
        };
        assert!(damage(&dir).is_some(), "not there");
        complete(&dir, fill).unwrap();
        assert_eq!(damage(&dir), None);
        fs::write(dir.join("a/file"), "contenu").unwrap();
        assert!(damage(&dir).unwrap().contains("another SHA-256"));
        fs::write(dir.join("a/file"), "cont").unwrap();
        assert!(damage(&dir).unwrap().contains("4 bytes instead of 7"));
        fs::remove_file(dir.join("a/file")).unwrap();
        assert!(damage(&dir).unwrap().contains("No such file"));
        complete(&dir, fill).unwrap();
        assert_eq!(damage(&dir), None, "made anew");
        fs::remove_file(dir.join("a/link")).unwrap();
        assert!(damage(&dir).unwrap().contains("the link"));
        fs::write(dir.join(LIST), "{").unwrap();
        assert!(damage(&dir).unwrap().contains("EOF"));
    }

    #[test]
    fn what_could_not_be_filled_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tree");
        let failed = complete(&dir, |partial| {
            fs::write(partial.join("x"), "").unwrap();
            Err(LabError::file(Path::new("disk"))(
                io::ErrorKind::StorageFull.into(),
            ))
        });
        assert!(failed.is_err() && !dir.exists());
        complete(&dir, |_| Ok(())).unwrap();
        assert!(dir.exists() && !temp.path().join("tree.partial").exists());
    }
}
