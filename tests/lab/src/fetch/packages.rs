//! Sets of packages: chosen, fetched, looked through, and unpacked into the cache.

use super::archive::{Archive, INSTALL_APT};
use super::cache::Cache;
use super::set::{Part, Set, read_set, sets, write_set};
use super::tree;
use crate::ask::release::Release;
use crate::error::{LabError, Result};
use crate::process::cannot_run;
use crate::progress::Progress;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

/// What a set is to consist of.
pub struct Choice {
    /// All packages.
    pub packages: Vec<String>,
    /// The one that matters most.
    pub chief: String,
    /// See [`Set::detail`].
    pub detail: String,
}

/// The packages that a lab uses.
pub struct Packages<'a> {
    /// Where they are kept.
    pub cache: &'a Cache,
    /// Where they come from; `None`: the mirror that apt is configured with.
    mirror: Option<&'a str>,
    /// Look for newer ones than are kept.
    update: bool,
    /// Who is told.
    pub progress: &'a Progress,
    /// Releases whose lists are as new as this run.
    fresh: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Packages<'a> {
    /// From this cache and this mirror; `update`: look for newer ones than are kept.
    pub fn new(
        cache: &'a Cache,
        mirror: Option<&'a str>,
        update: bool,
        progress: &'a Progress,
    ) -> Packages<'a> {
        Packages {
            cache,
            mirror,
            update,
            progress,
            fresh: RefCell::default(),
        }
    }

    fn set_path(&self, name: &str) -> PathBuf {
        self.cache.path("sets").join(format!("{name}.json"))
    }

    /// The set that was chosen last under this name, or else one that `choose` chooses now. What it
    /// replaces stays under its version.
    ///
    /// # Errors
    /// No network, an unknown package, a full disk.
    pub fn set(
        &self,
        name: &str,
        release: Release,
        choose: &dyn Fn(&Archive<'_>) -> Result<Choice>,
    ) -> Result<Set> {
        let kept = read_set(&self.set_path(name));
        if let Some(set) = kept.as_ref().filter(|_| !self.update) {
            match self.fetch(set, release) {
                // What was chosen earlier is no longer there: choose again.
                Err(LabError::Failed { cause, .. }) => {
                    let version = &set.version;
                    self.progress
                        .tell(format_args!("{name} {version} cannot be had: {cause}"));
                }
                fetched => return fetched.map(|()| set.clone()),
            }
        }
        let set = self.choose(name, release, choose)?;
        self.fetch(&set, release)?;
        if let Some(old) = kept.filter(|old| *old != set) {
            let path = self.set_path(&format!("{name}@{}", file_name(&old.version)));
            write_set(&path, &old)?;
        }
        write_set(&self.set_path(name), &set)?;
        Ok(set)
    }

    /// A release's lists, fetched in this run if they are to be `fresh`.
    fn archive(&self, release: Release, fresh: bool) -> Result<Archive<'_>> {
        let fetch = fresh && !self.fresh.borrow().contains(release.codename);
        let archive = Archive::open(self.cache, release, self.mirror, fetch, self.progress)?;
        if fetch {
            self.fresh.borrow_mut().insert(release.codename);
        }
        Ok(archive)
    }

    fn choose(
        &self,
        name: &str,
        release: Release,
        choose: &dyn Fn(&Archive<'_>) -> Result<Choice>,
    ) -> Result<Set> {
        let archive = Archive::open(self.cache, release, self.mirror, true, self.progress)?;
        let choice = choose(&archive)?;
        let mut set = Set {
            name: name.into(),
            version: String::new(),
            detail: choice.detail,
            packages: archive.files(&choice.packages)?,
        };
        set.version = set.version_of(&choice.chief).unwrap_or_default().to_owned();
        Ok(set)
    }

    /// A set of this name that was kept under its version, or whose detail that is.
    ///
    /// # Errors
    /// It was kept, but what it consists of can no longer be had.
    pub fn kept(&self, name: &str, version: &str, release: Release) -> Result<Option<Set>> {
        let of_this_name = |set: &Set| set.name == name;
        let is_it = |set: &Set| set.version == version || set.detail == version;
        let sets = sets(self.cache)?;
        let mut all = sets.into_iter().map(|(_, set)| set).filter(of_this_name);
        let Some(set) = all.find(is_it) else {
            return Ok(None);
        };
        self.fetch(&set, release)?;
        Ok(Some(set))
    }

    /// Downloads what is not there, or is not what it must be.
    fn fetch(&self, set: &Set, release: Release) -> Result<()> {
        let dir = self.cache.path("packages");
        fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        let mut missing = Vec::new();
        for package in &set.packages {
            self.progress.check()?;
            let path = dir.join(&package.file);
            match package.sum.differs(&path) {
                None => continue,
                Some(damage) if path.exists() => {
                    self.progress
                        .tell(format_args!("fetching again, because {damage}"));
                    fs::remove_file(&path).map_err(LabError::file(&path))?;
                }
                Some(_) => {}
            }
            missing.push(package);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let bytes: u64 = missing.iter().map(|p| p.sum.bytes).sum();
        self.progress.tell(format_args!(
            "fetching {} of {} packages for {} {}, {:.1} MB",
            missing.len(),
            set.packages.len(),
            set.name,
            set.version,
            bytes as f64 / 1e6
        ));
        let download = |fresh| self.archive(release, fresh)?.download(&missing, &dir);
        // The lists may be older than the mirror.
        if let Err(error) = download(false) {
            match error {
                LabError::Failed { .. } => download(true)?,
                other => return Err(other),
            }
        }
        let wrong = missing
            .iter()
            .find_map(|p| p.sum.differs(&dir.join(&p.file)));
        match wrong {
            None => Ok(()),
            Some(damage) => Err(LabError::Failed {
                doing: format!("fetching packages of {release}"),
                cause: damage,
                cure: "name another mirror with --mirror URL".into(),
            }),
        }
    }

    /// Where a part of a set is unpacked, in the cache: as it was then, or anew.
    ///
    /// # Errors
    /// A full disk; dpkg-deb is missing.
    pub fn tree(&self, set: &Set, part: &Part) -> Result<PathBuf> {
        let dir = self.cache.path("unpacked").join(set.directory(part));
        if dir.exists() {
            match tree::damage(&dir) {
                None => return Ok(dir),
                Some(damage) => self
                    .progress
                    .tell(format_args!("unpacking again, because {damage}")),
            }
        }
        tree::complete(&dir, |to| self.unpack(set, part, to))?;
        Ok(dir)
    }

    /// Unpacks a part of a set into a directory.
    ///
    /// # Errors
    /// As [`Packages::tree`].
    pub fn unpack(&self, set: &Set, part: &Part, to: &Path) -> Result<()> {
        self.progress
            .tell(format_args!("unpacking {} {}", set.name, set.version));
        fs::create_dir_all(to).map_err(LabError::file(to))?;
        for package in &set.packages {
            self.progress.check()?;
            let deb = self.cache.path("packages").join(&package.file);
            extract(&deb, to, part.wanted)?;
        }
        Ok(())
    }
}

fn file_name(version: &str) -> String {
    version.replace(['/', ':'], "_")
}

/// Takes the wanted files out of a package.
fn extract(deb: &Path, to: &Path, wanted: fn(&Path) -> bool) -> Result<()> {
    let mut command = Command::new("dpkg-deb");
    command
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped());
    let mut dpkg = command
        .spawn()
        .map_err(|error| cannot_run("dpkg-deb", INSTALL_APT, error))?;
    let failed = |error: io::Error| LabError::Failed {
        doing: format!("unpacking {}", deb.display()),
        cause: error.to_string(),
        cure: "free some space, or remove the file".into(),
    };
    let unpacked = dpkg.stdout.take().map_or(Ok(()), |stdout| {
        let mut archive = tar::Archive::new(stdout);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if wanted(&entry.path()?) {
                entry.unpack_in(to)?;
            }
        }
        Ok(())
    });
    let status = dpkg.wait().map_err(failed)?;
    unpacked.map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(io::Error::other(format!("dpkg-deb: {status}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::archive::Package;
    use crate::fetch::set::WHOLE;
    use crate::fetch::tree::Sum;

    fn package(name: &str, content: &str) -> Package {
        Package {
            name: name.into(),
            version: "1:2".into(),
            file: format!("{name}_1%3a2_all.deb"),
            sum: Sum::of_bytes(content.as_bytes()),
        }
    }

    fn set(name: &str, version: &str, content: &str) -> Set {
        Set {
            name: name.into(),
            version: version.into(),
            detail: format!("{version}-amd64"),
            packages: vec![package("a", content)],
        }
    }

    #[test]
    fn other_packages_unpack_elsewhere() {
        let one = set("k", "1", "x").directory(&WHOLE);
        assert_ne!(one, set("k", "1", "y").directory(&WHOLE));
        assert_eq!(one, set("k", "1", "x").directory(&WHOLE));
        assert_eq!(set("k", "1", "x").version_of("a"), Some("1:2"));
    }

    #[test]
    fn a_kept_set_needs_no_network_and_a_damaged_package_does() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let progress = Progress::begin().unwrap();
        let packages = Packages {
            cache: &cache,
            // Nobody listens there.
            mirror: Some("http://127.0.0.1:1/debian"),
            update: false,
            progress: &progress,
            fresh: RefCell::default(),
        };
        let release = Release::with_kernel("6.1").unwrap();
        let never = |_: &Archive<'_>| -> Result<Choice> { panic!("nothing is to be chosen") };
        let one = set("k", "1", "content");
        write_set(&packages.set_path("k"), &one).unwrap();
        write_set(&packages.set_path("k@0"), &set("k", "0", "content")).unwrap();
        let deb = cache.path("packages").join("a_1%3a2_all.deb");
        fs::create_dir_all(deb.parent().unwrap()).unwrap();
        fs::write(&deb, "content").unwrap();
        assert_eq!(packages.set("k", release, &never).unwrap(), one);
        for version in ["0", "0-amd64"] {
            let kept = packages.kept("k", version, release).unwrap().unwrap();
            assert_eq!(kept.version, "0");
        }
        assert!(packages.kept("k", "2", release).unwrap().is_none());
        // Another hash: fetched again, which is not possible here.
        fs::write(&deb, "contenu").unwrap();
        if Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
            let error = packages.set("k", release, &never).unwrap_err();
            assert!(matches!(error, LabError::OutOfReach { .. }), "{error}");
        }
        assert!(!deb.exists(), "nobody takes it for good");
    }
}
