//! The simulated Xen's host with an embedded xenstore, as a process.

use super::{Outcome, RoleProcess};
use crate::settings::RunSabotage;
use libgnt::sim::core::{self, Config};
use pv_harness::host::start;
use pv_harness::processes::{News, Order};
use pv_harness::settings::{Guest, Unmap};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the host is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTask {
    /// The directory to serve.
    #[serde(with = "pv_harness::any_path")]
    pub dir: PathBuf,
    /// When unmaps wait.
    pub unmap: Unmap,
    /// What the domains are.
    pub guest: Guest,
}

pub(super) fn run(process: &RoleProcess, task: HostTask) -> Outcome {
    let mut config = Config::default();
    (config.unmap, config.guest) = (task.unmap.into(), task.guest.into());
    config.sabotage = process.sabotage.and_then(of_the_host);
    let host = start(&task.dir, config, None, process.timeline.clone())?;
    process.control.send(&News::Ready)?;
    // Ends with the order, or with the run.
    while !matches!(process.await_order("to stop"), Ok(Order::Stop) | Err(_)) {}
    host.stop()
}

fn of_the_host(sabotage: RunSabotage) -> Option<core::KernelSabotage> {
    match sabotage {
        RunSabotage::UnmapUnderHolder => Some(core::KernelSabotage::UnmapIgnoresReferences),
        RunSabotage::EarlyEvent => Some(core::KernelSabotage::EventBeforeUnmap),
        RunSabotage::HoldOutlivesOwner => Some(core::KernelSabotage::HoldOutlivesOwner),
        RunSabotage::ReuseWhileInUse => Some(core::KernelSabotage::ReuseWhileInUse),
        RunSabotage::VolatileDisk | RunSabotage::FlipBit => None,
    }
}
