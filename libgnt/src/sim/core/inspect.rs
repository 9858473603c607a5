//! The machine's state, for people and for checks.

use super::grants::EntryState;
use super::xen::{Outcome, reply};
use super::{Now, Xen};
use crate::inspect::{DomainState, GrantState, Inspection, UnmappingState};
use crate::platform::Holder;
use crate::sim::wire::{HoldId, Reply};
use crate::types::{DomId, ForeignGrant};
use std::collections::BTreeSet;

/// A reply must fit in a frame.
const MAX_HOLDERS: usize = 4096;

impl Xen {
    /// Everything alive.
    pub fn inspect(&self, now: Now) -> Inspection {
        Inspection {
            domains: self
                .domains
                .keys()
                .filter_map(|domid| self.domain_state(*domid))
                .collect(),
            grants: self.grant_states(),
            unmapping: self.unmapping_states(now),
            holders: self.holders(|_, _| true),
            gntalloc_pages: self.shared.len() as u32,
            event_channels: self.domains.values().map(|d| d.ports.len() as u32).sum(),
            unmaps: self.stats.unmapped,
            deferred_unmaps: self.stats.deferred,
            unmap_retries: self.stats.retries,
            damage: self.damages.clone(),
        }
    }

    fn domain_state(&self, domid: DomId) -> Option<DomainState> {
        let domain = self.domains.get(&domid)?;
        let processes = self.processes.values().filter(|p| p.domid == Some(domid));
        Some(DomainState {
            domid,
            name: domain.name.clone(),
            alive: domain.alive,
            guest: domain.guest,
            processes: processes.map(|p| (p.name.clone(), p.pid)).collect(),
        })
    }

    fn grant_states(&self) -> Vec<GrantState> {
        let domains = self.domains.iter();
        let entries = domains
            .flat_map(|(domid, d)| d.grants.entries.iter().map(move |(g, e)| (*domid, *g, e)));
        entries
            .map(|(domid, gref, entry)| GrantState {
                grant: ForeignGrant { domid, gref },
                peer: entry.peer,
                access: entry.access,
                maps: entry.maps(),
                ending: entry.state != EntryState::Granted,
            })
            .collect()
    }

    fn unmapping_states(&self, now: Now) -> Vec<UnmappingState> {
        let state = |work: &super::unmap::Work| UnmappingState {
            domid: work.domid,
            process: work.process.clone(),
            grants: {
                let handles = work.handles.iter().flatten();
                handles
                    .filter_map(|h| self.maptrack.get(h))
                    .map(|m| m.grant)
                    .collect()
            },
            age_ms: now.saturating_sub(work.began).as_millis() as u64,
            retries: work.age,
        };
        self.works.values().map(state).collect()
    }

    fn holders(&self, wanted: impl Fn(DomId, ForeignGrant) -> bool) -> Vec<Holder> {
        let of = |id: &HoldId| {
            let hold = self.holds.get(id)?;
            let owner = self.processes.get(&hold.owner);
            let process = owner.map_or_else(|| "a process that is gone".into(), |p| p.name.clone());
            let pid = owner.map_or(0, |p| p.pid);
            let domid = hold.domid;
            Some(self.held(*id)?.map(move |grant| {
                (
                    domid,
                    Holder {
                        grant,
                        process: process.clone(),
                        pid,
                    },
                )
            }))
        };
        let all = self.holds.keys().filter_map(of).flatten();
        let wanted = all.filter(|(domid, h)| wanted(*domid, h.grant));
        wanted.map(|(_, h)| h).take(MAX_HOLDERS).collect()
    }

    pub(super) fn holders_of(&mut self, domid: DomId, grants: &[ForeignGrant]) -> Outcome {
        let grants: BTreeSet<_> = grants.iter().copied().collect();
        let holders = self.holders(|mapper, grant| mapper == domid && grants.contains(&grant));
        reply(Reply::Holders { holders })
    }
}
