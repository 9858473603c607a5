//! The tools that make and check an ext4 file system, for domains that have no libraries: out of
//! Debian's e2fsprogs, with the loader and the libraries that they need.

use crate::ask::release::Release;
use crate::error::Result;
use crate::fetch::archive::Archive;
use crate::fetch::packages::{Choice, Packages};
use crate::fetch::set::Part;
use crate::fetch::tree::find;
use std::path::{Path, PathBuf};

/// Where they are below `/lab`.
const DIR: &str = "ext4";
const LOADER: &str = "ld-linux-x86-64.so.2";
/// What `ldd` names for the two programs.
const FILES: [&str; 9] = [
    "mke2fs",
    "e2fsck",
    LOADER,
    "libc.so.6",
    "libext2fs.so.2",
    "libe2p.so.2",
    "libcom_err.so.2",
    "libblkid.so.1",
    "libuuid.so.1",
];

const PART: Part = Part {
    label: "ext4",
    wanted: |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let program = ["mke2fs", "e2fsck"].contains(&&*name);
        // A library's link and what it points to.
        let is_of = |file: &&str| file.contains(".so.") && name.starts_with(*file);
        let elsewhere = path.components().any(|part| part.as_os_str() == "share");
        !elsewhere && (program || FILES.iter().any(is_of))
    },
};

/// All of their files, each with its name below `/lab`.
///
/// # Errors
/// No network, a full disk, or a release whose tools need other libraries.
pub fn files(packages: &Packages<'_>, release: Release) -> Result<Vec<(PathBuf, String)>> {
    let set = packages.set(&format!("ext4-{}", release.codename), release, &choose)?;
    let tree = packages.tree(&set, &PART)?;
    let file = |name: &&str| {
        let path = find(&tree, name, &|path: &Path| path.ends_with(name))?;
        Ok((path, format!("{DIR}/{name}")))
    };
    FILES.iter().map(file).collect()
}

/// The command that runs one of them in a domain.
pub fn command(program: &str) -> String {
    format!("/lab/{DIR}/{LOADER} --library-path /lab/{DIR} /lab/{DIR}/{program}")
}

fn choose(archive: &Archive<'_>) -> Result<Choice> {
    const TOOLS: &str = "e2fsprogs";
    Ok(Choice {
        packages: archive.with_libraries(&[TOOLS.into()])?,
        chief: TOOLS.into(),
        detail: TOOLS.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_their_libraries_are_wanted_and_nothing_else() {
        let wanted = |path: &str| (PART.wanted)(Path::new(path));
        assert!(wanted("./sbin/mke2fs") && wanted("./usr/sbin/e2fsck"));
        assert!(wanted("./lib/x86_64-linux-gnu/libcom_err.so.2.1"));
        assert!(wanted("./lib/x86_64-linux-gnu/libc.so.6"));
        assert!(!wanted("./lib/x86_64-linux-gnu/libcrypt.so.1"));
        assert!(!wanted("./usr/share/doc/e2fsck") && !wanted("./etc/mke2fs.conf"));
    }
}
