//! `pv-stress lab prune`: what is in the cache, and what of it the next lab does not need.

use crate::ask::options::PruneArgs;
use crate::build::program;
use crate::error::{LabError, Result};
use crate::fetch::cache::{self, Cache};
use crate::fetch::set::{self, Set};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Directories of the cache whose entries are looked at one by one.
const SHELVES: [&str; 5] = ["sets", "packages", "unpacked", "modules", "programs"];

/// One thing that goes.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    path: PathBuf,
    bytes: u64,
}

/// Prunes.
///
/// # Errors
/// A lab uses the cache; it cannot be read or written.
pub fn run(args: &PruneArgs) -> Result<()> {
    let root = cache::root(args.cache.as_deref())?;
    let Some(cache) = Cache::open_alone(&root)? else {
        return print(&[], &root, args).map_err(LabError::file(Path::new("standard output")));
    };
    let items = if args.all {
        everything(&cache)?
    } else {
        unneeded(&cache)?
    };
    if !args.dry_run {
        for item in &items {
            remove(&item.path).map_err(LabError::file(&item.path))?;
        }
    }
    print(&items, cache.root(), args).map_err(LabError::file(Path::new("standard output")))
}

fn everything(cache: &Cache) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for path in entries(cache.root())? {
        // The lock that we hold stays: another lab may be waiting for it.
        if path.file_name() != Some("in-use".as_ref()) {
            items.push(item(path)?);
        }
    }
    Ok(items)
}

/// Sets that were replaced, packages and directories that no newest set names, programs of other
/// sources, builds, and what interrupted runs left.
fn unneeded(cache: &Cache) -> Result<Vec<Item>> {
    let sets = set::sets(cache)?;
    let newest: Vec<&Set> = sets
        .iter()
        .filter(|(path, set)| path.file_stem() == Some(set.name.as_ref()))
        .map(|(_, set)| set)
        .collect();
    let mut needed: BTreeSet<OsString> = BTreeSet::new();
    for set in &newest {
        needed.insert(format!("{}.json", set.name).into());
        needed.extend(set.packages.iter().map(|p| OsString::from(&p.file)));
    }
    // A directory is needed if a newest set could unpack to it.
    let unpacked = |name: &str| newest.iter().any(|set| set.unpacks_to(name));
    let module = |name: &str| {
        newest
            .iter()
            .any(|set| name.contains(&format!("-{}-", set.detail)))
    };
    let state = program::source_state(Path::new(program::SOURCES)).unwrap_or_default();
    let mut items = Vec::new();
    for shelf in SHELVES {
        let dir = cache.path(shelf);
        for path in entries(&dir)? {
            let name = path.file_name().unwrap_or_default();
            let text = name.to_string_lossy();
            let keep = match shelf {
                "sets" | "packages" => needed.contains(name),
                "unpacked" => unpacked(&text),
                "modules" => module(&text),
                _ => text == state,
            };
            if !keep {
                items.push(item(path)?);
            }
        }
    }
    for path in entries(cache.root())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "build" || name.starts_with("run-") {
            items.push(item(path)?);
        }
    }
    Ok(items)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(LabError::file(dir)(error)),
    }
}

fn item(path: PathBuf) -> Result<Item> {
    let mut bytes = 0;
    let mut todo = vec![path.clone()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).map_err(LabError::file(&path))?;
        bytes += meta.len();
        if meta.is_dir() {
            todo.extend(entries(&path)?);
        }
    }
    Ok(Item { path, bytes })
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn print(items: &[Item], root: &Path, args: &PruneArgs) -> io::Result<()> {
    let mut out = anstream::stdout();
    let sum: u64 = items.iter().map(|item| item.bytes).sum();
    if args.json {
        let list: Vec<_> = items
            .iter()
            .map(|item| serde_json::json!({ "path": item.path, "bytes": item.bytes }))
            .collect();
        let json = serde_json::json!({
            "cache": root, "removed": !args.dry_run, "bytes": sum, "items": list,
        });
        return writeln!(out, "{json}");
    }
    for item in items {
        let name = item.path.strip_prefix(root).unwrap_or(&item.path);
        writeln!(
            out,
            "{:>9.1} MB  {}",
            item.bytes as f64 / 1e6,
            name.display()
        )?;
    }
    let done = if args.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    writeln!(
        out,
        "{:>9.1} MB  {done} from {}",
        sum as f64 / 1e6,
        root.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::archive::Package;
    use crate::fetch::set::WHOLE;
    use crate::fetch::tree::Sum;

    #[test]
    fn what_the_newest_sets_need_stays_and_everything_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_alone(dir.path()).unwrap().unwrap();
        let put = |path: PathBuf, content: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let set = |version: &str| Set {
            name: "kernel-x".into(),
            version: version.into(),
            detail: format!("{version}-amd64"),
            packages: vec![Package {
                name: "a".into(),
                version: version.into(),
                file: format!("a_{version}.deb"),
                sum: Sum::of_bytes(version.as_bytes()),
            }],
        };
        let (old, new) = (set("1"), set("2"));
        for (set, file) in [(&old, "kernel-x@1.json"), (&new, "kernel-x.json")] {
            let text = serde_json::to_string(set).unwrap();
            put(cache.path("sets").join(file), &text);
            put(cache.path("packages").join(&set.packages[0].file), "deb");
            put(
                cache.path("unpacked").join(set.directory(&WHOLE)).join("f"),
                "x",
            );
            let module = format!("gntdev-sync-{}-{}-c", set.detail, set.version);
            put(cache.path("modules").join(module).join("m.ko"), "m");
        }
        put(cache.path("programs/otherstate/pv-stress"), "p");
        put(cache.path("build/x/y"), "b");
        put(cache.path("run-1/dom0.cpio"), "r");
        let gone: Vec<String> = unneeded(&cache)
            .unwrap()
            .into_iter()
            .map(|item| {
                item.path
                    .strip_prefix(dir.path())
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(
            gone,
            [
                "sets/kernel-x@1.json".to_owned(),
                "packages/a_1.deb".into(),
                format!("unpacked/{}", old.directory(&WHOLE)),
                "modules/gntdev-sync-1-amd64-1-c".into(),
                "programs/otherstate".into(),
                "build".into(),
                "run-1".into(),
            ]
        );
        assert_eq!(everything(&cache).unwrap().len(), 7);
    }
}
