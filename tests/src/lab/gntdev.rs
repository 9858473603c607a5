//! The gntdev module of the lab's kernel with an unmap that waits for every page reference, as
//! Linux's did before 5.19: built out of tree from Debian's kernel source and headers. The source
//! is fetched, changed here in one place, and never kept in this project.

use super::error::{LabError, Result};
use super::kbuild::{compiler, make_tools_run};
use super::packages::{Archive, run};
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

/// The changed module for a kernel, from the cache or built now.
///
/// # Errors
/// A package or tool is missing, the source is not as expected, or the build fails.
pub fn synchronous(
    archive: &Archive,
    kernel_release: &str,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<u8>> {
    let dir = archive.path(&format!("gntdev-{kernel_release}"));
    let module = dir.join("xen-gntdev.ko");
    if !module.exists() {
        build(archive, kernel_release, &dir, tell)?;
    }
    fs::read(&module).map_err(LabError::file(&module))
}

fn build(archive: &Archive, release: &str, dir: &Path, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let headers = format!("linux-headers-{release}");
    let mut packages = vec![headers.clone()];
    for needed in archive.depends(&headers)? {
        if needed.starts_with("linux-headers-") || needed.starts_with("linux-kbuild-") {
            packages.push(needed);
        }
    }
    // Debian's headers look for each other in one tree.
    let tree = archive.unpack_together(&packages, &format!("headers-{release}"), tell)?;
    let headers = tree.join("usr/src").join(&headers);
    relocate(&headers.join("Makefile"), &tree)?;
    make_tools_run(archive, &tree, &packages, tell)?;
    fs::create_dir_all(dir).map_err(LabError::file(dir))?;
    take_source(archive, release, dir, tell)?;
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
    tell("building gntdev with a synchronous unmap");
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(&headers)
        .arg(format!("M={}", dir.display()));
    let compiler = compiler(dir)?;
    command
        .arg(format!("CC={compiler}"))
        // Type information for BPF would take pahole.
        .args(["HOSTCC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    run(&mut command, "make", "apt-get install make gcc", || {
        (
            "building the gntdev module".into(),
            format!(
                "should it lie in this machine's gcc: run this on Debian {}, or with another --kernel",
                archive.release.codename
            ),
        )
    })?;
    Ok(())
}

/// Debian's headers name each other by absolute paths; and the cache may be in another place now
/// than when this was done last.
fn relocate(makefile: &Path, tree: &Path) -> Result<()> {
    let original = makefile.with_extension("debian");
    if !original.exists() {
        fs::rename(makefile, &original).map_err(LabError::file(makefile))?;
    }
    let text = fs::read_to_string(&original).map_err(LabError::file(&original))?;
    let text = text.replace("/usr/src/", &format!("{}/usr/src/", tree.display()));
    fs::write(makefile, text).map_err(LabError::file(makefile))
}

/// Takes gntdev's files out of the kernel's source package.
fn take_source(
    archive: &Archive,
    release: &str,
    dir: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<()> {
    let series: Vec<&str> = release.splitn(3, '.').take(2).collect();
    let package = format!("linux-source-{}", series.join("."));
    let root = archive
        .unpack(std::slice::from_ref(&package), &|_| true, tell)?
        .remove(0);
    let packed = root.join("usr/src").join(format!("{package}.tar.xz"));
    tell("taking gntdev out of the kernel's source");
    let mut xz = Command::new("xz");
    xz.arg("-dc").arg(&packed).stdout(Stdio::piped());
    let mut xz = xz
        .spawn()
        .map_err(|error| super::packages::cannot_run("xz", "apt-get install xz-utils", error))?;
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
        "{before}{}{after}",
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
            changed.ends_with("\n}\n") && !changed.contains("_async"),
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
