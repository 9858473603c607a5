//! The two initramfs images: dom0's, and the domains' inside it.

use super::job::{self, LOAD_MODULES, START_DOMAIN};
use super::newc::Image;
use super::xenstored;
use crate::ask::Asked;
use crate::build::Built;
use crate::build::parts::{DISK_MODULES, GUEST_MODULES, MODULE_PARAMETERS, is_library, is_tool};
use crate::error::Result;
use std::path::Path;

const DOM0_INIT: &str = include_str!("dom0-init.sh");
const DOMU_INIT: &str = include_str!("domu-init.sh");
/// What both read first, as `/lib/mounts.sh`.
const MOUNTS: &str = include_str!("mounts.sh");

/// Builds dom0's image.
///
/// # Errors
/// If a part cannot be read.
pub fn build(asked: &Asked<'_>, built: &Built) -> Result<Vec<u8>> {
    let domain = domain(built)?;
    let parts = &built.parts;
    let mut image = base(
        built,
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
    image.file(
        Path::new("lab/job"),
        job::job(asked.args, &asked.domains).as_bytes(),
    )?;
    let more = asked.args.kernel_args.as_deref().unwrap_or_default();
    for domain in &asked.domains.all {
        let path = format!("lab/{}.cfg", domain.name);
        let config = domain.config(more);
        image.file(Path::new(&path), config.as_bytes())?;
    }
    let (start, settings) = xenstored::start(asked.args.xenstored);
    image.file(Path::new("lab/xenstored"), start.as_bytes())?;
    image.file(Path::new("etc/xen/oxenstored.conf"), settings.as_bytes())?;
    for suite in &asked.suites {
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
fn domain(built: &Built) -> Result<Vec<u8>> {
    let mut image = base(built, &GUEST_MODULES, DOMU_INIT)?;
    let loaded = built.loaded.join(" ");
    image.file(Path::new("lib/modules/load"), loaded.as_bytes())?;
    image.finish()
}

fn base(built: &Built, modules: &[&str], init: &str) -> Result<Image> {
    let parts = &built.parts;
    let mut image = Image::new()?;
    image.file(Path::new("init"), init.as_bytes())?;
    image.file(Path::new("lib/mounts.sh"), MOUNTS.as_bytes())?;
    image.copy(&parts.busybox, Path::new("bin/busybox"))?;
    image.file(Path::new("lab/bin/pv-stress"), &built.program)?;
    for (from, name) in &built.with {
        image.copy(from, &Path::new("lab").join(name))?;
    }
    let mut order = String::new();
    for (module, bytes) in parts.modules(modules)? {
        let bytes = match &built.gntdev {
            Some(own) if module == "xen_gntdev" => own,
            _ => &bytes,
        };
        image.file(Path::new(&format!("lib/modules/{module}.ko")), bytes)?;
        order.push_str(&module);
        order.push('\n');
    }
    image.file(Path::new("lib/modules/order"), order.as_bytes())?;
    for name in &built.modules {
        let mut needs = String::new();
        for (module, bytes) in parts.asked_modules(std::slice::from_ref(name))? {
            image.file(Path::new(&format!("lib/modules/{module}.ko")), &bytes)?;
            needs.push_str(&module);
            needs.push('\n');
        }
        let path = format!("lib/modules/needs/{}", name.replace('-', "_"));
        image.file(Path::new(&path), needs.as_bytes())?;
    }
    for (module, parameters) in MODULE_PARAMETERS {
        let path = format!("lib/modules/parameters/{module}");
        image.file(Path::new(&path), parameters.as_bytes())?;
    }
    image.file(Path::new("lab/bin/load-modules"), LOAD_MODULES.as_bytes())?;
    Ok(image)
}
