//! The hypervisor, kernel, modules and toolstack, out of the packages.

use crate::ask::release::{RELEASES, Release};
use crate::error::{LabError, Result, UnknownVersion};
use crate::fetch::archive::Archive;
use crate::fetch::packages::{Choice, Packages};
use crate::fetch::set::{Part, Set};
use crate::fetch::tree::find;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read};
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

/// What `load-modules` gives to modules: an instance of the video driver for each of several holds, with
/// nothing but an output and a capture, which saves memory.
pub const MODULE_PARAMETERS: [(&str, &str); 1] =
    [("vivid", "n_devs=4 node_types=0x101,0x101,0x101,0x101")];

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

/// The hypervisor, its toolstack with libraries, and a busybox.
const XEN: Part = Part {
    label: "tools",
    wanted: |path| {
        is_tool(path) || is_library(path) || is_hypervisor(path) || path.ends_with("bin/busybox")
    },
};

/// A kernel with its modules.
const KERNEL: Part = Part {
    label: "kernel",
    wanted: |path| {
        let name = name(path);
        name.starts_with("vmlinuz") || name.contains(".ko")
    },
};

/// What the images are made of.
pub struct Parts {
    /// The hypervisor's packages.
    pub xen_set: Set,
    /// The kernel's packages; their detail is `uname -r`.
    pub kernel_set: Set,
    /// The kernel's release, from which its source and headers come.
    pub kernel_from: Release,
    /// bzImage.
    pub kernel: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
    /// Where the toolstack's packages are unpacked.
    pub toolstack: PathBuf,
    /// The hypervisor, compressed.
    xen: PathBuf,
    /// Where the kernel's packages are unpacked.
    kernel_tree: PathBuf,
}

impl Parts {
    /// Fetches what is not in the cache yet. `kernel` is a series, a release's codename, or a
    /// version that was kept.
    ///
    /// # Errors
    /// No network, an unknown version or package, a full disk.
    pub fn fetch(packages: &Packages<'_>, xen: Release, kernel: &str) -> Result<Parts> {
        let set = format!("xen-{}", xen.codename);
        let xen_set = packages.set(&set, xen, &choose_xen)?;
        let (kernel_from, kernel_set) = kernel_set(packages, kernel)?;
        let toolstack = packages.tree(&xen_set, &XEN)?;
        let kernel_tree = packages.tree(&kernel_set, &KERNEL)?;
        Ok(Parts {
            xen: find(&toolstack, "the hypervisor", &is_hypervisor)?,
            busybox: find(&toolstack, "busybox", &|path| path.ends_with("bin/busybox"))?,
            kernel: find(&kernel_tree, "the kernel", &|path| {
                name(path).starts_with("vmlinuz")
            })?,
            xen_set,
            kernel_set,
            kernel_from,
            toolstack,
            kernel_tree,
        })
    }

    /// `uname -r` of the kernel.
    pub fn kernel_release(&self) -> &str {
        &self.kernel_set.detail
    }

    /// The hypervisor as the boot loader wants it: an ELF32 multiboot image.
    ///
    /// # Errors
    /// It is damaged; a full disk.
    pub fn write_xen(&self, to: &Path) -> Result<()> {
        let packed = File::open(&self.xen).map_err(LabError::file(&self.xen))?;
        let mut out = File::create(to).map_err(LabError::file(to))?;
        io::copy(&mut GzDecoder::new(packed), &mut out).map_err(LabError::file(to))?;
        Ok(())
    }

    /// Is this kernel as new as that one?
    pub fn is_since(&self, version: (u32, u32)) -> bool {
        let mut numbers = self.kernel_release().split(['.', '-', '+']);
        let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
        matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= version)
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

    /// As [`Parts::modules`], for modules that somebody asked for.
    ///
    /// # Errors
    /// This kernel has no such module.
    pub fn asked_modules(&self, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        for name in names {
            if self.module_file(name).is_none() {
                return Err(LabError::Failed {
                    doing: format!("looking for the module {name}"),
                    cause: format!("Linux {} of Debian has none", self.kernel_release()),
                    cure: "name another module, or another kernel with --kernel; what is built into the kernel needs no module".into(),
                });
            }
            self.add_module(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add_module(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let plain = name.replace('-', "_");
        if ordered.iter().any(|(there, _)| *there == plain) {
            return Ok(());
        }
        let Some(path) = self.module_file(&plain) else {
            return Ok(());
        };
        let bytes = read_module(&path)?;
        for needed in needs(&bytes) {
            self.add_module(&needed, ordered)?;
        }
        ordered.push((plain, bytes));
        Ok(())
    }

    /// Has this kernel a module of this name, in a file?
    pub fn has_module(&self, name: &str) -> bool {
        self.module_file(name).is_some()
    }

    fn module_file(&self, module: &str) -> Option<PathBuf> {
        let plain = module.replace('-', "_");
        let wanted = |path: &Path| {
            let file = name(path);
            let stem = file
                .strip_suffix(".xz")
                .unwrap_or(&file)
                .strip_suffix(".ko");
            stem.is_some_and(|stem| stem.replace('-', "_") == plain)
        };
        find(&self.kernel_tree, module, &wanted).ok()
    }
}

/// The hypervisor and its tools, with all libraries, of a release.
///
/// # Errors
/// If apt does not know them.
pub fn choose_xen(archive: &Archive<'_>) -> Result<Choice> {
    // Its version is part of its packages' names.
    let hypervisor = archive.behind("xen-system-amd64", "xen-hypervisor-")?;
    let version = hypervisor
        .trim_start_matches("xen-hypervisor-")
        .trim_end_matches("-amd64");
    let tools = [
        format!("xen-utils-{version}"),
        "xen-utils-common".into(),
        "xenstore-utils".into(),
    ];
    let mut packages = archive.with_libraries(&tools)?;
    packages.extend([hypervisor.clone(), "busybox-static".into()]);
    Ok(Choice {
        packages,
        chief: hypervisor.clone(),
        detail: version.to_owned(),
    })
}

fn choose_kernel(archive: &Archive<'_>) -> Result<Choice> {
    let image = archive.behind("linux-image-amd64", "linux-image-")?;
    let release = image.trim_start_matches("linux-image-").to_owned();
    let mut packages = vec![image.clone()];
    // Debian 14's image is empty, and stands for these.
    let parts = ["linux-binary-", "linux-modules-"];
    let depends = archive.depends(&image)?;
    packages.extend(
        depends
            .into_iter()
            .filter(|name| parts.iter().any(|part| name.starts_with(part))),
    );
    Ok(Choice {
        packages,
        chief: image,
        detail: release,
    })
}

/// The kernel of a release, or one that was kept.
fn kernel_set(packages: &Packages<'_>, asked: &str) -> Result<(Release, Set)> {
    let name = |release: &Release| format!("kernel-{}", release.codename);
    let unknown: UnknownVersion = match Release::with_kernel(asked) {
        Ok(release) => {
            let set = packages.set(&name(&release), release, &choose_kernel)?;
            return Ok((release, set));
        }
        Err(unknown) => unknown,
    };
    for release in RELEASES {
        if let Some(set) = packages.kept(&name(&release), asked, release)? {
            return Ok((release, set));
        }
    }
    Err(unknown.into())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let mut file = BufReader::new(File::open(path).map_err(LabError::file(path))?);
    let mut module = Vec::new();
    if path.extension().is_some_and(|e| e == "xz") {
        lzma_rs::xz_decompress(&mut file, &mut module).map_err(|error| LabError::File {
            path: path.to_owned(),
            error: io::Error::other(error.to_string()),
        })?;
    } else {
        file.read_to_end(&mut module)
            .map_err(LabError::file(path))?;
    }
    Ok(module)
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

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// The hypervisor itself, and not one of its links or maps.
fn is_hypervisor(path: &Path) -> bool {
    let name = name(path);
    is_in(path, "boot") && name.starts_with("xen-") && name.ends_with(".gz")
}

/// A program of the toolstack.
pub fn is_tool(path: &Path) -> bool {
    let name = name(path);
    TOOLS.iter().any(|tool| *tool == name) || (name.starts_with("xenstore") && is_in(path, "bin"))
}

/// A shared library that the toolstack may load. libc's own converters and preloads are not.
pub fn is_library(path: &Path) -> bool {
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
        assert!(is_hypervisor(Path::new("./boot/xen-4.17-amd64.gz")));
        assert!(!is_hypervisor(Path::new("./boot/xen-4.17-amd64.config")));
    }
}
