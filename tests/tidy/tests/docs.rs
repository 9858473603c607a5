//! README and the documents mention what there is.
#![allow(clippy::unwrap_used, reason = "a test may")]

use clap::ValueEnum;
use pv_harness::holder::HoldName;
use pv_stress::settings::RunSabotage;
use pv_tidy::words::{self, Command, Programs};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Options that documents mention and that belong to other programs.
const FOREIGN: &[&str] = &["no-default-features", "release", "workspace"];
/// Folders by which a path is known to be one of ours: from the top level, or beside a README.
const FOLDERS: &[&str] = &[
    "libgnt", "xenstore", "frontend", "backend", "tests", "docs", ".ci", "src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Markdown file of the project, with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    todo.push(path);
                }
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "{found:?}");
    found
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// A command line, with the values of its options where these can be listed.
fn as_declared(command: &clap::Command) -> Command {
    let mut options = BTreeMap::new();
    for arg in command.get_arguments() {
        let values = arg.get_possible_values();
        let mut values: BTreeSet<String> = values
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect();
        if arg.get_id() == "scenario" {
            values = scenarios().into_iter().collect();
        }
        for name in arg.get_long_and_visible_aliases().unwrap_or_default() {
            options.insert(name.to_owned(), values.clone());
        }
    }
    let subcommands = command.get_subcommands();
    Command {
        options,
        subcommands: subcommands
            .map(|inner| (inner.get_name().to_owned(), as_declared(inner)))
            .collect(),
    }
}

fn programs() -> Programs {
    let mut stress = as_declared(&pv_stress::cli::command());
    let front = as_declared(&pv_frontend::cli::command());
    let back = as_declared(&pv_backend::cli::command());
    // The ends' own command lines, for who has only the one executable.
    stress
        .subcommands
        .insert("pv-frontend".into(), front.clone());
    stress.subcommands.insert("pv-backend".into(), back.clone());
    BTreeMap::from([
        ("pv-stress".to_owned(), stress),
        ("pv-frontend".to_owned(), front),
        (
            "pv-rivals".to_owned(),
            as_declared(&pv_rivals::cli::command()),
        ),
        ("pv-backend".to_owned(), back),
        (
            "pv-xenstored".to_owned(),
            as_declared(&pv_xenstored::command()),
        ),
    ])
}

fn scenarios() -> Vec<String> {
    let all = pv_stress::scenario::all().iter();
    all.map(|scenario| scenario.name().to_owned()).collect()
}

/// What is wrong in each document, as `file: what`.
fn wrong(what: impl Fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let root = root();
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        wrong.extend(
            what(&path, &text)
                .iter()
                .map(|line| format!("{name}: {line}")),
        );
    }
    wrong
}

fn assert_nothing(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn commands_that_documents_mention_can_be_given() {
    let programs = programs();
    assert_nothing(&wrong(|_, text| words::wrong_calls(text, &programs)));
}

#[test]
fn options_that_documents_mention_exist() {
    let programs = programs();
    assert_nothing(&wrong(|_, text| {
        words::unknown_options(text, &programs, FOREIGN)
    }));
}

#[test]
fn files_and_links_that_documents_mention_exist() {
    // `libgnt/async` is a model.
    let systems = pv_models::systems::all();
    let variants = systems.iter().flat_map(|system| &system.variants);
    let variants: BTreeSet<String> = variants.map(|variant| variant.id()).collect();
    assert_nothing(&wrong(|document, text| {
        let beside = document.parent().unwrap();
        let paths = words::paths(text, FOLDERS).into_iter();
        let there = |path: &str| root().join(path).exists() || beside.join(path).exists();
        let paths = paths.filter(|(_, path)| !there(path));
        let paths = paths.filter(|(_, path)| !variants.contains(path));
        let links = words::links(text).into_iter();
        let links = links.filter(|(_, target)| !beside.join(target).exists());
        paths
            .chain(links)
            .map(|(line, path)| format!("line {line}: there is no {path}"))
            .collect()
    }));
}

#[test]
fn numbers_of_things_are_right() {
    let devices = pv_conform::rules::of_the_devices().count() as u64;
    let store = pv_conform::rules::of_the_store().count() as u64;
    let variants: usize = pv_models::systems::all()
        .iter()
        .map(|system| system.variants.len())
        .sum();
    let expected: [(&str, &[u64]); 3] = [
        ("rules", &[devices + store, devices, store]),
        ("scenarios", &[scenarios().len() as u64]),
        ("variants", &[variants as u64]),
    ];
    assert_nothing(&wrong(|_, text| {
        let mut wrong = Vec::new();
        for (noun, right) in expected {
            for (line, count) in words::counts(text, noun) {
                if !right.contains(&count) {
                    wrong.push(format!(
                        "line {line}: {count} {noun}, and there are {right:?}"
                    ));
                }
            }
        }
        wrong
    }));
}

#[test]
fn tables_of_names_have_every_name() {
    let stress = document("tests/stress/README.md");
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(
        sorted(words::first_column(&stress, "scenario")),
        sorted(scenarios())
    );
    let holders = HoldName::value_variants().iter().map(ToString::to_string);
    assert_eq!(
        sorted(words::first_column(&stress, "--hold")),
        sorted(holders.collect())
    );
    let sabotages = RunSabotage::value_variants()
        .iter()
        .map(ToString::to_string);
    assert_eq!(
        sorted(words::first_column(&stress, "--sabotage")),
        sorted(sabotages.collect())
    );
    let lab = document("docs/lab.md");
    let programs = programs();
    let lab_options = &programs["pv-stress"].subcommands["lab"].options;
    assert_eq!(
        words::first_column(&lab, "suite")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        lab_options["suite"]
    );
    assert_eq!(
        words::first_column(&lab, "case")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        lab_options["case"]
    );
}

/// How many crates a package and all that it needs are, with these features.
fn crates(package: &str, features: &[&str]) -> u64 {
    let tree = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            package,
            "--edges",
            "normal",
        ])
        .args(["--prefix", "none", "--no-dedupe", "--no-default-features"])
        .args(features)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let lines = String::from_utf8(tree.stdout).unwrap();
    lines.lines().collect::<BTreeSet<_>>().len() as u64
}

#[test]
fn readmes_say_how_many_crates_their_features_bring() {
    let all: &[&str] = &["--all-features"];
    let sim: &[&str] = &["--features", "sim"];
    let server: &[&str] = &["--features", "server"];
    for (folder, package, features) in [
        ("libgnt", "libgnt", vec![&[][..]]),
        ("xenstore", "pv-xenstore", vec![&[], server]),
        ("frontend", "pv-frontend", vec![&[], sim, all]),
        ("backend", "pv-backend", vec![&[], sim, all]),
    ] {
        let readme = document(&format!("{folder}/README.md"));
        let section = readme.split("\n## Features\n").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let said: BTreeSet<u64> = section
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        for features in features {
            let count = crates(package, features);
            assert!(
                said.contains(&count),
                "{package} {features:?}: {count} crates, and its README says {said:?}"
            );
        }
    }
    assert!(crates("libgnt", &[]) < 25);
}
