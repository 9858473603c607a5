//! Everything that a machine is made of, found, fetched and built in order.

use super::emulator::Emulator;
use super::parts::Parts;
use super::{ext4, gntdev, program};
use crate::ask::Asked;
use crate::ask::suite::PEERS_MODULES;
use crate::ask::words::{GntdevKind, SuiteName};
use crate::error::{LabError, Result};
use crate::fetch::packages::Packages;
use pv_harness::error::Error;
use pv_harness::holder::HoldName;
use std::path::{Path, PathBuf};

/// What the images and the machine are made of.
pub struct Built {
    /// The hypervisor, the kernel and the toolstack.
    pub parts: Parts,
    /// Kernel modules to bring along.
    pub modules: Vec<String>,
    /// Those of them that the domains load at their start, because a holder needs them.
    pub loaded: Vec<String>,
    /// Files for dom0 and the domains: content's place here, and its name in `/lab`.
    pub with: Vec<(PathBuf, String)>,
    /// What emulates the machine.
    pub emulator: Emulator,
    /// The statically linked pv-stress.
    pub program: Vec<u8>,
    /// A gntdev module instead of the kernel's own.
    pub gntdev: Option<Vec<u8>>,
}

/// Fetches and builds what was asked for. `work` is for what is only needed meanwhile.
///
/// # Errors
/// What was missing, or could not be built.
pub fn build(asked: &Asked<'_>, packages: &Packages<'_>, work: &Path) -> Result<Built> {
    let args = asked.args;
    let parts = Parts::fetch(packages, asked.xen, &args.kernel)?;
    // Found out before anything is built.
    parts.asked_modules(&args.modules)?;
    let (mut modules, mut with) = (args.modules.clone(), asked.with.clone());
    let peers = SuiteName::Peers.to_string();
    if asked.suites.iter().any(|suite| suite.name == peers) {
        // What this kernel has built in, it need not be brought.
        let brought = PEERS_MODULES
            .into_iter()
            .filter(|name| parts.has_module(name));
        modules.extend(brought.map(str::to_owned));
        with.extend(ext4::files(packages, asked.xen)?);
    }
    if let Some(hold) = args.hold {
        check_hold(&parts, hold)?;
    }
    let loaded = holders_modules(&parts, &asked.holders);
    modules.extend(loaded.iter().cloned());
    let emulator = Emulator::find(&args.qemu, packages)?;
    let program = program::program(args.agent.as_deref(), packages.cache, packages.progress)?;
    let gntdev = match args.gntdev {
        GntdevKind::Async => None,
        GntdevKind::Sync => Some(gntdev::synchronous(packages, &parts, work)?),
    };
    Ok(Built {
        parts,
        modules,
        loaded,
        with,
        emulator,
        program,
        gntdev,
    })
}

/// What a kernel asks modprobe for when it uses a module, and the domains have no modprobe: rxe of 6.1
/// and 6.12 wants the algorithm `crc32` (`rxe_icrc_init`, `drivers/infiniband/sw/rxe/rxe_icrc.c`), and
/// later ones have it built in.
const ASKED_FOR: [(&str, &str); 1] = [("rdma_rxe", "crc32_generic")];

/// A holder that was named must be one that this kernel can have.
fn check_hold(parts: &Parts, hold: HoldName) -> Result<()> {
    if let Some((major, minor)) = hold.since().filter(|since| !parts.is_since(*since)) {
        return Err(LabError::Run(Error::Usage(format!(
            "--hold {hold} needs Linux {major}.{minor}, and this is {}; name a newer one with --kernel, such as sid",
            parts.kernel_release()
        ))));
    }
    let modules: Vec<String> = hold.modules().iter().map(ToString::to_string).collect();
    parts.asked_modules(&modules).map(drop)
}

/// The modules of these holders that this kernel has. What lacks one is refused in the domain.
fn holders_modules(parts: &Parts, holders: &[HoldName]) -> Vec<String> {
    let can = |hold: &&HoldName| hold.since().is_none_or(|since| parts.is_since(since));
    let mut all: Vec<String> = Vec::new();
    for module in holders.iter().filter(can).flat_map(|hold| hold.modules()) {
        let asked_for = ASKED_FOR.iter().filter(|(by, _)| by == module);
        for name in asked_for.map(|(_, name)| *name).chain([*module]) {
            if parts.has_module(name) && !all.iter().any(|have| have == name) {
                all.push(name.to_owned());
            }
        }
    }
    all
}
