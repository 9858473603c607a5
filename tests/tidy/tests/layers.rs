//! Imports go the declared way, between crates and in them.
#![allow(clippy::unwrap_used, reason = "a test may")]

use pv_tidy::circles::circles;
use pv_tidy::crates::{Crates, declared, offenders};
use pv_tidy::layers;
use pv_tidy::sources::Sources;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders in which one machine, or one model, is spread over the files of its parts: to be read
/// as a whole. Everywhere else no file uses a file that uses it.
const ONE_MACHINE: &[(&str, &str)] = &[(
    "libgnt:sim::core",
    "the simulated Xen: one machine, with an impl for each part of the kernel",
)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Each crate of the workspace: its name, its folder, and the workspace's crates that it uses.
fn workspace() -> Vec<(String, PathBuf, Vec<String>)> {
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
            let folder = manifest.parent().unwrap().to_owned();
            (text(&package["name"]), folder, uses.collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_architecture_lets_them() {
    let document = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let used: Crates = workspace()
        .into_iter()
        .map(|(name, _, uses)| (name, uses.into_iter().collect()))
        .collect();
    let wrong = offenders(&declared(&document), &used);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_use_only_the_layers_above_them() {
    let mut wrong = Vec::new();
    for (name, folder, _) in workspace() {
        let sources = Sources::read(&folder.join("src/lib.rs")).unwrap();
        let found = layers::offenders(&sources);
        wrong.extend(found.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for (name, folder, _) in workspace() {
        let sources = Sources::read(&folder.join("src/lib.rs")).unwrap();
        let mine = ONE_MACHINE
            .iter()
            .filter(|(place, _)| place.starts_with(&format!("{name}:")));
        let mine: Vec<&str> = mine.map(|(place, _)| &place[name.len() + 1..]).collect();
        for circle in circles(&sources, &mine) {
            wrong.push(format!("{name}: {}", circle.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
