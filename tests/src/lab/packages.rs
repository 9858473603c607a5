//! Debian packages: resolved, downloaded and unpacked into a cache, without installing anything
//! and without root.
//!
//! apt works on directories of our own, so that other releases than the machine's can be read. The
//! mirror is the one that the machine is configured with, unless one is named.

use super::error::{LabError, Result};
use super::release::Release;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALL_APT: &str =
    "apt-get install apt dpkg debian-archive-keyring (the lab needs a Debian-like machine)";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One release's packages, as apt sees them.
pub struct Archive {
    release: Release,
    root: PathBuf,
}

impl Archive {
    /// Opens (and on the first use, fetches) a release's package lists under `cache`.
    ///
    /// # Errors
    /// apt or its keyring is missing, no mirror is known, or it cannot be reached.
    pub fn open(cache: &Path, release: Release, mirror: Option<&str>) -> Result<Archive> {
        let root = cache.join(release.codename);
        let archive = Archive { release, root };
        for dir in ["lists/partial", "archives/partial", "packages", "unpacked"] {
            let dir = archive.root.join(dir);
            fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        }
        if !Path::new(KEYRING).exists() {
            return Err(LabError::Missing {
                program: "Debian's archive keyring",
                install: "apt-get install debian-archive-keyring",
            });
        }
        let mirror = match mirror {
            Some(mirror) => mirror.to_owned(),
            None => configured_mirror()?,
        };
        let sources = archive.root.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {mirror} {} main\n", release.codename);
        let fresh = archive.root.join("lists.complete");
        if fs::read_to_string(&sources).ok().as_ref() != Some(&line) || !fresh.exists() {
            fs::write(&sources, line).map_err(LabError::file(&sources))?;
            archive.apt("apt-get", &["update"], "fetching package lists")?;
            fs::write(&fresh, "").map_err(LabError::file(&fresh))?;
        }
        Ok(archive)
    }

    fn apt(&self, program: &'static str, args: &[&str], doing: &str) -> Result<String> {
        let root = self.root.display();
        let options = [
            format!("Dir::Etc::SourceList={root}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={root}/lists"),
            format!("Dir::Cache={root}"),
            "Dir::State::Status=/dev/null".into(),
            "APT::Architecture=amd64".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Retries=3".into(),
        ];
        let mut command = Command::new(program);
        command.arg("-qq").args(options.iter().flat_map(|o| ["-o", o])).args(args);
        command.current_dir(self.root.join("packages")).env("LC_ALL", "C");
        run(&mut command, program, INSTALL_APT, || {
            (
                format!("{doing} of {}", self.release),
                "check the network and the mirror (--mirror URL)".into(),
            )
        })
    }

    /// The package that a metapackage such as linux-image-amd64 stands for.
    ///
    /// # Errors
    /// If it depends on no package with this prefix.
    pub fn behind(&self, metapackage: &str, prefix: &str) -> Result<String> {
        self.depends(metapackage)?.into_iter().find(|name| name.starts_with(prefix)).ok_or_else(
            || LabError::Failed {
                doing: format!("looking up {metapackage} in {}", self.release),
                cause: format!("it depends on no {prefix}*"),
                cure: "name another version".into(),
            },
        )
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = self.apt("apt-cache", &["depends", package], "resolving packages")?;
        let depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(depends.filter(|name| !name.starts_with('<')).map(str::to_owned).collect())
    }

    /// These packages, and every library that they need.
    ///
    /// # Errors
    /// If apt does not know one of them.
    pub fn with_libraries(&self, packages: &[String]) -> Result<Vec<String>> {
        let is_library = |name: &str| name.starts_with("lib") || name == "zlib1g";
        let mut all: BTreeSet<String> = packages.iter().cloned().collect();
        let mut queue: VecDeque<String> = packages.iter().cloned().collect();
        while let Some(package) = queue.pop_front() {
            for name in self.depends(&package)? {
                if is_library(&name) && all.insert(name.clone()) {
                    queue.push_back(name);
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Downloads what is not there yet, and unpacks each package once. Returns the directories,
    /// one a package, in the order of the names.
    ///
    /// # Errors
    /// No network, a full disk, dpkg-deb missing.
    pub fn unpack(&self, packages: &[String], tell: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
        let mut dirs = Vec::new();
        for package in packages {
            let dir = self.root.join("unpacked").join(package);
            if !dir.exists() {
                tell(&format!("fetching {package} from {}", self.release));
                self.apt("apt-get", &["download", package], "downloading packages")?;
                self.unpack_one(package, &dir)?;
            }
            dirs.push(dir);
        }
        Ok(dirs)
    }

    fn unpack_one(&self, package: &str, dir: &Path) -> Result<()> {
        let downloads = self.root.join("packages");
        let prefix = format!("{package}_");
        let entries = fs::read_dir(&downloads).map_err(LabError::file(&downloads))?;
        let deb = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
            .ok_or_else(|| LabError::Failed {
                doing: format!("downloading {package}"),
                cause: format!("apt-get left no file in {}", downloads.display()),
                cure: "remove that directory and run again".into(),
            })?;
        // Unpacked beside and renamed, so that an interrupted run leaves no half package.
        let partial = dir.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&deb).arg(&partial);
        run(&mut command, "dpkg-deb", "apt-get install dpkg", || {
            (format!("unpacking {}", deb.display()), "free some space, or remove the file".into())
        })?;
        fs::rename(&partial, dir).map_err(LabError::file(dir))?;
        fs::remove_file(&deb).map_err(LabError::file(&deb))
    }
}

/// The Debian mirror of this machine's own configuration.
fn configured_mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    let text = run(&mut command, "apt-get", INSTALL_APT, || {
        ("reading apt's sources".into(), "name a mirror with --mirror URL".into())
    })?;
    text.lines()
        .find_map(|line| line.strip_prefix("Debian Debian "))
        .map(str::to_owned)
        .ok_or_else(|| LabError::Failed {
            doing: "looking for a Debian mirror in apt's sources".into(),
            cause: "none is configured, or its lists were never fetched".into(),
            cure: "run apt-get update, or name a mirror with --mirror URL".into(),
        })
}

/// Runs a program to its end and returns its standard output.
pub(super) fn run(
    command: &mut Command,
    program: &'static str,
    install: &'static str,
    context: impl FnOnce() -> (String, String),
) -> Result<String> {
    let output = command.output().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            LabError::Missing { program, install }
        } else {
            LabError::File { path: program.into(), error }
        }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let (doing, cure) = context();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    let cause = lines[lines.len().saturating_sub(3)..].join("; ");
    Err(LabError::Failed { doing, cause, cure })
}
