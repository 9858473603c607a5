//! The simulated Xen's host with an embedded xenstore, as a process.

use super::{Agent, Outcome};
use crate::settings::Sabotage;
use libgnt::sim::core::{self, Config};
use pv_harness::host::start;
use pv_harness::processes::{News, Order};
use pv_harness::settings::Unmap;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory to serve
    #[arg(long)]
    dir: PathBuf,
    /// When unmaps wait
    #[arg(long)]
    unmap: Unmap,
}

pub(super) fn run(agent: &Agent, args: Args) -> Outcome {
    let mut config = Config::default();
    config.unmap = args.unmap.into();
    config.sabotage = agent.sabotage.and_then(of_the_host);
    let host = start(&args.dir, config, None, agent.timeline.clone())?;
    agent.control.send(&News::Ready)?;
    // Ends with the order, or with the run.
    while !matches!(agent.await_order("to stop"), Ok(Order::Stop) | Err(_)) {}
    host.stop()
}

fn of_the_host(sabotage: Sabotage) -> Option<core::KernelSabotage> {
    match sabotage {
        Sabotage::UnmapUnderHolder => Some(core::KernelSabotage::UnmapIgnoresReferences),
        Sabotage::EarlyEvent => Some(core::KernelSabotage::EventBeforeUnmap),
        Sabotage::HoldOutlivesOwner => Some(core::KernelSabotage::HoldOutlivesOwner),
        Sabotage::ReuseWhileInUse => Some(core::KernelSabotage::ReuseWhileInUse),
        Sabotage::VolatileDisk | Sabotage::FlipBit => None,
    }
}
