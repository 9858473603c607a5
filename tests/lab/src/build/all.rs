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
    if args.hold == Some(HoldName::Uring) && !parts.registers_grants_with_io_uring() {
        return Err(LabError::Run(Error::Usage(format!(
            "--hold uring needs a kernel that registers gntdev's pages with io_uring, and Linux {} refuses; add --kernel 6.12 or --kernel sid",
            parts.kernel_release()
        ))));
    }
    let emulator = Emulator::find(&args.qemu, packages)?;
    let program = program::program(args.agent.as_deref(), packages.cache, packages.progress)?;
    let gntdev = match args.gntdev {
        GntdevKind::Async => None,
        GntdevKind::Sync => Some(gntdev::synchronous(packages, &parts, work)?),
    };
    Ok(Built {
        parts,
        modules,
        with,
        emulator,
        program,
        gntdev,
    })
}
