//! The third consumer, as a process.

use super::{Agent, Member, Outcome};
use crate::consumer::{ConsumerConfig, run as serve};
use crate::holder::{HoldName, holder};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where lenders find it
    #[arg(long)]
    socket: PathBuf,
    /// How to hold
    #[arg(long)]
    hold: HoldName,
    /// For how long
    #[arg(long, value_parser = humantime::parse_duration)]
    hold_for: Duration,
    /// Holding pages on a PV guest is allowed
    #[arg(long)]
    allow_kernel_damage: bool,
}

pub(super) fn run(agent: &Agent, member: &Member, args: Args) -> Outcome {
    let platform = agent.join(member)?;
    let config = ConsumerConfig {
        socket: args.socket,
        holder: holder(args.hold, &platform, args.allow_kernel_damage)?,
        hold_for: args.hold_for,
        timeline: agent.timeline.clone(),
    };
    serve(config, &agent.control)?;
    agent.control.send(&crate::world::News::Ledger {
        entries: Vec::new(),
    })?;
    Ok(())
}
