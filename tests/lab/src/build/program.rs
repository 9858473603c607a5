//! The statically linked pv-stress that runs in the images, where there are no libraries.

use crate::error::{LabError, Result};
use crate::fetch::cache::Cache;
use crate::fetch::tree;
use crate::process::{cause, hear, mortal};
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where the sources were when this was built.
pub const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const PROGRAM: &str = "pv-stress";
/// The top level's folders of crates.
const FOLDERS: [&str; 5] = ["libgnt", "xenstore", "frontend", "backend", "tests"];
/// How often a build says what it does.
const SAY: Duration = Duration::from_secs(5);

/// The program for the images: the one that was named, or the one that runs if it is static, or
/// one that is built now, or was for these very sources.
///
/// # Errors
/// It needs libraries, or cannot be built.
pub fn program(named: Option<&Path>, cache: &Cache, progress: &Progress) -> Result<Vec<u8>> {
    if let Some(path) = named {
        let bytes = fs::read(path).map_err(LabError::file(path))?;
        return if is_static(&bytes) {
            Ok(bytes)
        } else {
            Err(LabError::Failed {
                doing: format!("using {} in the images", path.display()),
                cause: "it is no statically linked x86_64 program, and there are no libraries"
                    .into(),
                cure: format!(
                    "build it with RUSTFLAGS='-C target-feature=+crt-static' --target {TARGET}"
                ),
            })
        };
    }
    let own = std::env::current_exe().map_err(LabError::file(Path::new(PROGRAM)))?;
    let bytes = fs::read(&own).map_err(LabError::file(&own))?;
    if is_static(&bytes) {
        return Ok(bytes);
    }
    let built = built(cache, progress)?;
    fs::read(&built).map_err(LabError::file(&built))
}

/// The directory of a source state's program, in the cache.
pub fn directory(cache: &Cache, state: &str) -> PathBuf {
    cache.path("programs").join(state)
}

fn built(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let sources = Path::new(SOURCES);
    let state = source_state(sources)?;
    let dir = directory(cache, &state);
    if dir.exists() {
        match tree::damage(&dir) {
            None => return Ok(dir.join(PROGRAM)),
            Some(damage) => progress.tell(format_args!("building again, because {damage}")),
        }
    }
    let built = build(sources, &cache.path("build"), progress)?;
    tree::complete(&dir, |to| {
        let to = to.join(PROGRAM);
        fs::copy(&built, &to).map(drop).map_err(LabError::file(&to))
    })?;
    Ok(dir.join(PROGRAM))
}

/// A hash over all that the program is built from: the same for the same sources, wherever they
/// are.
///
/// # Errors
/// The sources are gone, or cannot be read.
pub fn source_state(sources: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |path: &Path| -> Result<()> {
        let name = path.strip_prefix(sources).unwrap_or(path);
        let content = fs::read(path).map_err(LabError::file(path))?;
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update([0]);
        hash.update(tree::Sum::of_bytes(&content).sha256);
        Ok(())
    };
    if !sources.join("Cargo.toml").exists() {
        return Err(LabError::Failed {
            doing: "building a static pv-stress for the images".into(),
            cause: format!("its sources are no longer in {}", sources.display()),
            cure: "name a static pv-stress with --agent FILE".into(),
        });
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        add(&sources.join(file))?;
    }
    for package in packages(sources)? {
        add(&package.join("Cargo.toml"))?;
        let mut todo = vec![package.join("src")];
        while let Some(dir) = todo.pop() {
            for path in sorted(&dir)? {
                if path.is_dir() {
                    todo.push(path);
                } else {
                    add(&path)?;
                }
            }
        }
    }
    Ok(tree::hex(&hash.finalize())[..16].to_owned())
}

/// The crates of the workspace: a folder of each name, or folders in it.
fn packages(sources: &Path) -> Result<Vec<PathBuf>> {
    let is_package = |path: &Path| path.join("Cargo.toml").exists();
    let mut packages = Vec::new();
    for folder in FOLDERS.map(|name| sources.join(name)) {
        packages.extend(sorted(&folder)?.into_iter().filter(|path| is_package(path)));
        if is_package(&folder) {
            packages.push(folder);
        }
    }
    Ok(packages)
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(LabError::file(dir))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn build(sources: &Path, target: &Path, progress: &Progress) -> Result<PathBuf> {
    progress.tell("building a static pv-stress for the images, once for these sources");
    let mut command = mortal("cargo");
    command
        .args(["build", "--release", "--package", PROGRAM, "--bin", PROGRAM])
        .args(["--target", TARGET])
        // Half the size, in every image.
        .args(["--config", "profile.release.strip=true"])
        .current_dir(sources)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let (mut crates, mut said) = (0, Instant::now());
    let install = "see https://rustup.rs, or name a static pv-stress with --agent FILE";
    let heard = hear(&mut command, "cargo", install, &mut |line| {
        let Some(name) = line.trim().strip_prefix("Compiling ") else {
            return;
        };
        crates += 1;
        if said.elapsed() >= SAY || name.starts_with(PROGRAM) {
            said = Instant::now();
            progress.tell(format_args!("building: crate {crates}, {name}"));
        }
    })?;
    if heard.status.success() {
        return Ok(target.join(TARGET).join("release").join(PROGRAM));
    }
    Err(LabError::Failed {
        doing: "building a static pv-stress".into(),
        cause: cause(&heard.err),
        cure: "or name one with --agent FILE".into(),
    })
}

/// An x86_64 ELF executable that asks for no interpreter.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    const X86_64: u16 = 62;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let headers = || {
        let magic = elf.get(..6)? == b"\x7fELF\x02\x01";
        let from = u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?);
        let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
        let from = usize::try_from(from).ok()?;
        let types: Option<Vec<u32>> = (0..count)
            .map(|n| {
                let at = from.checked_add(n.checked_mul(size)?)?;
                Some(u32::from_le_bytes(
                    elf.get(at..at.checked_add(4)?)?.try_into().ok()?,
                ))
            })
            .collect();
        Some(magic && half(18)? == X86_64 && count > 0 && !types?.contains(&PT_INTERP))
    };
    headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = kinds.len() as u8;
        for kind in kinds {
            elf.extend(kind.to_le_bytes());
            elf.extend([0; 52]);
        }
        elf
    }

    #[test]
    fn the_same_sources_have_the_same_state_and_others_another() {
        let state = source_state(Path::new(SOURCES)).unwrap();
        assert_eq!(state, source_state(Path::new(SOURCES)).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let of = |text: &str| {
            for package in FOLDERS.into_iter().chain(["tests/stress"]) {
                let src = dir.path().join(package).join("src");
                fs::create_dir_all(&src).unwrap();
                fs::write(src.join("lib.rs"), text).unwrap();
                fs::write(dir.path().join(package).join("Cargo.toml"), "").unwrap();
            }
            for file in ["Cargo.toml", "Cargo.lock"] {
                fs::write(dir.path().join(file), "").unwrap();
            }
            source_state(dir.path()).unwrap()
        };
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
        let before = of("a");
        let inner = dir.path().join("tests/stress/src/lib.rs");
        fs::write(inner, "b").unwrap();
        assert_ne!(source_state(dir.path()).unwrap(), before);
        fs::remove_file(dir.path().join("Cargo.toml")).unwrap();
        let gone = source_state(dir.path()).unwrap_err().to_string();
        assert!(gone.contains("--agent FILE"), "{gone}");
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        assert!(is_static(&elf(&[6, 1, 1])));
        assert!(!is_static(&elf(&[6, 3, 1])));
        assert!(!is_static(&elf(&[])));
        assert!(!is_static(&elf(&[1])[..66]), "cut short");
        assert!(!is_static(b"#!/bin/sh"));
    }
}
