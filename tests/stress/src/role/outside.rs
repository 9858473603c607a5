//! Roles outside of a run.

use super::{Assignment, HandTask, Home, Part, Role};
use libgnt::{DomId, PlatformChoice};
use pv_harness::player::HandProcess;
use pv_harness::processes::Start;
use std::io;
use std::path::PathBuf;

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
