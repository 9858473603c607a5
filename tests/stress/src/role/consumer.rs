//! The third consumer, as a process.

use super::{Outcome, RoleProcess};
use crate::consumer::{ConsumerConfig, run as serve};
use libgnt::grant::Totals;
use pv_harness::holder::{holder, kernel_holder};
use pv_harness::processes::News;
use pv_harness::settings::HoldName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// What the third consumer is to do. Without a home the pages may be anybody's, and the holder is a
/// kernel's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerTask {
    /// Where lenders find it.
    #[serde(with = "pv_harness::any_path")]
    pub socket: PathBuf,
    /// How to hold.
    pub hold: HoldName,
    /// For how long.
    pub hold_for: Duration,
    /// And until the call that unmaps the pages has returned.
    pub until_unmapped: bool,
    /// Holding pages on a PV guest is allowed.
    pub allow_kernel_damage: bool,
}

pub(super) fn run(process: &RoleProcess, task: ConsumerTask) -> Outcome {
    let holder = match &process.home {
        Some(_) => holder(task.hold, &process.join()?, task.allow_kernel_damage)?,
        None => kernel_holder(task.hold)?,
    };
    let config = ConsumerConfig {
        socket: task.socket,
        holder,
        hold_for: task.hold_for,
        until_unmapped: task.until_unmapped,
        timeline: process.timeline.clone(),
    };
    serve(config, &process.control)?;
    process.control.send(&News::Ledger {
        entries: Vec::new(),
        totals: Totals::default(),
    })?;
    Ok(())
}
