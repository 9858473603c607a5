//! The hypervisor, kernel, modules and toolstack, out of the packages.

use super::error::{LabError, Result};
use super::packages::Archive;
use super::release::Release;
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

/// Modules of the guests, in the order in which they must be loaded: xenfs needs what privcmd
/// registers.
pub const GUEST_MODULES: [&str; 5] = [
    "xen-privcmd",
    "xenfs",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-evtchn",
];

/// Further modules of dom0, for the disk that takes the results.
pub const DISK_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// Programs of the toolstack.
const TOOLS: [&str; 8] = [
    "xl",
    "xenstored",
    "oxenstored",
    "xen-init-dom0",
    "xenconsoled",
    "lsevtchn",
    "xenstore-control",
    "test-xenstore",
];

/// What the images are made of.
pub struct Parts {
    /// An ELF32 multiboot image.
    pub xen: PathBuf,
    /// bzImage.
    pub kernel: PathBuf,
    /// `uname -r`.
    pub kernel_release: String,
    /// A static busybox.
    pub busybox: PathBuf,
    /// Where the toolstack's packages are unpacked.
    pub toolstack: Vec<PathBuf>,
    /// Where the kernel's package is unpacked.
    kernel_package: PathBuf,
}

impl Parts {
    /// Fetches what is not in the cache yet.
    ///
    /// # Errors
    /// No network, an unknown package, a full disk.
    pub fn fetch(
        cache: &Path,
        xen: Release,
        kernel: Release,
        mirror: Option<&str>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Parts> {
        let archive = Archive::open(cache, xen, mirror, tell)?;
        let tools = archive.with_libraries(&xen.toolstack_packages())?;
        let toolstack = archive.unpack(&tools, &is_tool_or_library, tell)?;
        let hypervisor =
            archive.unpack(&xen.hypervisor_packages(), &|p| is_below(p, "boot"), tell)?;
        let busybox = archive.unpack(
            &["busybox-static".into()],
            &|p| p.ends_with("busybox"),
            tell,
        )?;
        let archive = Archive::open(cache, kernel, mirror, tell)?;
        let image = archive.behind("linux-image-amd64", "linux-image-")?;
        let kernel_release = image.trim_start_matches("linux-image-").to_owned();
        let kernel_package = archive
            .unpack(&[image], &is_kernel_or_module, tell)?
            .remove(0);

        let packed = find(&hypervisor, &|name| {
            name.starts_with("xen-") && name.ends_with(".gz")
        })?;
        let unpacked = packed.with_extension("elf");
        if !unpacked.exists() {
            gunzip(&packed, &unpacked)?;
        }
        Ok(Parts {
            xen: unpacked,
            kernel: find(std::slice::from_ref(&kernel_package), &|n| {
                n.starts_with("vmlinuz-")
            })?,
            kernel_release,
            busybox: find(&busybox, &|name| name == "busybox")?,
            toolstack,
            kernel_package,
        })
    }

    /// These modules and those that they need, each after what it needs. Without a file a module
    /// is built into this kernel.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        for name in names {
            self.add_module(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add_module(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let plain = name.replace('-', "_");
        if ordered.iter().any(|(there, _)| *there == plain) {
            return Ok(());
        }
        let Some(bytes) = self.module(&plain)? else {
            return Ok(());
        };
        for needed in needs(&bytes) {
            self.add_module(&needed, ordered)?;
        }
        ordered.push((plain, bytes));
        Ok(())
    }

    fn module(&self, plain: &str) -> Result<Option<Vec<u8>>> {
        let wanted = |file: &str| {
            let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko");
            stem.is_some_and(|stem| stem.replace('-', "_") == plain)
        };
        let Ok(path) = find(std::slice::from_ref(&self.kernel_package), &wanted) else {
            return Ok(None);
        };
        if path.extension().is_some_and(|e| e == "xz") {
            let mut module = Vec::new();
            let mut packed = BufReader::new(File::open(&path).map_err(LabError::file(&path))?);
            lzma_rs::xz_decompress(&mut packed, &mut module).map_err(|error| LabError::File {
                path,
                error: io::Error::other(error.to_string()),
            })?;
            return Ok(Some(module));
        }
        fs::read(&path).map(Some).map_err(LabError::file(&path))
    }
}

/// What a module says that it depends on, in its `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    let fields = module.split(|&byte| byte == 0);
    let depends = fields
        .filter_map(|field| field.strip_prefix(b"depends="))
        .next();
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    depends
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_below(path: &Path, dir: &str) -> bool {
    path.strip_prefix(".").unwrap_or(path).starts_with(dir)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A program of the toolstack.
pub(super) fn is_tool(path: &Path) -> bool {
    let name = name(path);
    TOOLS.contains(&name.as_str()) || (name.starts_with("xenstore") && is_in(path, "bin"))
}

/// A shared library that the toolstack may load. libc's own converters and preloads are not.
pub(super) fn is_library(path: &Path) -> bool {
    let name = name(path);
    (name.contains(".so.") || name.ends_with(".so"))
        && is_in(path, "x86_64-linux-gnu")
        && !name.starts_with("libnss")
        && !name.starts_with("libc_malloc")
}

fn is_in(path: &Path, dir: &str) -> bool {
    path.parent()
        .and_then(Path::file_name)
        .is_some_and(|parent| parent == dir)
}

fn is_tool_or_library(path: &Path) -> bool {
    is_tool(path) || is_library(path)
}

fn is_kernel_or_module(path: &Path) -> bool {
    let name = name(path);
    name.starts_with("vmlinuz-")
        || name.starts_with("config-")
        || name.starts_with("xen")
        || (name.starts_with("virtio") && name.contains(".ko"))
}

/// The first file below these directories whose name is wanted.
fn find(dirs: &[PathBuf], wanted: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    let mut todo: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
    while let Some(dir) = todo.pop() {
        let entries = fs::read_dir(&dir).map_err(LabError::file(&dir))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        if let Some(found) = paths.iter().find(|p| p.is_file() && wanted(&name(p))) {
            return Ok(found.clone());
        }
        todo.extend(
            paths
                .into_iter()
                .rev()
                .filter(|p| p.is_dir() && !p.is_symlink()),
        );
    }
    Err(LabError::Failed {
        doing: "looking for a file in the packages".into(),
        cause: format!("{dirs:?} have none"),
        cure: "remove that directory and run again".into(),
    })
}

fn gunzip(from: &Path, to: &Path) -> Result<()> {
    let mut packed = GzDecoder::new(File::open(from).map_err(LabError::file(from))?);
    let partial = to.with_extension("partial");
    let mut out = File::create(&partial).map_err(LabError::file(&partial))?;
    io::copy(&mut packed, &mut out).map_err(LabError::file(&partial))?;
    fs::rename(&partial, to).map_err(LabError::file(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        let module = b"\x7fELF..\0license=GPL\0depends=virtio,virtio_ring\0name=virtio_pci\0";
        assert_eq!(needs(module), ["virtio", "virtio_ring"]);
        assert!(needs(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn libraries_and_tools_are_told_from_the_rest() {
        let lib =
            |name: &str| is_library(Path::new("./usr/lib/x86_64-linux-gnu").join(name).as_path());
        assert!(lib("libxenctrl.so.4.17.0") && lib("libc.so.6"));
        assert!(!lib("libnss_dns.so.2") && !lib("gconv/UTF-16.so"));
        assert!(is_tool(Path::new("usr/bin/xenstore-read")));
        assert!(!is_tool(Path::new("usr/share/doc/xenstore-utils")));
    }
}
