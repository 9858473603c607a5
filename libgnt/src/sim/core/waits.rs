//! Blocked calls, and who waits for whom.
//!
//! Two calls can block: a munmap of the `Sync` mode, until nobody holds its pages; and the
//! release of an i915 hold, while an invalidation of the address space runs, which is what such a
//! munmap is in the middle of. That is the cycle of QubesOS/qubes-issues#7481.

use super::holds::Hold;
use super::unmap::WorkId;
use super::{Action, ConnId, KernelSabotage, Xen};
use crate::inspect::{Deadlock, WaitEdge};
use crate::sim::wire::{HoldId, Reply, SimError};
use crate::types::ForeignGrant;
use rustix::io::Errno;
use std::collections::BTreeSet;

/// Names one blocked call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaitId(pub u64);

/// A blocked call.
#[derive(Clone, Debug)]
pub(super) enum Wait {
    /// In munmap, in the middle of an invalidation of the caller's address space.
    Munmap {
        conn: ConnId,
        tag: Option<u64>,
        works: BTreeSet<WorkId>,
    },
    /// In the release of a hold, until no invalidation of `mm` runs.
    Release {
        conn: ConnId,
        tag: Option<u64>,
        hold: HoldId,
        mm: ConnId,
    },
}

impl Wait {
    pub(super) fn conn(&self) -> ConnId {
        match self {
            Wait::Munmap { conn, .. } | Wait::Release { conn, .. } => *conn,
        }
    }

    /// False for a munmap from a `Drop`: the process goes on meanwhile.
    fn blocks_its_process(&self) -> bool {
        match self {
            Wait::Munmap { tag, .. } | Wait::Release { tag, .. } => tag.is_some(),
        }
    }
}

impl Xen {
    pub(super) fn invalidation_running(&self, mm: ConnId) -> bool {
        self.waits
            .values()
            .any(|w| matches!(w, Wait::Munmap { conn, .. } if *conn == mm))
    }

    /// This unmap has to be done before the munmap returns.
    pub(super) fn block_on(&mut self, wait: WaitId, work: WorkId) {
        if let Some(Wait::Munmap { works, .. }) = self.waits.get_mut(&wait) {
            works.insert(work);
        }
    }

    /// A munmap that began just now: blocked, if any unmap is left to wait for.
    pub(super) fn still_blocked(&mut self, wait: WaitId) -> Option<WaitId> {
        match self.waits.get(&wait) {
            Some(Wait::Munmap { works, .. }) if works.is_empty() => {
                self.waits.remove(&wait);
                None
            }
            Some(_) => Some(wait),
            None => None,
        }
    }

    /// One of the unmaps that a munmap waits for is done; with the last, the munmap returns.
    pub(super) fn work_done(&mut self, wait: WaitId, work: WorkId) {
        if let Some(Wait::Munmap { works, .. }) = self.waits.get_mut(&wait)
            && works.remove(&work)
            && works.is_empty()
        {
            self.end_munmap(wait, Ok(Reply::Done));
        }
    }

    /// A munmap returns: its invalidation is over, and whoever waited for that goes on.
    fn end_munmap(&mut self, wait: WaitId, result: Result<Reply, SimError>) {
        let Some(Wait::Munmap { conn, tag, works }) = self.waits.remove(&wait) else {
            return;
        };
        for work in works {
            self.make_asynchronous(work);
        }
        self.reply_to(conn, tag, result, Vec::new());
        self.wake_releases(conn);
    }

    fn wake_releases(&mut self, ended: ConnId) {
        if self.invalidation_running(ended) || self.sabotaged(KernelSabotage::LostWakeup) {
            return;
        }
        let waiting = |w: &Wait| matches!(w, Wait::Release { mm, .. } if *mm == ended);
        let woken = self.waits.iter().filter(|(_, w)| waiting(w));
        let woken: Vec<_> = woken.map(|(id, _)| *id).collect();
        for id in woken {
            let Some(Wait::Release {
                conn, tag, hold, ..
            }) = self.waits.remove(&id)
            else {
                continue;
            };
            self.drop_hold(hold);
            self.reply_to(conn, tag, Ok(Reply::Done), Vec::new());
        }
    }

    /// A process dies in its calls: nobody is to be told. Its unmaps go on by themselves, and
    /// with its address space its invalidations are over (`mmu_notifier_release`).
    pub(super) fn abandon_waits(&mut self, dying: ConnId) {
        let calls = self.waits.iter().filter(|(_, w)| w.conn() == dying);
        let calls: Vec<_> = calls.map(|(id, _)| *id).collect();
        for id in calls {
            match self.waits.remove(&id) {
                Some(Wait::Munmap { works, .. }) => {
                    works
                        .into_iter()
                        .for_each(|work| self.make_asynchronous(work));
                }
                Some(Wait::Release { hold, .. }) => {
                    if let Some(hold) = self.holds.get_mut(&hold) {
                        hold.releasing = None;
                    }
                }
                None => {}
            }
        }
        self.wake_releases(dying);
    }

    /// Finds every cycle of waits, reports it, and breaks it: its munmap fails with EDEADLK, and
    /// its unmap goes on by itself.
    pub(super) fn break_deadlocks(&mut self) {
        while let Some(cycle) = self.find_cycle() {
            let edges: Vec<_> = (0..cycle.len())
                .filter_map(|n| self.edge(cycle[n], cycle[(n + 1) % cycle.len()]))
                .collect();
            let is_munmap = |id: &WaitId| matches!(self.waits.get(id), Some(Wait::Munmap { .. }));
            let Some(victim) = cycle.iter().copied().find(is_munmap) else {
                return;
            };
            let error = SimError {
                errno: Errno::DEADLK.raw_os_error(),
                detail: "the wait could never have ended".into(),
                cycle: edges.iter().map(WaitEdge::to_string).collect(),
            };
            let at_ms = self.now.as_millis() as u64;
            self.out.push(Action::Deadlock(Deadlock { at_ms, edges }));
            self.end_munmap(victim, Err(error));
        }
    }

    /// A cycle of the wait-for graph, the munmap first.
    fn find_cycle(&self) -> Option<Vec<WaitId>> {
        let munmaps = self
            .waits
            .iter()
            .filter(|(_, w)| matches!(w, Wait::Munmap { .. }));
        // Every cycle has a munmap: a release waits for nothing else.
        munmaps
            .map(|(id, _)| *id)
            .find_map(|start| self.path_back_to(start))
    }

    fn path_back_to(&self, start: WaitId) -> Option<Vec<WaitId>> {
        let mut seen = BTreeSet::new();
        let mut path = vec![(start, self.waits_for(start).into_iter())];
        while let Some((_, next)) = path.last_mut() {
            match next.next() {
                Some(id) if id == start => return Some(path.iter().map(|(id, _)| *id).collect()),
                Some(id) if seen.insert(id) => path.push((id, self.waits_for(id).into_iter())),
                Some(_) => {}
                None => {
                    path.pop();
                }
            }
        }
        None
    }

    /// The blocked calls that have to go on before this one can.
    ///
    /// A process counts as one thread: while it is in a blocked call, it drops nothing that it
    /// holds. A hold that nobody has attached to may be taken by anybody, so nobody waits for
    /// its pinner.
    fn waits_for(&self, id: WaitId) -> Vec<WaitId> {
        match self.waits.get(&id) {
            None => Vec::new(),
            Some(Wait::Release { mm, .. }) => {
                let runs = |w: &Wait| matches!(w, Wait::Munmap { conn, .. } if conn == mm);
                self.waits
                    .iter()
                    .filter(|(_, w)| runs(w))
                    .map(|(id, _)| *id)
                    .collect()
            }
            Some(Wait::Munmap { .. }) => {
                let mut found = BTreeSet::new();
                for (hold, _) in self.holds_in_the_way(id) {
                    match self.holds.get(&hold) {
                        Some(Hold {
                            releasing: Some(wait),
                            ..
                        }) => {
                            found.insert(*wait);
                        }
                        Some(hold) if hold.attached => found.extend(self.calls_of(hold.owner)),
                        _ => {}
                    }
                }
                found.into_iter().collect()
            }
        }
    }

    fn calls_of(&self, owner: ConnId) -> impl Iterator<Item = WaitId> {
        let blocked = self
            .waits
            .iter()
            .filter(move |(_, w)| w.conn() == owner && w.blocks_its_process());
        blocked.map(|(id, _)| *id)
    }

    /// The holds that a munmap waits for, and the process that has each.
    fn holds_in_the_way(&self, munmap: WaitId) -> Vec<(HoldId, ConnId)> {
        let Some(Wait::Munmap { works, .. }) = self.waits.get(&munmap) else {
            return Vec::new();
        };
        let works: Vec<_> = works.iter().filter_map(|id| self.works.get(id)).collect();
        let in_the_way = |h: &Hold| {
            works
                .iter()
                .any(|w| w.map == h.map && h.overlaps(w.first_page, w.end()))
        };
        let holds = self.holds.iter().filter(|(_, h)| in_the_way(h));
        holds.map(|(id, h)| (*id, h.owner)).collect()
    }

    /// The edge from one blocked call to the next in the cycle, in words.
    fn edge(&self, from: WaitId, to: WaitId) -> Option<WaitEdge> {
        let owner = self.process_name(self.waits.get(&to)?.conn());
        Some(match self.waits.get(&from)? {
            Wait::Munmap { conn, .. } => {
                let next = self.waits.get(&to)?.conn();
                let holds = self.holds_in_the_way(from).into_iter();
                let grants = holds
                    .filter(|(_, o)| *o == next)
                    .filter_map(|(id, _)| self.held(id));
                let grants: BTreeSet<_> = grants.flatten().collect();
                WaitEdge {
                    waiter: self.process_name(*conn),
                    call: "munmap".into(),
                    holds: "the running invalidation of its address space".into(),
                    waits_for: format!("page references of {}", list(grants)),
                    owner,
                }
            }
            Wait::Release { conn, hold, .. } => WaitEdge {
                waiter: self.process_name(*conn),
                call: "the release of a pinned buffer".into(),
                holds: format!(
                    "page references of {}",
                    list(self.held(*hold).into_iter().flatten().collect())
                ),
                waits_for: format!("the end of the invalidation of {owner}'s address space"),
                owner,
            },
        })
    }

    /// The grants behind a hold.
    pub(super) fn held(&self, id: HoldId) -> Option<impl Iterator<Item = ForeignGrant> + '_> {
        let hold = self.holds.get(&id)?;
        let map = self.maps.get(&hold.map)?;
        let pages = map
            .pages
            .iter()
            .skip(hold.first_page as usize)
            .take(hold.pages as usize);
        Some(pages.map(|p| p.grant))
    }
}

/// Some grants, in few words.
fn list(grants: BTreeSet<ForeignGrant>) -> String {
    match grants.iter().next() {
        None => "no grant".into(),
        Some(first) if grants.len() == 1 => first.to_string(),
        Some(first) => format!("{first} and {} more", grants.len() - 1),
    }
}
