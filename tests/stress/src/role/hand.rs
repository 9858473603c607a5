//! A hand, as a process: does what it is ordered, one order at a time.

use super::{Outcome, RoleProcess};
use pv_harness::hand::Hand;
use pv_harness::player::play;
use pv_harness::timeline::Timeline;
use serde::{Deserialize, Serialize};

/// What a hand is to do, beside its orders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandTask {
    /// Record what is mapped, held and unmapped, as an end records its requests.
    pub record: bool,
    /// Holding pages on a PV guest is allowed.
    pub allow_kernel_damage: bool,
}

pub(super) fn run(process: &RoleProcess, task: HandTask) -> Outcome {
    let platform = process.join()?;
    let facts = if task.record {
        process.timeline.clone()
    } else {
        Timeline::none()
    };
    let hand = Hand::new(platform, facts).allow_kernel_damage(task.allow_kernel_damage);
    Ok(play(hand, &process.control, &process.timeline)?)
}
