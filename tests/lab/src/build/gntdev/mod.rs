//! The gntdev module of the lab's kernel with an unmap that waits for every page reference, as
//! Linux's did before 5.19: built out of tree from Debian's kernel source and headers. The source
//! is fetched, changed here in one place, and never kept in this project.

mod kbuild;

use super::parts::Parts;
use crate::error::{LabError, Result};
use crate::fetch::archive::Archive;
use crate::fetch::packages::{Choice, Packages};
use crate::fetch::set::WHOLE;
use crate::fetch::tree;
use crate::process::{cannot_run, mortal, run};
use kbuild::{compiler, make_tools_run};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The call that queues the unmap (`drivers/xen/gntdev.c`), once in the file.
const QUEUED: &str = "gnttab_unmap_refs_async(&map->unmap_data);";
/// The call that waits instead; it takes the item's `data` for itself, and the completion that the
/// queue would have run needs it back.
const WAITING: &str = "{ int waited = gnttab_unmap_refs_sync(&map->unmap_data); \
     map->unmap_data.data = map; COMPLETION(waited, &map->unmap_data); }";
/// Before the call: the completion that the queue is told to run.
const COMPLETION: &str = "map->unmap_data.done = ";
/// At the source's end: the module says of itself what it does (`pv_harness::kernel::unmap_waits`).
const TOLD: &str = "static bool unmap_waits = true;\nmodule_param(unmap_waits, bool, 0444);\n";
const MODULE: &str = "xen-gntdev.ko";

/// The changed module for a kernel, from the cache, or built now in `work`.
///
/// # Errors
/// A package or tool is missing, the source is not as expected, or the build fails.
pub fn synchronous(packages: &Packages<'_>, parts: &Parts, work: &Path) -> Result<Vec<u8>> {
    let release = parts.kernel_release();
    let change = &tree::Sum::of_bytes([WAITING, TOLD].concat().as_bytes()).sha256[..8];
    let name = format!(
        "gntdev-sync-{release}-{}-{change}",
        parts.kernel_set.version
    );
    let dir = packages.cache.path("modules").join(name.replace(':', "_"));
    if tree::damage(&dir).is_some() {
        let built = build(packages, parts, work)?;
        tree::complete(&dir, |to| {
            let to = to.join(MODULE);
            fs::copy(&built, &to).map(drop).map_err(LabError::file(&to))
        })?;
        tree::remove(work)?;
    }
    let module = dir.join(MODULE);
    fs::read(&module).map_err(LabError::file(&module))
}

/// The kernel's headers and build tools with what these need, and its source.
fn choose(archive: &Archive<'_>, release: &str) -> Result<Choice> {
    let headers = format!("linux-headers-{release}");
    let mut tools = vec![headers.clone()];
    for needed in archive.depends(&headers)? {
        if needed.starts_with("linux-headers-") || needed.starts_with("linux-kbuild-") {
            tools.push(needed);
        }
    }
    let mut packages = archive.with_libraries(&tools)?;
    packages.push(source_package(release));
    Ok(Choice {
        packages,
        chief: headers,
        detail: release.to_owned(),
    })
}

fn source_package(release: &str) -> String {
    let series: Vec<&str> = release.splitn(3, '.').take(2).collect();
    format!("linux-source-{}", series.join("."))
}

fn build(packages: &Packages<'_>, parts: &Parts, work: &Path) -> Result<PathBuf> {
    let (progress, release) = (packages.progress, parts.kernel_release());
    let name = format!("gntdev-{release}");
    let set = packages.set(&name, parts.kernel_from, &|archive| {
        choose(archive, release)
    })?;
    let (tools, dir) = (work.join("tools"), work.join("gntdev"));
    packages.unpack(&set, &WHOLE, &tools)?;
    let headers = tools
        .join("usr/src")
        .join(format!("linux-headers-{release}"));
    relocate(&headers.join("Makefile"), &tools)?;
    make_tools_run(&tools)?;
    fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
    progress.tell("taking gntdev out of the kernel's source");
    take_source(&tools, &source_package(release), &dir)?;
    let source = dir.join("gntdev.c");
    let text = fs::read_to_string(&source).map_err(LabError::file(&source))?;
    let changed = make_synchronous(&text).map_err(|cause| LabError::Failed {
        doing: format!("making the unmap in {} synchronous", source.display()),
        cause,
        cure: "use a kernel that the lab was tried with".into(),
    })?;
    fs::write(&source, changed).map_err(LabError::file(&source))?;
    let makefile = dir.join("Makefile");
    let rules = "obj-m := xen-gntdev.o\nxen-gntdev-y := gntdev.o\n";
    fs::write(&makefile, rules).map_err(LabError::file(&makefile))?;
    progress.tell("building gntdev with a synchronous unmap");
    let mut command = mortal("make");
    command
        .arg("-C")
        .arg(&headers)
        .arg(format!("M={}", dir.display()));
    let compiler = compiler(&dir)?;
    command
        .arg(format!("CC={compiler}"))
        // Type information for BPF would take pahole.
        .args(["HOSTCC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    run(
        progress,
        &mut command,
        "make",
        "apt-get install make gcc",
        || {
            (
                "building the gntdev module".into(),
                format!(
                    "should it lie in this machine's gcc: run this on {}, or with another --kernel",
                    parts.kernel_from
                ),
            )
        },
    )?;
    Ok(dir.join(MODULE))
}

/// Debian's headers name each other by absolute paths.
fn relocate(makefile: &Path, tree: &Path) -> Result<()> {
    let text = fs::read_to_string(makefile).map_err(LabError::file(makefile))?;
    let text = text.replace("/usr/src/", &format!("{}/usr/src/", tree.display()));
    fs::write(makefile, text).map_err(LabError::file(makefile))
}

/// Takes gntdev's files out of the kernel's source package.
fn take_source(tools: &Path, package: &str, dir: &Path) -> Result<()> {
    let packed = tools.join("usr/src").join(format!("{package}.tar.xz"));
    let mut xz = Command::new("xz");
    xz.arg("-dc").arg(&packed).stdout(Stdio::piped());
    let mut xz = xz
        .spawn()
        .map_err(|error| cannot_run("xz", "apt-get install xz-utils", error))?;
    let taken = xz
        .stdout
        .take()
        .map_or(Ok(0), |stdout| take_files(stdout, dir));
    // It may still be writing files that come after ours.
    let _ended = xz.kill();
    let _reaped = xz.wait();
    match taken {
        Ok(3..) => Ok(()),
        Ok(_) => Err(LabError::Failed {
            doing: format!("looking for gntdev in {}", packed.display()),
            cause: "it is not all there".into(),
            cure: "remove that directory and run again".into(),
        }),
        Err(error) => Err(LabError::File {
            path: packed,
            error,
        }),
    }
}

/// How many of gntdev's files the archive held.
fn take_files(from: impl io::Read, dir: &Path) -> io::Result<usize> {
    const WANTED: [&str; 3] = ["gntdev.c", "gntdev-common.h", "gntdev-dmabuf.h"];
    let mut taken = 0;
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path: PathBuf = entry.path()?.into_owned();
        let is_ours = path
            .parent()
            .is_some_and(|parent| parent.ends_with("drivers/xen"));
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| is_ours && WANTED.contains(name)) {
            io::copy(&mut entry, &mut File::create(dir.join(name))?)?;
            taken += 1;
        }
        if taken == WANTED.len() {
            break;
        }
    }
    Ok(taken)
}

/// gntdev's source with an unmap that waits.
fn make_synchronous(source: &str) -> std::result::Result<String, String> {
    let (before, after) = source
        .split_once(QUEUED)
        .ok_or(format!("there is no `{QUEUED}`"))?;
    if after.contains(QUEUED) {
        return Err(format!("there is more than one `{QUEUED}`"));
    }
    let completion = before
        .rsplit_once(COMPLETION)
        .and_then(|(_, rest)| rest.split_once(';'));
    let (completion, _) = completion.ok_or(format!("there is no `{COMPLETION}` before it"))?;
    Ok(format!(
        "{before}{}{after}{TOLD}",
        WAITING.replace("COMPLETION", completion)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_statement_is_changed() {
        let source = "a\n\tmap->unmap_data.done = finished;\n\tgnttab_unmap_refs_async(&map->unmap_data);\n}\n";
        let changed = make_synchronous(source).unwrap();
        assert!(
            changed.contains("gnttab_unmap_refs_sync(&map->unmap_data);"),
            "{changed}"
        );
        assert!(
            changed.contains("finished(waited, &map->unmap_data);"),
            "{changed}"
        );
        assert!(
            changed.ends_with(&format!("\n}}\n{TOLD}")) && !changed.contains("_async"),
            "{changed}"
        );
    }

    #[test]
    fn another_source_is_refused() {
        assert!(make_synchronous("nothing").is_err());
        let twice = format!("{COMPLETION}f;{QUEUED}{QUEUED}");
        assert!(make_synchronous(&twice).is_err());
        assert!(make_synchronous(QUEUED).is_err());
    }
}
