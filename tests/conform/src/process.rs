//! One rule, in a process of its own: this program, started again by itself.

use super::bench::Bench;
use super::member::{Member, StartHand};
use super::outcome::{Outcome, Stop};
use super::rules;
use libgnt::DomId;
use pv_harness::error::{Error, Result};
use pv_harness::processes::die_with_parent;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// One process of the suite.
#[derive(Debug, clap::Subcommand)]
pub enum Process {
    /// Tries one rule
    Rule {
        /// Which
        name: String,
        /// As which domain
        #[command(flatten)]
        member: Member,
        /// The partner's domain
        #[arg(long)]
        peer: u16,
        /// The pid that started this
        #[arg(long)]
        parent: u32,
        /// Holding pages on a PV guest is allowed
        #[arg(long)]
        allow_kernel_damage: bool,
    },
}

/// What a rule's process says on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// The check's end.
    pub outcome: Outcome,
}

/// Runs one process to its end.
///
/// # Errors
/// [`Error::Environment`].
pub fn run(process: Process, start: StartHand) -> Result<()> {
    let cannot =
        |error: std::io::Error| Error::environment("pv-stress", error, "use `pv-stress conform`");
    match process {
        Process::Rule {
            name,
            member,
            peer,
            parent,
            allow_kernel_damage,
        } => {
            die_with_parent(parent).map_err(cannot)?;
            let outcome = check(&name, member, DomId(peer), start, allow_kernel_damage);
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &Said { outcome })
                .map_err(std::io::Error::from)
                .and_then(|()| out.flush())
                .map_err(cannot)
        }
    }
}

fn check(name: &str, member: Member, peer: DomId, start: StartHand, damage: bool) -> Outcome {
    let rule = rules::find(name).ok_or_else(|| Stop::Broken(format!("no rule {name}")))?;
    let platform = member.join(name)?;
    let own = member
        .domid(&*platform)
        .map_err(|error| Stop::Broken(error.to_string()))?;
    (rule.check)(&Bench::new(platform, member, start, (own, peer), damage))
}
