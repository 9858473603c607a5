//! The third consumer, as a process.

use super::{Agent, Member, Outcome};
use crate::consumer::{ConsumerConfig, run as serve};
use libgnt::PlatformChoice;
use pv_harness::holder::{HoldName, holder, kernel_holder};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// linux, or sim:DIR; without it the pages may be anybody's, and the holder a kernel's
    #[arg(long)]
    platform: Option<PlatformChoice>,
    /// The domain, on the simulated Xen
    #[arg(long, default_value_t = 0)]
    domain: u16,
    /// Where lenders find it
    #[arg(long)]
    socket: PathBuf,
    /// How to hold
    #[arg(long)]
    hold: HoldName,
    /// For how long
    #[arg(long, value_parser = humantime::parse_duration)]
    hold_for: Duration,
    /// And until the call that unmaps the pages has returned
    #[arg(long)]
    until_unmapped: bool,
    /// Holding pages on a PV guest is allowed
    #[arg(long)]
    allow_kernel_damage: bool,
}

pub(super) fn run(agent: &Agent, args: Args) -> Outcome {
    let Args {
        platform, domain, ..
    } = args;
    let holder = match platform {
        Some(platform) => {
            let platform = agent.join(&Member { platform, domain })?;
            holder(args.hold, &platform, args.allow_kernel_damage)?
        }
        None => kernel_holder(args.hold)?,
    };
    let config = ConsumerConfig {
        socket: args.socket,
        holder,
        hold_for: args.hold_for,
        until_unmapped: args.until_unmapped,
        timeline: agent.timeline.clone(),
    };
    serve(config, &agent.control)?;
    agent.control.send(&pv_harness::processes::News::Ledger {
        entries: Vec::new(),
    })?;
    Ok(())
}
