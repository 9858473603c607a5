//! A run that hangs: what its kernels keep, and what SIGKILL changes.

use super::Stage;
use pv_harness::processes::{Autopsy, Blocked};
use pv_harness::timeline::{Event, Record};
use pv_judges::checks::{Emptied, Evidence, Kill, Standstill, advice, standstill};
use std::time::Duration;

/// What is known of it.
#[derive(Default)]
pub struct Hang {
    /// The processes that do not end.
    pub hung: Vec<Autopsy>,
    /// What the kernels below them keep.
    pub blocked: Vec<Blocked>,
    /// A kernel in which tasks wait that nobody will wake.
    pub standstill: Option<Standstill>,
    kills: Vec<Kill>,
    emptied: Vec<Emptied>,
}

impl Hang {
    /// At the deadline. Where a kernel stands still its processes are killed, and looked at again; if that
    /// did not help, what an operator is told to do is tried.
    pub fn of(stage: &mut Stage<'_>, hung: &[Autopsy], blocked: &[Blocked]) -> Hang {
        let standstill = standstill(hung, blocked);
        let kills = if standstill.is_some() {
            stage.kill_hung(hung)
        } else {
            Vec::new()
        };
        let has_helped = kills.iter().any(|kill| kill.free.is_some());
        let emptied = if standstill.is_some() && !has_helped {
            stage.empty_pipes(hung)
        } else {
            Vec::new()
        };
        Hang {
            hung: hung.to_vec(),
            blocked: blocked.to_vec(),
            standstill,
            kills,
            emptied,
        }
    }

    /// Of processes that did not stop when they were told to: by now they are killed.
    pub fn at_end(evidence: &Evidence) -> Hang {
        let aftermath = &evidence.aftermath;
        Hang {
            standstill: standstill(&aftermath.hung, &aftermath.blocked),
            hung: aftermath.hung.clone(),
            blocked: aftermath.blocked.clone(),
            kills: Vec::new(),
            emptied: Vec::new(),
        }
    }

    /// What is left when everybody is gone who goes.
    pub fn take_left(&mut self, evidence: &Evidence) {
        for kill in &mut self.kills {
            kill.returned = returned(&evidence.records, kill.at, &kill.process.process);
        }
        if let Some(found) = &mut self.standstill {
            let left = left(evidence);
            let after = advice(found, &self.hung, &self.kills, &self.emptied, left);
            found.after_kill = Some(after);
        }
    }
}

/// How long after a kill the first unmap of another process returned that had begun before.
fn returned(records: &[Record], at: u64, killed: &str) -> Option<Duration> {
    let began = records.iter().filter(|record| record.ns < at);
    let began: Vec<_> = began
        .filter_map(|record| match record.event {
            Event::UnmapBegan { request, .. } => Some((&record.process, request)),
            _ => None,
        })
        .collect();
    let returned = |record: &&Record| match record.event {
        Event::UnmapReturned { request, .. } => began.contains(&(&record.process, request)),
        _ => false,
    };
    let after = records.iter().filter(|record| record.ns >= at);
    let first = after
        .filter(|record| record.process != killed)
        .find(returned)?;
    Some(Duration::from_nanos(first.ns - at))
}

/// Grants and event channels that stay in use.
fn left(evidence: &Evidence) -> Vec<String> {
    let mut left = Vec::new();
    match &evidence.inspection {
        Some(state) => left.extend(state.grants.iter().map(|state| {
            let (grant, peer, maps) = (state.grant, state.peer, state.maps);
            format!("{grant}, which {peer} maps {maps} times")
        })),
        None => left.push("grants: the hypervisor did not say which".into()),
    }
    match &evidence.channels {
        Some(channels) => left.extend(channels.iter().cloned()),
        None => left.push("event channels: nobody said which".into()),
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::inspect::{GrantState, Inspection};
    use libgnt::types::{Access, DomId, ForeignGrant, GrantRef};

    #[test]
    fn the_return_of_the_unmap_that_hung_is_timed_from_the_kill() {
        let unmap = |request, returned| match returned {
            false => Event::UnmapBegan {
                request,
                grants: vec![],
            },
            true => Event::UnmapReturned {
                request,
                took_us: 1,
                error: None,
            },
        };
        let record = |(ns, process, event): (u64, &str, Event)| Record {
            ns,
            process: process.into(),
            pid: 1,
            event,
        };
        let history = [
            (10, "back-end", unmap(1, false)),
            (20, "back-end", unmap(1, true)),
            (30, "back-end", unmap(2, false)),
            (110, "back-end", unmap(3, false)),
            (120, "back-end", unmap(3, true)),
            (150, "back-end", unmap(2, true)),
        ];
        let mut records: Vec<Record> = history.into_iter().map(record).collect();
        let took = returned(&records, 100, "consumer");
        assert_eq!(took, Some(Duration::from_nanos(50)));
        assert_eq!(returned(&records, 100, "back-end"), None, "its own");
        records.pop();
        assert_eq!(
            returned(&records, 100, "consumer"),
            None,
            "it did not return"
        );
    }

    #[test]
    fn what_is_left_is_named_and_what_was_not_asked_is_not_taken_for_nothing() {
        let mut evidence = Evidence::default();
        assert_eq!(left(&evidence).len(), 2);
        evidence.channels = Some(vec!["port 7 of domain back".into()]);
        let grants = vec![GrantState {
            grant: ForeignGrant {
                domid: DomId(1),
                gref: GrantRef(9),
            },
            peer: DomId(2),
            access: Access::ReadOnly,
            maps: 1,
            ending: false,
        }];
        evidence.inspection = Some(Inspection {
            grants,
            ..Inspection::default()
        });
        let left = left(&evidence);
        assert!(left[0].contains("0x9") && left[0].contains("maps 1 times"));
        assert_eq!(left[1..], ["port 7 of domain back"]);
    }
}
