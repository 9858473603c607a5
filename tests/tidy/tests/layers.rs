//! Imports go the declared way, between crates and in them.
#![allow(clippy::unwrap_used, reason = "a test may")]

use pv_tidy::circles::circles;
use pv_tidy::crates::{Crates, declared, offenders};
use pv_tidy::sources::Sources;
use pv_tidy::{layers, messages};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Folders in which one machine, or one model, is spread over the files of its parts: to be read
/// as a whole. Everywhere else no file uses a file that uses it.
const ONE_MACHINE: &[(&str, &str)] = &[(
    "libgnt:sim::core",
    "the hypervisor and the guests' kernels: one state, with an impl for each part of a kernel",
)];

/// Texts of libraries that may: a directory's name, and commands of the system.
const NAMES: &[&str] = &[
    "pv-backend",
    "create it (`truncate --size=1G FILE`), or correct the path",
    "{backing} has {bytes} bytes, which is no positive multiple of {SECTOR_SIZE}; extend it with `truncate --size=%{SECTOR_SIZE}`, or give another",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A crate of the workspace.
struct Package {
    name: String,
    sources: Sources,
    /// The workspace's crates that it uses.
    uses: BTreeSet<String>,
}

/// All of them, read once for all tests.
static WORKSPACE: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{metadata:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let uses = package["dependencies"].as_array().unwrap().iter();
            let uses = uses
                .filter(|d| !d["path"].is_null())
                .map(|d| text(&d["name"]));
            Package {
                name: text(&package["name"]),
                sources: Sources::read(&manifest.with_file_name("src/lib.rs")).unwrap(),
                uses: uses.collect(),
            }
        })
        .collect()
});

#[test]
fn crates_use_only_what_the_architecture_lets_them() {
    let document = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let used: Crates = WORKSPACE
        .iter()
        .map(|package| (package.name.clone(), package.uses.clone()))
        .collect();
    let wrong = offenders(&declared(&document), &used);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_use_only_the_layers_above_them() {
    let mut wrong = Vec::new();
    for Package { name, sources, .. } in &*WORKSPACE {
        let found = layers::offenders(sources);
        wrong.extend(found.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for Package { name, sources, .. } in &*WORKSPACE {
        let mine = ONE_MACHINE
            .iter()
            .filter(|(place, _)| place.starts_with(&format!("{name}:")));
        let mine: Vec<&str> = mine.map(|(place, _)| &place[name.len() + 1..]).collect();
        for circle in circles(sources, &mine) {
            wrong.push(format!("{name}: {}", circle.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn libraries_name_no_program_and_no_option() {
    let libraries = ["libgnt", "pv-xenstore", "pv-frontend", "pv-backend"];
    let mut wrong = Vec::new();
    for Package { name, sources, .. } in &*WORKSPACE {
        if libraries.contains(&name.as_str()) {
            wrong.extend(messages::offenders(sources, &["cli"], NAMES));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
