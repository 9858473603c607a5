//! The statically linked pv-stress that runs in the images, where there are no libraries.

use super::error::{LabError, Result};
use super::packages::run;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The program for the images: the one that was named, or the one that runs if it is static, or
/// one that is built now.
///
/// # Errors
/// It needs libraries, or cannot be built.
pub fn agent(named: Option<&Path>, cache: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<u8>> {
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
    let own = std::env::current_exe().map_err(LabError::file(Path::new("pv-stress")))?;
    let bytes = fs::read(&own).map_err(LabError::file(&own))?;
    if is_static(&bytes) {
        return Ok(bytes);
    }
    let built = build(cache, tell)?;
    fs::read(&built).map_err(LabError::file(&built))
}

fn build(cache: &Path, tell: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let sources = Path::new(SOURCES);
    if !sources.join("Cargo.toml").exists() {
        return Err(LabError::Failed {
            doing: "building a static pv-stress for the images".into(),
            cause: format!("its sources are no longer in {SOURCES}"),
            cure: "name a static pv-stress with --agent FILE".into(),
        });
    }
    tell("building a static pv-stress for the images");
    let target = cache.join("build");
    let mut command = Command::new("cargo");
    command
        .args([
            "build",
            "--quiet",
            "--package",
            "pv-stress",
            "--bin",
            "pv-stress",
        ])
        .args(["--target", TARGET])
        // It mostly waits: lightly optimised it is built in a third of the time.
        .args(["--config", "profile.dev.opt-level=1"])
        .args(["--config", "profile.dev.debug=false"])
        .args(["--config", "profile.dev.strip=true"])
        .current_dir(sources)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    run(
        &mut command,
        "cargo",
        "see https://rustup.rs, or name a static pv-stress with --agent FILE",
        || {
            (
                "building a static pv-stress".into(),
                "or name one with --agent FILE".into(),
            )
        },
    )?;
    Ok(target.join(TARGET).join("debug").join("pv-stress"))
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
    fn a_program_with_an_interpreter_is_not_static() {
        assert!(is_static(&elf(&[6, 1, 1])));
        assert!(!is_static(&elf(&[6, 3, 1])));
        assert!(!is_static(&elf(&[])));
        assert!(!is_static(&elf(&[1])[..66]), "cut short");
        assert!(!is_static(b"#!/bin/sh"));
    }
}
