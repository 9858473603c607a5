//! Debian packages: resolved, downloaded and unpacked into a cache, without installing anything
//! and without root.
//!
//! apt works on directories of our own, so that other releases than the machine's can be read. The
//! mirror is the one that the machine is configured with, unless one is named.

use super::error::{LabError, Result};
use super::release::Release;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const INSTALL_APT: &str =
    "apt-get install apt dpkg debian-archive-keyring (the lab needs a Debian-like machine)";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One release's packages, as apt sees them.
pub struct Archive {
    /// Which.
    pub release: Release,
    root: PathBuf,
}

impl Archive {
    /// Opens (and on the first use, fetches) a release's package lists under `cache`.
    ///
    /// # Errors
    /// apt or its keyring is missing, no mirror is known, or it cannot be reached.
    pub fn open(
        cache: &Path,
        release: Release,
        mirror: Option<&str>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Archive> {
        let root = cache.join(release.codename);
        let archive = Archive { release, root };
        for dir in ["lists/partial", "archives/partial", "packages"] {
            let dir = archive.root.join(dir);
            fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        }
        if !Path::new(KEYRING).exists() {
            return Err(LabError::Missing {
                program: "Debian's archive keyring",
                install: "apt-get install debian-archive-keyring",
            });
        }
        let mirrors = match mirror {
            Some(mirror) => Mirrors {
                debian: mirror.to_owned(),
                security: None,
            },
            None => configured_mirrors()?,
        };
        let sources = archive.root.join("sources.list");
        let line = mirrors.sources(release.codename);
        let fresh = archive.lists_are_complete();
        if fs::read_to_string(&sources).ok().as_ref() != Some(&line) || !fresh.exists() {
            tell(&format!("fetching the package lists of {release}"));
            // What came from elsewhere may be another version.
            let _ = fs::remove_dir_all(archive.root.join("unpacked"));
            let _ = fs::remove_file(&fresh);
            fs::write(&sources, line).map_err(LabError::file(&sources))?;
            archive.apt("apt-get", &["update"], "fetching package lists")?;
            fs::write(&fresh, "").map_err(LabError::file(&fresh))?;
        }
        let unpacked = archive.root.join("unpacked");
        fs::create_dir_all(&unpacked).map_err(LabError::file(&unpacked))?;
        Ok(archive)
    }

    /// There when the package lists are.
    fn lists_are_complete(&self) -> PathBuf {
        self.root.join("lists.complete")
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
            // An unreachable mirror is a warning otherwise.
            "APT::Update::Error-Mode=any".into(),
        ];
        let mut command = Command::new(program);
        command
            .arg("-qq")
            .args(options.iter().flat_map(|o| ["-o", o]))
            .args(args);
        command
            .current_dir(self.root.join("packages"))
            .env("LC_ALL", "C");
        run(&mut command, program, INSTALL_APT, || {
            (
                format!("{doing} of {}", self.release),
                "check the network, the mirror (--mirror URL) and the disk's room".into(),
            )
        })
    }

    /// The newest package that a metapackage such as linux-image-amd64 stands for.
    ///
    /// # Errors
    /// If it depends on no package with this prefix.
    pub fn behind(&self, metapackage: &str, prefix: &str) -> Result<String> {
        let found = self
            .depends(metapackage)?
            .into_iter()
            .find(|name| name.starts_with(prefix));
        found.ok_or_else(|| LabError::Failed {
            doing: format!("looking up {metapackage} in {}", self.release),
            cause: format!("it depends on no {prefix}*"),
            cure: "name another version".into(),
        })
    }

    /// What a package depends on.
    ///
    /// # Errors
    /// If apt does not know it.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = self.apt("apt-cache", &["depends", package], "resolving packages")?;
        let depends = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(depends.map(str::to_owned).collect())
    }

    /// A place of this release in the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// These packages, and every library that they need.
    ///
    /// # Errors
    /// If apt does not know one of them.
    pub fn with_libraries(&self, packages: &[String]) -> Result<Vec<String>> {
        let mut args = vec!["depends", "--recurse", "--important"];
        args.extend(packages.iter().map(String::as_str));
        let text = self.apt("apt-cache", &args, "resolving packages")?;
        Ok(closure(&text, packages))
    }

    /// Downloads what is not there yet, and unpacks what `wanted` says of each package, once.
    /// Returns the directories, one a package, in the order of the names.
    ///
    /// # Errors
    /// No network, a full disk, dpkg-deb missing.
    pub fn unpack(
        &self,
        packages: &[String],
        wanted: &dyn Fn(&Path) -> bool,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Vec<PathBuf>> {
        let dir = |package: &String| self.root.join("unpacked").join(package);
        let missing: Vec<&str> = packages
            .iter()
            .filter(|p| !dir(p).exists())
            .map(String::as_str)
            .collect();
        self.download(&missing, tell)?;
        for package in missing {
            tell(&format!("unpacking {package}"));
            self.unpack_as(package, &[package], wanted)?;
        }
        Ok(packages.iter().map(dir).collect())
    }

    /// Unpacks whole packages into one tree, once, and says where that is.
    ///
    /// # Errors
    /// As [`Archive::unpack`].
    pub fn unpack_together(
        &self,
        packages: &[String],
        name: &str,
        tell: &mut dyn FnMut(&str),
    ) -> Result<PathBuf> {
        let tree = self.root.join("unpacked").join(name);
        if !tree.exists() {
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            self.download(&packages, tell)?;
            tell(&format!("unpacking {}", packages.join(", ")));
            self.unpack_as(name, &packages, &|_| true)?;
        }
        Ok(tree)
    }

    fn download(&self, packages: &[&str], tell: &mut dyn FnMut(&str)) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let many = packages.len();
        tell(&format!("fetching {many} packages of {}", self.release));
        let args = [&["download"], packages].concat();
        self.apt("apt-get", &args, "downloading packages")
            .map(drop)
            .inspect_err(|_| {
                // The mirror may have newer packages by now: the next run looks.
                let _ = fs::remove_file(self.lists_are_complete());
            })
    }

    fn unpack_as(
        &self,
        name: &str,
        packages: &[&str],
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<()> {
        // Unpacked beside and renamed, so that an interrupted run leaves no half package.
        let dir = self.root.join("unpacked").join(name);
        let partial = self.root.join("unpacked").join(format!(".{name}.partial"));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(LabError::file(&partial))?;
        for package in packages {
            let deb = self.downloaded(package)?;
            extract(&deb, &partial, wanted)?;
            fs::remove_file(&deb).map_err(LabError::file(&deb))?;
        }
        fs::rename(&partial, &dir).map_err(LabError::file(&dir))
    }

    fn downloaded(&self, package: &str) -> Result<PathBuf> {
        let downloads = self.root.join("packages");
        let prefix = format!("{package}_");
        let entries = fs::read_dir(&downloads).map_err(LabError::file(&downloads))?;
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(&prefix)
        };
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths.find(is_it).ok_or_else(|| LabError::Failed {
            doing: format!("downloading {package}"),
            cause: format!("apt-get left no file in {}", downloads.display()),
            cure: "remove that directory and run again".into(),
        })
    }
}

/// From `apt-cache depends --recurse`: the packages themselves, and the libraries that they reach
/// through libraries only.
fn closure(text: &str, packages: &[String]) -> Vec<String> {
    let is_library = |name: &str| name.starts_with("lib") || name == "zlib1g";
    let mut depends: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut of = "";
    for line in text.lines() {
        if !line.starts_with([' ', '|']) {
            of = line.trim();
        } else if let Some((_, name)) = line.split_once("Depends: ")
            && !name.starts_with('<')
        {
            depends.entry(of).or_default().push(name.trim());
        }
    }
    let mut all: BTreeSet<&str> = packages.iter().map(String::as_str).collect();
    let mut queue: Vec<&str> = all.iter().copied().collect();
    while let Some(package) = queue.pop() {
        for name in depends.get(package).into_iter().flatten() {
            if is_library(name) && all.insert(name) {
                queue.push(name);
            }
        }
    }
    all.into_iter().map(str::to_owned).collect()
}

/// Takes the wanted files out of a package.
fn extract(deb: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
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

/// Where packages come from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    debian: String,
    security: Option<String>,
}

impl Mirrors {
    /// The lines of a sources.list.
    fn sources(&self, codename: &str) -> String {
        let line =
            |uri: &str, suite: &str| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n");
        let mut lines = line(&self.debian, codename);
        if let Some(security) = &self.security {
            lines.push_str(&line(security, &format!("{codename}-security")));
        }
        lines
    }
}

/// The Debian mirrors of this machine's own configuration.
fn configured_mirrors() -> Result<Mirrors> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let text = run(&mut command, "apt-get", INSTALL_APT, || {
        (
            "reading apt's sources".into(),
            "name a mirror with --mirror URL".into(),
        )
    })?;
    mirrors(&text).ok_or_else(|| LabError::Failed {
        doing: "looking for a Debian mirror in apt's sources".into(),
        cause: "none is configured, or its lists were never fetched".into(),
        cure: "run apt-get update, or name a mirror with --mirror URL".into(),
    })
}

fn mirrors(indextargets: &str) -> Option<Mirrors> {
    let of = |origin| {
        indextargets
            .lines()
            .find_map(|line| line.strip_prefix(origin))
    };
    Some(Mirrors {
        debian: of("Debian Debian ")?.to_owned(),
        security: of("Debian Debian-Security ").map(str::to_owned),
    })
}

/// Runs a program to its end and returns its standard output.
pub(super) fn run(
    command: &mut Command,
    program: &'static str,
    install: &'static str,
    context: impl FnOnce() -> (String, String),
) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| cannot_run(program, install, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let (doing, cure) = context();
    let cause = cause(&String::from_utf8_lossy(&output.stderr));
    Err(LabError::Failed { doing, cause, cure })
}

/// What of a program's last words says why: compilers begin with it, and make and cargo end with
/// what followed from it.
fn cause(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).filter(|l| !l.is_empty());
    let compiler = |line: &&str| line.contains("error:") || line.contains("error[");
    if let Some(first) = lines.clone().find(compiler) {
        return first.to_owned();
    }
    let mut last: Vec<&str> = lines.by_ref().collect();
    last.drain(..last.len().saturating_sub(3));
    last.join("; ")
}

pub(super) fn cannot_run(
    program: &'static str,
    install: &'static str,
    error: io::Error,
) -> LabError {
    if error.kind() == io::ErrorKind::NotFound {
        LabError::Missing { program, install }
    } else {
        LabError::File {
            path: program.into(),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_compiler_is_the_cause_and_else_the_end() {
        let make = "cc: note: x\ngcc: error: unrecognized command-line option\nmake: *** Error 1\n";
        assert_eq!(cause(make), "gcc: error: unrecognized command-line option");
        assert_eq!(
            cause("a\nb\n\nE: c\nE: Some files failed.\n"),
            "b; E: c; E: Some files failed."
        );
    }

    #[test]
    fn mirrors_are_those_of_apt() {
        let text =
            "Other Thing http://a/\nDebian Debian-Security http://s/\nDebian Debian http://d/\n";
        let found = mirrors(text).unwrap();
        let sources = found.sources("trixie");
        assert!(sources.contains("] http://d/ trixie main\n"), "{sources}");
        assert!(
            sources.contains("] http://s/ trixie-security main\n"),
            "{sources}"
        );
        assert_eq!(mirrors("Ubuntu Ubuntu http://u/\n"), None);
    }

    #[test]
    fn libraries_follow_from_libraries_and_other_packages_do_not() {
        let text = "a\n  Depends: libx1\n  Depends: perl\n |Depends: libalt\n  Depends: <virtual>\n\
                    perl\n  Depends: libperl\nlibx1\n  Depends: libc6\nlibc6\n";
        assert_eq!(
            closure(text, &["a".into()]),
            ["a", "libalt", "libc6", "libx1"]
        );
    }
}
