//! One Debian release as apt sees it, without installing anything and without root: apt works on
//! directories of our own, so that other releases than the machine's can be read. The mirror is the
//! one that the machine is configured with, unless one is named.

use super::cache::Cache;
use super::tree::Sum;
use crate::ask::release::Release;
use crate::error::{LabError, Result};
use crate::process::{self, cause, hear, mortal};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The command that installs what the lab needs of the machine.
pub const INSTALL_APT: &str =
    "apt-get install apt dpkg debian-archive-keyring (the lab needs a Debian-like machine)";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One package, as an archive has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with the epoch.
    pub version: String,
    /// The file's name.
    pub file: String,
    /// What the file must be.
    pub sum: Sum,
}

/// One release's packages.
pub struct Archive<'a> {
    /// Which.
    pub release: Release,
    root: PathBuf,
    progress: &'a Progress,
}

impl<'a> Archive<'a> {
    /// Opens a release's package lists, and fetches them if they are not there or to be `fresh`.
    ///
    /// # Errors
    /// apt or its keyring is missing, no mirror is known, or it cannot be reached.
    pub fn open(
        cache: &Cache,
        release: Release,
        mirror: Option<&str>,
        fresh: bool,
        progress: &'a Progress,
    ) -> Result<Archive<'a>> {
        let archive = Archive {
            release,
            root: cache.path("apt").join(release.codename),
            progress,
        };
        for dir in ["lists/partial", "archives/partial", "empty"] {
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
            None => configured_mirrors(progress)?,
        };
        let sources = archive.root.join("sources.list");
        let lines = mirrors.sources(&release);
        let complete = archive.root.join("lists.complete");
        let same = fs::read_to_string(&sources).ok().as_ref() == Some(&lines);
        if fresh || !same || !complete.exists() {
            progress.tell(format_args!("fetching the package lists of {release}"));
            let _ = fs::remove_file(&complete);
            fs::write(&sources, lines).map_err(LabError::file(&sources))?;
            let empty = archive.root.join("empty");
            archive.apt("apt-get", &["update"], "fetching the package lists", &empty)?;
            fs::write(&complete, "").map_err(LabError::file(&complete))?;
        }
        Ok(archive)
    }

    fn apt(&self, program: &'static str, args: &[&str], doing: &str, dir: &Path) -> Result<String> {
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
        let mut command = mortal(program);
        command
            .arg("-qq")
            .args(options.iter().flat_map(|o| ["-o", o]))
            .args(args)
            .current_dir(dir)
            .env("LC_ALL", "C");
        self.progress.check()?;
        let said = hear(&mut command, program, INSTALL_APT, &mut |_| {})?;
        if said.status.success() {
            return Ok(said.out);
        }
        let doing = format!("{doing} of {}", self.release);
        let cause = cause(&said.err);
        Err(if is_out_of_reach(&said.err) {
            LabError::OutOfReach { doing, cause }
        } else {
            LabError::Failed {
                doing,
                cause,
                cure: "check the mirror (--mirror URL) and the disk's room".into(),
            }
        })
    }

    fn ask(&self, program: &'static str, args: &[&str]) -> Result<String> {
        let empty = self.root.join("empty");
        self.apt(program, args, "resolving packages", &empty)
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
        let text = self.ask("apt-cache", &["depends", package])?;
        let depends = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(depends.map(str::to_owned).collect())
    }

    /// These packages, and every library that they need.
    ///
    /// # Errors
    /// If apt does not know one of them.
    pub fn with_libraries(&self, packages: &[String]) -> Result<Vec<String>> {
        let mut args = vec!["depends", "--recurse", "--important"];
        args.extend(packages.iter().map(String::as_str));
        let text = self.ask("apt-cache", &args)?;
        Ok(closure(&text, packages))
    }

    /// Which files these packages are.
    ///
    /// # Errors
    /// If apt does not know one of them.
    pub fn files(&self, packages: &[String]) -> Result<Vec<Package>> {
        let mut args = vec!["download", "--print-uris"];
        args.extend(packages.iter().map(String::as_str));
        let text = self.ask("apt-get", &args)?;
        let files: Vec<Package> = text.lines().filter_map(file).collect();
        match packages
            .iter()
            .find(|name| !files.iter().any(|f| f.name == **name))
        {
            None => Ok(files),
            Some(name) => Err(LabError::Failed {
                doing: format!("looking up {name} in {}", self.release),
                cause: "apt says no size and SHA-256 of it".into(),
                cure: "name another mirror with --mirror URL".into(),
            }),
        }
    }

    /// Downloads these very versions into a directory.
    ///
    /// # Errors
    /// No network; the mirror no longer has them; a full disk; a file that is not what the lists
    /// say.
    pub fn download(&self, packages: &[&Package], into: &Path) -> Result<()> {
        let names: Vec<String> = packages
            .iter()
            .map(|p| format!("{}={}", p.name, p.version))
            .collect();
        let mut args = vec!["download"];
        args.extend(names.iter().map(String::as_str));
        let what: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
        let doing = format!("fetching {}", what.join(", "));
        self.apt("apt-get", &args, &doing, into).map(drop)
    }
}

/// Does apt complain of the network or the mirror's server, and of nothing else?
fn is_out_of_reach(stderr: &str) -> bool {
    const NETWORK: [&str; 11] = [
        "Could not connect",
        "Could not resolve",
        "Temporary failure resolving",
        "Connection failed",
        "Connection refused",
        "Connection timed out",
        "Connection reset",
        "Unable to connect",
        "Network is unreachable",
        "Cannot initiate the connection",
        "503  Service Unavailable",
    ];
    let ours = ["No space left", "Hash Sum mismatch", "NO_PUBKEY"];
    NETWORK.iter().any(|said| stderr.contains(said))
        && !ours.iter().any(|said| stderr.contains(said))
}

/// A line of `apt-get download --print-uris`: the address, the file, its size, its hash.
fn file(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace().skip(1);
    let (file, bytes, hash) = (words.next()?, words.next()?, words.next()?);
    let (name, rest) = file.split_once('_')?;
    let (version, _) = rest.split_once('_')?;
    Some(Package {
        name: name.into(),
        version: version.replace("%3a", ":"),
        file: file.into(),
        sum: Sum {
            bytes: bytes.parse().ok()?,
            sha256: hash.strip_prefix("SHA256:")?.into(),
        },
    })
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

/// Where packages come from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    debian: String,
    security: Option<String>,
}

impl Mirrors {
    /// The lines of a sources.list.
    fn sources(&self, release: &Release) -> String {
        let codename = release.codename;
        let line =
            |uri: &str, suite: &str| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n");
        let mut lines = line(&self.debian, codename);
        if let (Some(security), true) = (&self.security, release.has_security) {
            lines.push_str(&line(security, &format!("{codename}-security")));
        }
        lines
    }
}

/// The Debian mirrors of this machine's own configuration.
fn configured_mirrors(progress: &Progress) -> Result<Mirrors> {
    let mut command = mortal("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let text = process::run(progress, &mut command, "apt-get", INSTALL_APT, || {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_those_of_apt() {
        let text =
            "Other Thing http://a/\nDebian Debian-Security http://s/\nDebian Debian http://d/\n";
        let found = mirrors(text).unwrap();
        let sources = found.sources(&Release::with_kernel("6.12").unwrap());
        assert!(sources.contains("] http://d/ trixie main\n"), "{sources}");
        assert!(
            sources.contains("] http://s/ trixie-security main\n"),
            "{sources}"
        );
        let sid = found.sources(&Release::with_kernel("sid").unwrap());
        assert!(!sid.contains("security"), "{sid}");
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

    #[test]
    fn a_file_is_told_from_its_address() {
        let line = "'http://d/q%2b_x.deb' q_1%3a7.2+dfsg-7_amd64.deb 105036 SHA256:e00c";
        let found = file(line).unwrap();
        assert_eq!(
            (found.name.as_str(), found.version.as_str()),
            ("q", "1:7.2+dfsg-7")
        );
        assert_eq!(found.file, "q_1%3a7.2+dfsg-7_amd64.deb");
        assert_eq!(
            (found.sum.bytes, found.sum.sha256.as_str()),
            (105_036, "e00c")
        );
        assert_eq!(file("'http://d/x' x_1_all.deb 7 MD5Sum:1"), None);
    }

    #[test]
    fn only_the_network_is_an_excuse() {
        let refused = "E: Failed to fetch http://d/x  Could not connect to d:80 (127.0.0.1). - \
                       connect (111: Connection refused)";
        assert!(is_out_of_reach(refused));
        assert!(!is_out_of_reach("E: Unable to locate package x"));
        assert!(!is_out_of_reach(
            "E: Write error - write (28: No space left on device)"
        ));
        assert!(!is_out_of_reach(
            "Could not connect to d\nE: Hash Sum mismatch"
        ));
    }
}
