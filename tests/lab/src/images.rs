//! The two initramfs images: dom0's, and the domains' inside it.

use super::domains::Domains;
use super::error::Result;
use super::image::Image;
use super::job::{LOAD_MODULES, START_DOMAIN};
use super::parts::{DISK_MODULES, GUEST_MODULES, Parts, is_library, is_tool};
use super::suite::Suite;
use std::path::{Path, PathBuf};

const DOM0_INIT: &str = include_str!("dom0-init.sh");
const DOMU_INIT: &str = include_str!("domu-init.sh");

/// What goes into the images beside the [`Parts`].
pub struct Contents<'a> {
    /// The statically linked pv-stress.
    pub agent: &'a [u8],
    /// What dom0 does when it is up: shell, read by its init.
    pub job: &'a str,
    /// The domains beside dom0.
    pub domains: &'a Domains,
    /// More words for their kernels' command lines.
    pub kernel_words: &'a str,
    /// What dom0 can run.
    pub suites: &'a [Suite],
    /// Kernel modules to bring along.
    pub modules: &'a [String],
    /// Files of the user, for dom0 and the domains: content's place here, and its name in `/lab`.
    pub with: &'a [(PathBuf, String)],
    /// A gntdev module instead of the kernel's own.
    pub gntdev: Option<&'a [u8]>,
}

/// Builds dom0's image.
///
/// # Errors
/// If a part cannot be read.
pub fn build(parts: &Parts, contents: &Contents<'_>) -> Result<Vec<u8>> {
    let domain = domain(parts, contents)?;
    let mut image = base(
        parts,
        contents,
        &[&GUEST_MODULES[..], &DISK_MODULES].concat(),
        DOM0_INIT,
    )?;
    for dir in [
        "run/xen",
        "run/xenstored",
        "var/lib/xenstored",
        "var/lib/xen",
        "var/log/xen/console",
        "results",
    ] {
        image.directory(Path::new(dir))?;
    }
    image.link(Path::new("var/run"), Path::new("/run"))?;
    // Xen's programs look for each other below their version's directory.
    let tools = |path: &Path| is_tool(path);
    for dir in ["usr/lib", "usr/bin", "usr/sbin"] {
        let from = parts.toolstack.join(dir);
        if from.is_dir() {
            image.copy_tree(&from, Path::new(dir), &tools)?;
        }
    }
    for dir in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"] {
        let from = parts.toolstack.join(dir);
        if from.is_dir() {
            image.copy_tree(&from, Path::new("usr/lib/x86_64-linux-gnu"), &is_library)?;
        }
    }
    image.link(
        Path::new("lib64/ld-linux-x86-64.so.2"),
        Path::new("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
    )?;
    image.link(
        Path::new("lib/x86_64-linux-gnu"),
        Path::new("/usr/lib/x86_64-linux-gnu"),
    )?;
    image.file(Path::new("lab/bin/start-domain"), START_DOMAIN.as_bytes())?;
    image.file(Path::new("lab/job"), contents.job.as_bytes())?;
    for domain in &contents.domains.all {
        let path = format!("lab/{}.cfg", domain.name);
        let config = domain.config(contents.kernel_words);
        image.file(Path::new(&path), config.as_bytes())?;
    }
    for suite in contents.suites {
        let path = format!("lab/suites/{}", suite.name);
        image.file(Path::new(&path), suite.script.as_bytes())?;
    }
    // xl complains about a missing one every time.
    image.file(Path::new("etc/xen/xl.conf"), b"")?;
    image.copy(&parts.kernel, Path::new("lab/vmlinuz"))?;
    image.file(Path::new("lab/domain.cpio"), &domain)?;
    image.finish()
}

/// A domain's image.
fn domain(parts: &Parts, contents: &Contents<'_>) -> Result<Vec<u8>> {
    base(parts, contents, &GUEST_MODULES, DOMU_INIT)?.finish()
}

fn base(parts: &Parts, contents: &Contents<'_>, modules: &[&str], init: &str) -> Result<Image> {
    let mut image = Image::new()?;
    image.file(Path::new("init"), init.as_bytes())?;
    image.copy(&parts.busybox, Path::new("bin/busybox"))?;
    image.file(Path::new("lab/bin/pv-stress"), contents.agent)?;
    for (from, name) in contents.with {
        image.copy(from, &Path::new("lab").join(name))?;
    }
    let mut order = String::new();
    for (module, bytes) in parts.modules(modules)? {
        let bytes = match contents.gntdev {
            Some(own) if module == "xen_gntdev" => own,
            _ => &bytes,
        };
        image.file(Path::new(&format!("lib/modules/{module}.ko")), bytes)?;
        order.push_str(&module);
        order.push('\n');
    }
    image.file(Path::new("lib/modules/order"), order.as_bytes())?;
    for name in contents.modules {
        let mut needs = String::new();
        for (module, bytes) in parts.asked_modules(std::slice::from_ref(name))? {
            image.file(Path::new(&format!("lib/modules/{module}.ko")), &bytes)?;
            needs.push_str(&module);
            needs.push('\n');
        }
        let path = format!("lib/modules/needs/{}", name.replace('-', "_"));
        image.file(Path::new(&path), needs.as_bytes())?;
    }
    image.file(Path::new("lab/bin/load-modules"), LOAD_MODULES.as_bytes())?;
    Ok(image)
}
