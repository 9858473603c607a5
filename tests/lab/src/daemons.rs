//! Debian's xenstore daemons out of its packages, for whoever runs them without a Xen.

use crate::ask::release::{BOOKWORM, RELEASES, Release};
use crate::build::parts::{choose_xen, is_library};
use crate::error::Result;
use crate::fetch::cache::{self, Cache};
use crate::fetch::packages::Packages;
use crate::fetch::set::{Part, read_set};
use crate::fetch::tree;
use crate::progress::Progress;
use std::path::{Path, PathBuf};

/// The daemons, what oxenstored loads at run time, Xen's own test and the tools.
const DAEMONS: Part = Part {
    label: "daemons",
    wanted: |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let program = name.contains("xenstore") && !path.iter().any(|part| part == "share");
        program || name.ends_with(".cmxs") || is_library(path)
    },
};

/// The versions of Xen whose daemons can be had, the default first.
pub fn versions() -> Vec<&'static str> {
    let moving = |release: &Release| release.xen == release.codename;
    let fixed = RELEASES.iter().filter(|release| !moving(release));
    fixed.map(|release| release.xen).collect()
}

/// The version that is meant if none is named.
pub const DEFAULT_VERSION: &str = BOOKWORM.xen;

fn set_of(release: Release) -> String {
    format!("xen-{}", release.codename)
}

/// Fetches and unpacks what is not in the cache yet (`None`: the user's), and says where.
///
/// # Errors
/// An unknown version, no network, a full disk.
pub fn fetch(version: &str, cache: Option<&Path>, mirror: Option<&str>) -> Result<PathBuf> {
    let release = Release::with_xen(version)?;
    let progress = Progress::begin()?;
    let cache = Cache::open(&cache::root(cache)?)?;
    let _filling = cache.fill(&progress)?;
    let packages = Packages::new(&cache, mirror, false, &progress);
    let set = packages.set(&set_of(release), release, &choose_xen)?;
    packages.tree(&set, &DAEMONS)
}

/// Where they are unpacked already, whole; `None` if they are not.
pub fn kept(version: &str, cache: Option<&Path>) -> Option<PathBuf> {
    let release = Release::with_xen(version).ok()?;
    let root = cache::root(cache).ok()?;
    let set = read_set(&root.join("sets").join(set_of(release) + ".json"))?;
    let tree = root.join("unpacked").join(set.directory(&DAEMONS));
    tree::damage(&tree).is_none().then_some(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_and_what_they_load_are_taken() {
        let wanted = |path: &str| (DAEMONS.wanted)(Path::new(path));
        assert!(wanted("./usr/lib/xen-4.17/bin/oxenstored"));
        assert!(wanted("./usr/lib/xen-4.17/bin/test-xenstore"));
        assert!(wanted("./usr/bin/xenstore-ls"));
        assert!(wanted("./usr/lib/x86_64-linux-gnu/libxenctrl.so.4.17"));
        let plugin = "./usr/lib/xen-4.20/ocaml/xsd_glue/xenctrl_plugin/domain_getinfo_v1.cmxs";
        assert!(wanted(plugin));
        assert!(!wanted("./usr/lib/xen-4.17/bin/xl"));
        assert!(!wanted("./usr/share/man/man1/xenstore-ls.1.gz"));
    }

    #[test]
    fn an_empty_cache_has_none_and_a_damaged_one_neither() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(kept(DEFAULT_VERSION, Some(cache.path())), None);
        assert_eq!(kept("4.1", Some(cache.path())), None);
        assert!(versions().contains(&DEFAULT_VERSION));
    }
}
