//! QEMU: the one that the lab brings, out of Debian's packages and with their own libraries, so that
//! every lab runs on the same; or the one that somebody names.

use crate::ask::release::Release;
use crate::error::{LabError, Result};
use crate::fetch::archive::Archive;
use crate::fetch::packages::{Choice, Packages};
use crate::fetch::set::Part;
use crate::fetch::tree::find;
use crate::process::{self, mortal};
use crate::progress::Progress;
use std::path::Path;

/// QEMU's name for the machine that it emulates.
const QEMU: &str = "qemu-system-x86_64";

/// QEMU, its firmware and its libraries.
const PART: Part = Part {
    label: "qemu",
    wanted: |path| {
        let below = |dir: &str| path.strip_prefix(".").unwrap_or(path).starts_with(dir);
        path.ends_with(QEMU)
            || below("usr/share/qemu")
            || below("usr/share/seabios")
            || path.to_string_lossy().contains(".so")
    },
};

/// A QEMU that can be started.
pub struct Emulator {
    /// The program and the arguments that come before all others.
    words: Vec<String>,
    /// What it says that it is.
    pub version: String,
    /// Where it comes from, for people.
    pub origin: String,
}

impl Emulator {
    /// The QEMU that was asked for: a path, or the series or release of one that the lab brings.
    ///
    /// # Errors
    /// It is not there, cannot be fetched, or does not run.
    pub fn find(asked: &str, packages: &Packages<'_>) -> Result<Emulator> {
        let (words, origin) = if asked.contains('/') {
            (named(asked)?, asked.to_owned())
        } else {
            brought(Release::with_qemu(asked)?, packages)?
        };
        let mut emulator = Emulator {
            words,
            version: String::new(),
            origin,
        };
        emulator.version = emulator.ask_version(packages.progress)?;
        Ok(emulator)
    }

    /// A program in QEMU's place.
    #[cfg(test)]
    pub fn fake(program: &Path) -> Emulator {
        Emulator {
            words: vec![program.display().to_string()],
            version: "0".into(),
            origin: "a test".into(),
        }
    }

    fn ask_version(&self, progress: &Progress) -> Result<String> {
        let mut command = mortal(&self.words[0]);
        command.args(&self.words[1..]).arg("--version");
        let context = || {
            (
                format!("asking {} for its version", self.origin),
                "name another QEMU with --qemu PATH".into(),
            )
        };
        let said = process::run(progress, &mut command, "setpriv", INSTALL, context)?;
        let first = said.lines().next().unwrap_or_default();
        let version = first.trim_start_matches("QEMU emulator version ");
        Ok(version.to_owned())
    }

    /// The words that start it on one processor of this machine.
    ///
    /// QEMU's `helper_vmrun` sets a bit of `interrupt_request` without QEMU's lock and in one
    /// instruction that is not atomic between processors. Where the thread of the timers runs on
    /// another processor, an interrupt can get lost between the two, and a machine that waits for
    /// nothing else stands still for ever. On one processor nothing comes between the two halves of
    /// an instruction. See `docs/findings/qemu-lost-interrupt.md`.
    pub fn bound(&self, processor: usize) -> Vec<String> {
        let mut words: Vec<String> = ["taskset", "-c", &processor.to_string()]
            .map(str::to_owned)
            .into();
        words.extend(self.words.iter().cloned());
        words
    }
}

/// What has `setpriv` and `taskset`.
const INSTALL: &str = "apt-get install util-linux";

fn named(path: &str) -> Result<Vec<String>> {
    if !Path::new(path).is_file() {
        return Err(LabError::Failed {
            doing: format!("looking for the QEMU {path}"),
            cause: "there is no such file".into(),
            cure: format!("name a {QEMU} with --qemu PATH, or leave it away: the lab brings one"),
        });
    }
    Ok(vec![path.to_owned()])
}

fn brought(release: Release, packages: &Packages<'_>) -> Result<(Vec<String>, String)> {
    let name = format!("qemu-{}", release.codename);
    let set = packages.set(&name, release, &choose)?;
    let tree = packages.tree(&set, &PART)?;
    let program = find(&tree, QEMU, &|path| path.ends_with(QEMU))?;
    // It brings the C library of its release, and that comes with its own loader.
    let loader = find(&tree, "the loader", &|path| {
        path.ends_with("ld-linux-x86-64.so.2")
    })?;
    let firmware = ["usr/share/qemu", "usr/share/seabios"];
    let text = |path: &Path| path.display().to_string();
    let libraries: Vec<String> = ["usr/lib", "lib"]
        .map(|lib| tree.join(lib).join("x86_64-linux-gnu"))
        .iter()
        .filter(|dir| dir.is_dir())
        .map(|dir| text(dir))
        .collect();
    // Its accelerator may be a module, which it looks for beside the program that the kernel
    // started: the loader.
    let modules = tree.join("usr/lib/x86_64-linux-gnu/qemu");
    let mut words = vec![
        "env".into(),
        format!("QEMU_MODULE_DIR={}", modules.display()),
        text(&loader),
        "--library-path".into(),
        libraries.join(":"),
        text(&program),
    ];
    for dir in firmware {
        words.extend(["-L".into(), text(&tree.join(dir))]);
    }
    Ok((words, format!("{release}, brought by the lab")))
}

fn choose(archive: &Archive<'_>) -> Result<Choice> {
    let packages = [
        "qemu-system-x86",
        "qemu-system-common",
        "qemu-system-data",
        "seabios",
    ]
    .map(str::to_owned);
    Ok(Choice {
        packages: archive.with_libraries(&packages)?,
        chief: "qemu-system-x86".into(),
        detail: archive.release.qemu.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_is_not_there_is_named() {
        let error = named("/nonexistent/qemu").unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/qemu") && error.contains("--qemu"),
            "{error}"
        );
    }
}
