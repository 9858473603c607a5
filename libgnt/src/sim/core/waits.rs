//! Blocked calls, and who waits for whom.
//!
//! Two kinds of calls can block: one that unmaps in the `Sync` mode, until nobody holds its pages;
//! and the release of an i915 hold, while an invalidation of the address space runs. On PV the
//! former is a munmap in the middle of just that, for its gntdev unmaps in the notifier
//! (`gntdev_invalidate`): the cycle of QubesOS/qubes-issues#7481. Elsewhere it is the call that ends
//! the map's last use (`gntdev_put_map`), when no invalidation runs.

use super::holds::Hold;
use super::unmap::WorkId;
use super::xen::{Answer, Outcome, done};
use super::{Action, ConnId, KernelSabotage, Xen};
use crate::inspect::{Deadlock, WaitEdge};
use crate::sim::wire::{HoldId, Reply, SimError, UnmapMode};
use crate::types::ForeignGrant;
use rustix::io::Errno;
use std::collections::BTreeSet;

/// Names one blocked call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaitId(pub u64);

/// A blocked call.
#[derive(Clone, Debug)]
pub(super) enum Wait {
    /// In a call that unmaps.
    Unmap {
        conn: ConnId,
        tag: Option<u64>,
        call: &'static str,
        /// In the middle of an invalidation of the caller's address space.
        invalidation: bool,
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
            Wait::Unmap { conn, .. } | Wait::Release { conn, .. } => *conn,
        }
    }

    /// False for an unmap from a `Drop`: the process goes on meanwhile.
    fn blocks_its_process(&self) -> bool {
        match self {
            Wait::Unmap { tag, .. } | Wait::Release { tag, .. } => tag.is_some(),
        }
    }

    /// An invalidation of this address space runs in it.
    fn invalidates(&self, mm: ConnId) -> bool {
        matches!(self, Wait::Unmap { conn, invalidation: true, .. } if *conn == mm)
    }
}

impl Xen {
    pub(super) fn invalidation_running(&self, mm: ConnId) -> bool {
        self.waits.values().any(|w| w.invalidates(mm))
    }

    /// Does a call that may unmap. In the `Sync` mode it is blocked if any unmap is left to wait for
    /// then.
    pub(super) fn may_block(
        &mut self,
        (conn, tag): (ConnId, Option<u64>),
        call: &'static str,
        invalidation: bool,
        act: impl FnOnce(&mut Xen, Option<WaitId>),
    ) -> Outcome {
        if self.config.unmap == UnmapMode::Async {
            act(self, None);
            return done();
        }
        let wait = WaitId(self.fresh_id());
        let works = BTreeSet::new();
        let begun = Wait::Unmap {
            conn,
            tag,
            call,
            invalidation,
            works,
        };
        self.waits.insert(wait, begun);
        act(self, Some(wait));
        match self.waits.get(&wait) {
            Some(Wait::Unmap { works, .. }) if !works.is_empty() => Ok(Answer::Blocked),
            _ => {
                self.waits.remove(&wait);
                done()
            }
        }
    }

    /// This unmap has to be done before the call returns.
    pub(super) fn block_on(&mut self, wait: WaitId, work: WorkId) {
        if let Some(Wait::Unmap { works, .. }) = self.waits.get_mut(&wait) {
            works.insert(work);
        }
    }

    /// One of the unmaps that a call waits for is done; with the last, it returns.
    pub(super) fn work_done(&mut self, wait: WaitId, work: WorkId) {
        if let Some(Wait::Unmap { works, .. }) = self.waits.get_mut(&wait)
            && works.remove(&work)
            && works.is_empty()
        {
            self.end_unmap(wait, Ok(Reply::Done));
        }
    }

    /// A call returns: its invalidation is over, and whoever waited for that goes on.
    fn end_unmap(&mut self, wait: WaitId, result: Result<Reply, SimError>) {
        let Some(Wait::Unmap {
            conn, tag, works, ..
        }) = self.waits.remove(&wait)
        else {
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
                Some(Wait::Unmap { works, .. }) => {
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

    /// Finds every cycle of waits, reports it, and breaks it: its unmapping call fails with EDEADLK,
    /// and its unmap goes on by itself.
    pub(super) fn break_deadlocks(&mut self) {
        while let Some(cycle) = self.find_cycle() {
            let edges: Vec<_> = (0..cycle.len())
                .filter_map(|n| self.edge(cycle[n], cycle[(n + 1) % cycle.len()]))
                .collect();
            let unmaps = |id: &WaitId| matches!(self.waits.get(id), Some(Wait::Unmap { .. }));
            let Some(victim) = cycle.iter().copied().find(unmaps) else {
                return;
            };
            let error = SimError {
                errno: Errno::DEADLK.raw_os_error(),
                detail: "the wait could never have ended".into(),
                cycle: edges.iter().map(WaitEdge::to_string).collect(),
            };
            let at_ms = self.now.as_millis() as u64;
            self.out.push(Action::Deadlock(Deadlock { at_ms, edges }));
            self.end_unmap(victim, Err(error));
        }
    }

    /// A cycle of the wait-for graph, an unmapping call first.
    fn find_cycle(&self) -> Option<Vec<WaitId>> {
        let unmaps = self
            .waits
            .iter()
            .filter(|(_, w)| matches!(w, Wait::Unmap { .. }));
        // Every cycle has one: a release waits for nothing else.
        unmaps
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
                let running = self.waits.iter().filter(|(_, w)| w.invalidates(*mm));
                running.map(|(id, _)| *id).collect()
            }
            Some(Wait::Unmap { .. }) => {
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

    /// The holds that an unmapping call waits for, and the process that has each.
    fn holds_in_the_way(&self, unmap: WaitId) -> Vec<(HoldId, ConnId)> {
        let Some(Wait::Unmap { works, .. }) = self.waits.get(&unmap) else {
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
            Wait::Unmap {
                conn,
                call,
                invalidation,
                ..
            } => {
                let next = self.waits.get(&to)?.conn();
                let holds = self.holds_in_the_way(from).into_iter();
                let grants = holds
                    .filter(|(_, o)| *o == next)
                    .filter_map(|(id, _)| self.held(id));
                let grants: BTreeSet<_> = grants.flatten().collect();
                WaitEdge {
                    waiter: self.process_name(*conn),
                    call: (*call).into(),
                    holds: match invalidation {
                        true => "the running invalidation of its address space".into(),
                        false => "the last use of its map".into(),
                    },
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
