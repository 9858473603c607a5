//! The life of a request's pages, put together from what four processes recorded:
//! granted → mapped → held → unmapping → released → reused.

use libgnt::types::{ForeignGrant, GrantRef};
use pv_harness::timeline::{Event, Record};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What became of one mapped request. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLife {
    /// The back end's number for the request.
    pub request: u64,
    /// Its pages.
    pub grants: Vec<ForeignGrant>,
    /// The third consumer's hold, if it got the pages.
    pub hold: Option<u64>,
    /// The front end's number for the request.
    pub front_request: Option<u64>,
    /// SHA-256 of what the front end wrote.
    pub written_sha: Option<String>,
    /// What the consumer read, each time it looked.
    pub seen_shas: Vec<String>,
    /// The front end put the request on the ring.
    pub submitted: Option<u64>,
    /// Mapped by the back end.
    pub mapped: u64,
    /// The consumer has it.
    pub held: Option<u64>,
    /// The unmap call began.
    pub unmap_began: Option<u64>,
    /// It returned.
    pub unmap_returned: Option<u64>,
    /// How long it took.
    pub unmap_took_us: Option<u64>,
    /// The consumer began its release.
    pub hold_releasing: Option<u64>,
    /// The consumer's release returned.
    pub hold_released: Option<u64>,
    /// The back end learnt that the hypervisor has unmapped.
    pub released: Option<u64>,
    /// The back end answered.
    pub answered: Option<u64>,
    /// The front end took the answer.
    pub acknowledged: Option<u64>,
    /// The hypervisor still showed pages in use at the front end's check after the answer.
    pub in_use_after: Vec<GrantRef>,
    /// The front end used one of the pages for another request.
    pub reused: Option<u64>,
}

impl RequestLife {
    /// Was the unmap called while the consumer held the pages?
    pub fn unmapped_while_held(&self) -> bool {
        match (self.hold, self.unmap_began, self.hold_releasing) {
            (Some(_), Some(began), Some(releasing)) => began < releasing,
            // Held, and never given back by the consumer itself.
            (Some(_), Some(_), None) => self.held.is_some(),
            _ => false,
        }
    }
}

/// Numbers are unique in a process, not among processes: a restarted back end counts anew.
type Key = (u32, u64);

/// Puts the lives together from records in order of time.
pub fn lives(records: &[Record]) -> Vec<RequestLife> {
    let mut lives: Vec<RequestLife> = Vec::new();
    let mut by_request: HashMap<Key, usize> = HashMap::new();
    let mut by_hold: HashMap<u64, usize> = HashMap::new();
    let mut front = Front::default();
    for record in records {
        let key = |request: u64| (record.pid, request);
        let at = record.ns;
        match &record.event {
            Event::Mapped {
                request,
                id,
                grants,
            } => {
                by_request.insert(key(*request), lives.len());
                lives.push(RequestLife {
                    request: *request,
                    front_request: Some(*id),
                    grants: grants.clone(),
                    mapped: at,
                    ..RequestLife::default()
                });
            }
            Event::Lent { request, hold, .. } => {
                if let Some(&index) = by_request.get(&key(*request)) {
                    by_hold.insert(*hold, index);
                    lives[index].hold = Some(*hold);
                }
            }
            Event::UnmapBegan { request, .. } => {
                set(&mut lives, by_request.get(&key(*request)), |l| {
                    l.unmap_began = Some(at)
                });
            }
            Event::UnmapReturned {
                request, took_us, ..
            } => {
                set(&mut lives, by_request.get(&key(*request)), |l| {
                    l.unmap_returned = Some(at);
                    l.unmap_took_us = Some(*took_us);
                });
            }
            Event::Released { request } => {
                set(&mut lives, by_request.get(&key(*request)), |l| {
                    l.released = Some(at)
                });
            }
            Event::Answered { request, .. } => {
                set(&mut lives, by_request.get(&key(*request)), |l| {
                    l.answered = Some(at)
                });
            }
            Event::Held { hold, .. } => set(&mut lives, by_hold.get(hold), |l| l.held = Some(at)),
            Event::Checksum {
                hold,
                sha: Some(sha),
            } => {
                set(&mut lives, by_hold.get(hold), |l| {
                    l.seen_shas.push(sha.clone())
                });
            }
            Event::HoldReleasing { hold } => {
                set(&mut lives, by_hold.get(hold), |l| {
                    l.hold_releasing = Some(at)
                });
            }
            Event::HoldReleased { hold, .. } => {
                set(&mut lives, by_hold.get(hold), |l| {
                    l.hold_released = Some(at)
                });
            }
            _ => front.note(record),
        }
    }
    for life in &mut lives {
        front.complete(life);
    }
    lives
}

fn set(lives: &mut [RequestLife], index: Option<&usize>, change: impl FnOnce(&mut RequestLife)) {
    if let Some(life) = index.and_then(|index| lives.get_mut(*index)) {
        change(life);
    }
}

/// What the front ends did.
#[derive(Default)]
struct Front {
    /// Who submitted a number, and when: a restarted front end counts anew.
    submitted: HashMap<u64, Vec<Use>>,
    uses: HashMap<GrantRef, Vec<Use>>,
    shas: HashMap<Key, String>,
    taken: HashMap<Key, u64>,
    in_use: HashMap<Key, Vec<GrantRef>>,
}

#[derive(Clone, Copy)]
struct Use {
    at: u64,
    by: Key,
}

impl Front {
    fn note(&mut self, record: &Record) {
        let at = record.ns;
        match &record.event {
            Event::Submitted {
                request,
                grefs,
                sha,
                ..
            } => {
                let by = (record.pid, *request);
                self.submitted
                    .entry(*request)
                    .or_default()
                    .push(Use { at, by });
                for gref in grefs {
                    self.uses.entry(*gref).or_default().push(Use { at, by });
                }
                if let Some(sha) = sha {
                    self.shas.insert(by, sha.clone());
                }
            }
            Event::AnswerTaken { request } => {
                self.taken.insert((record.pid, *request), at);
            }
            Event::InUseAfterAnswer { request, in_use } => {
                self.in_use.insert((record.pid, *request), in_use.clone());
            }
            _ => {}
        }
    }

    fn complete(&self, life: &mut RequestLife) {
        let all = life.front_request.and_then(|id| self.submitted.get(&id));
        let Some(all) = all.filter(|all| !all.is_empty()) else {
            return;
        };
        // The front end records after it has told the ring, so the back end may seem the faster.
        let before = all.partition_point(|u| u.at <= life.mapped);
        let own = all[before.saturating_sub(1)];
        life.submitted = Some(own.at);
        life.written_sha = self.shas.get(&own.by).cloned();
        life.acknowledged = self.taken.get(&own.by).copied();
        life.in_use_after = self.in_use.get(&own.by).cloned().unwrap_or_default();
        life.reused = life
            .grants
            .iter()
            .filter_map(|grant| {
                let uses = self.uses.get(&grant.gref)?;
                uses.iter()
                    .find(|u| u.at > own.at && u.by != own.by)
                    .map(|u| u.at)
            })
            .min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture;

    #[test]
    fn a_life_is_put_together_from_all_processes() {
        let lives = lives(&fixture::good());
        assert_eq!(lives.len(), 2);
        let held = &lives[0];
        assert_eq!(held.hold, Some(100));
        assert!(held.unmapped_while_held());
        assert_eq!(
            (held.submitted, held.mapped, held.held, held.unmap_began),
            (Some(10), 20, Some(30), Some(40))
        );
        assert_eq!((held.hold_releasing, held.released), (Some(90), Some(100)));
        assert_eq!(
            (held.answered, held.acknowledged, held.reused),
            (Some(110), Some(120), Some(130))
        );
        assert_eq!(held.seen_shas.len(), 2);
        assert!(!lives[1].unmapped_while_held());
        assert_eq!(lives[1].acknowledged, Some(80));
        assert_eq!(lives[1].reused, None);
    }
}
