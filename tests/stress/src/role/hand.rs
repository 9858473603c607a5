//! A hand, as a process: does what it is ordered, one order at a time.

use super::{Assignment, Home, Outcome, Part, Role, RoleProcess};
use libgnt::{DomId, PlatformChoice};
use pv_harness::hand::Hand;
use pv_harness::player::{HandProcess, play};
use pv_harness::processes::Start;
use pv_harness::timeline::Timeline;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// What a hand is to do, beside its orders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandTask {
    /// Record what is mapped, held and unmapped, as an end records its requests.
    pub record: bool,
}

pub(super) fn run(process: &RoleProcess, task: HandTask) -> Outcome {
    let platform = process.join()?;
    let facts = if task.record {
        process.timeline.clone()
    } else {
        Timeline::none()
    };
    let hand = Hand::new(platform, facts);
    Ok(play(hand, &process.control, &process.timeline)?)
}

/// Starts this program again as a hand outside of a run, in a domain (on a real Xen in this one).
/// It keeps no timeline.
///
/// # Errors
/// What fork and exec say; a simulated Xen, and no domain.
pub fn start_hand(
    name: &str,
    platform: &PlatformChoice,
    domid: Option<DomId>,
) -> io::Result<HandProcess> {
    let home = match (platform, domid) {
        (PlatformChoice::Linux, _) => Home::Xen,
        (PlatformChoice::Sim(dir), Some(domid)) => Home::Sim {
            dir: dir.clone(),
            domid,
        },
        (PlatformChoice::Sim(_), None) => {
            return Err(io::Error::other(
                "a simulated Xen does not say which domain this is",
            ));
        }
    };
    let start = Start {
        name: name.into(),
        parent: std::process::id(),
        timeline: PathBuf::from("/dev/null"),
        assignment: Assignment::Play(Part {
            home: Some(home),
            sabotage: None,
            role: Role::Hand(HandTask::default()),
        }),
    };
    HandProcess::start(&std::env::current_exe()?, &start)
}
