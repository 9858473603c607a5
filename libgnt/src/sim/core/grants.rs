//! Grant tables: a domain's entries, who maps them, and how access ends.
//!
//! The hypervisor's part is `xen/common/grant_table.c` (4.17): an entry names one peer, and its
//! reading and writing bits stand while the peer maps. The kernel's part is
//! `drivers/xen/grant-table.c` (Linux 5.17 to 6.12): access ends at once, or is deferred and
//! retried every second, ten entries a tick.

use super::xen::{Outcome, refuse, reply};
use super::{Action, KernelSabotage, Now, Xen};
use crate::sim::wire::{Reply, RunId, SimError};
use crate::types::{Access, DomId, ForeignGrant, GrantRef, GrantStatus};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// `GNTTAB_NR_RESERVED_ENTRIES`: the console's and xenstore's, and six spare.
const FIRST_GREF: u32 = 8;
/// Entries in one frame of a version 1 table; the table grows by frames.
const ENTRIES_PER_FRAME: u32 = 512;
/// The deferral timer's period, and how many entries it tries each time.
const TICK: Duration = Duration::from_secs(1);
const ENTRIES_PER_TICK: u32 = 10;
/// Failed retries of one entry before the kernel complains.
const WARN_AFTER: u32 = 60;

/// A grant handle: one mapping of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HandleId(pub u64);

/// What a handle stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub grant: ForeignGrant,
    pub access: Access,
    pub run: RunId,
    pub page: u32,
}

/// One domain's table.
#[derive(Clone, Debug, Default)]
pub(super) struct GrantTable {
    pub entries: BTreeMap<GrantRef, Entry>,
    /// References that were used and are free again: last freed, first reused.
    free: Vec<GrantRef>,
    /// How many of the never used ones are used now.
    used: u32,
    /// The word of each reference that was ever copied from; 0 for the others.
    pub generations: BTreeMap<GrantRef, u32>,
    /// Ended by the kernel while the peer still mapped, oldest first.
    pub deferred: VecDeque<Deferred>,
    pub tick_at: Option<Now>,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub peer: DomId,
    pub access: Access,
    pub run: RunId,
    pub page: u32,
    /// Read-only mappings, and writable ones.
    pub readers: u32,
    pub writers: u32,
    pub state: EntryState,
    /// Some process has the page's descriptor to copy with.
    pub copy_attached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// The peer may map it.
    Granted,
    /// The kernel wants it back, but the peer maps it. Until it does not, the entry still grants:
    /// the flags of an entry in use are not cleared (`gnttab_end_foreign_access_ref_v1`).
    Ending,
    /// Revoked; copies that were running may still touch the page.
    Draining,
}

/// One entry of the kernel's deferred list.
#[derive(Clone, Debug)]
pub(super) struct Deferred {
    pub gref: GrantRef,
    warn_delay: u32,
}

impl Entry {
    pub(super) fn maps(&self) -> u32 {
        self.readers + self.writers
    }

    fn in_use(&self) -> bool {
        self.maps() > 0 || self.state == EntryState::Draining
    }
}

impl GrantTable {
    /// How many entries the table has frames for.
    fn size(&self) -> u32 {
        (FIRST_GREF + self.used).next_multiple_of(ENTRIES_PER_FRAME)
    }

    /// For [`Xen::fingerprint`].
    pub(super) fn forget_times(&mut self) {
        self.tick_at = self.tick_at.map(|_| Now::ZERO);
        self.generations.clear();
        for deferred in &mut self.deferred {
            deferred.warn_delay = 0;
        }
    }

    /// How many more references there are to give out, of `limit` entries.
    pub(super) fn room(&self, limit: u32) -> usize {
        let unused = limit.saturating_sub(FIRST_GREF + self.used) as usize;
        unused + self.free.len()
    }

    fn take(&mut self, limit: u32) -> Option<GrantRef> {
        if let Some(gref) = self.free.pop() {
            return Some(gref);
        }
        let next = FIRST_GREF + self.used;
        (next < limit).then(|| {
            self.used += 1;
            GrantRef(next)
        })
    }

    pub(super) fn generation(&self, gref: GrantRef) -> u32 {
        self.generations.get(&gref).copied().unwrap_or(0)
    }
}

impl Xen {
    /// `gnttab_grant_foreign_access`. ENOSPC if the table is full.
    pub(super) fn grant_access(
        &mut self,
        domid: DomId,
        peer: DomId,
        access: Access,
        run: RunId,
        page: u32,
    ) -> Result<GrantRef, SimError> {
        let limit = self.config.grant_entries;
        let full = || refuse(Errno::NOSPC, format!("the grant table of {domid} is full"));
        let table = &mut self.domains.get_mut(&domid).ok_or_else(full)?.grants;
        let gref = table.take(limit).ok_or_else(full)?;
        let entry = Entry {
            peer,
            access,
            run,
            page,
            readers: 0,
            writers: 0,
            state: EntryState::Granted,
            copy_attached: false,
        };
        table.entries.insert(gref, entry);
        if let Some(run) = self.runs.get_mut(&run) {
            run.live_pages += 1;
        }
        Ok(gref)
    }

    /// May this domain use this grant? The statuses are Xen's (`_set_status_v1` and its callers):
    /// a reference beyond the table is a bad reference; one that is not granted, granted to
    /// somebody else, or granted read-only to a writer, is a general error.
    pub(super) fn check_grant(
        &self,
        grant: ForeignGrant,
        user: DomId,
        access: Access,
    ) -> Result<&Entry, GrantStatus> {
        let granter = self.domains.get(&grant.domid).filter(|d| d.alive);
        let table = &granter.ok_or(GrantStatus::BAD_DOMAIN)?.grants;
        if grant.gref.0 >= table.size() {
            return Err(GrantStatus::BAD_GNTREF);
        }
        let entry = table
            .entries
            .get(&grant.gref)
            .ok_or(GrantStatus::GENERAL_ERROR)?;
        let allowed = entry.peer == user
            && entry.state != EntryState::Draining
            && (entry.access.writable() || !access.writable());
        if allowed {
            Ok(entry)
        } else {
            Err(GrantStatus::GENERAL_ERROR)
        }
    }

    /// `GNTTABOP_map_grant_ref`.
    pub(super) fn hypervisor_map(
        &mut self,
        grant: ForeignGrant,
        mapper: DomId,
        access: Access,
    ) -> Result<HandleId, GrantStatus> {
        let entry = self.check_grant(grant, mapper, access)?;
        let mapping = Mapping {
            grant,
            access,
            run: entry.run,
            page: entry.page,
        };
        let handle = HandleId(self.fresh_id());
        self.maptrack.insert(handle, mapping);
        self.stats.mapped += 1;
        if let Some(entry) = self.entry_mut(grant) {
            match access {
                Access::ReadOnly => entry.readers += 1,
                Access::ReadWrite => entry.writers += 1,
            }
        }
        Ok(handle)
    }

    /// `GNTTABOP_unmap_grant_ref`.
    pub(super) fn hypervisor_unmap(&mut self, handle: HandleId) {
        let Some(mapping) = self.maptrack.remove(&handle) else {
            self.stats.bad_handles += 1;
            return;
        };
        self.stats.unmapped += 1;
        if let Some(entry) = self.entry_mut(mapping.grant) {
            let count = match mapping.access {
                Access::ReadOnly => &mut entry.readers,
                Access::ReadWrite => &mut entry.writers,
            };
            *count = count.saturating_sub(1);
        }
        // A dead granter has no kernel to retry: the hypervisor frees the page with its last use.
        if !self.domain_alive(mapping.grant.domid) {
            self.try_end_access(mapping.grant.domid, mapping.grant.gref);
            self.reap_domain(mapping.grant.domid);
        }
    }

    fn entry_mut(&mut self, grant: ForeignGrant) -> Option<&mut Entry> {
        self.domains
            .get_mut(&grant.domid)?
            .grants
            .entries
            .get_mut(&grant.gref)
    }

    /// `gnttab_end_foreign_access`: ends it now, or puts it on the deferred list.
    pub(super) fn end_access(&mut self, domid: DomId, gref: GrantRef) {
        if self.try_end_access(domid, gref) || !self.domain_alive(domid) {
            return;
        }
        let tick_at = self.now + TICK;
        let Some(table) = self.domains.get_mut(&domid).map(|d| &mut d.grants) else {
            return;
        };
        if let Some(entry) = table.entries.get_mut(&gref) {
            entry.state = EntryState::Ending;
        }
        table.deferred.push_back(Deferred {
            gref,
            warn_delay: WARN_AFTER,
        });
        table.tick_at.get_or_insert(tick_at);
        self.log(format!("d{}: deferring g.e. {:#x}", domid.0, gref.0));
    }

    /// True if the entry is revoked. It is free at once, or when the last copy has drained.
    fn try_end_access(&mut self, domid: DomId, gref: GrantRef) -> bool {
        let careless = self.sabotaged(KernelSabotage::ReuseWhileInUse);
        let Some(entry) = self.entry_mut(ForeignGrant { domid, gref }) else {
            return true;
        };
        if entry.maps() > 0 && !careless {
            return false;
        }
        if entry.state == EntryState::Draining {
            return true;
        }
        if !entry.copy_attached {
            self.free_entry(domid, gref);
            return true;
        }
        entry.state = EntryState::Draining;
        let generation = self.fresh_generation();
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.grants.generations.insert(gref, generation);
        }
        self.out.push(Action::RevokeCopy {
            domid,
            gref,
            generation,
        });
        true
    }

    pub(super) fn copy_drained(&mut self, domid: DomId, gref: GrantRef) {
        let draining = |e: &mut Entry| e.state == EntryState::Draining;
        if self
            .entry_mut(ForeignGrant { domid, gref })
            .is_some_and(draining)
        {
            self.free_entry(domid, gref);
            self.reap_domain(domid);
        }
    }

    /// The reference and the page are free.
    fn free_entry(&mut self, domid: DomId, gref: GrantRef) {
        let Some(table) = self.domains.get_mut(&domid).map(|d| &mut d.grants) else {
            return;
        };
        let Some(entry) = table.entries.remove(&gref) else {
            return;
        };
        table.free.push(gref);
        let Some(run) = self.runs.get_mut(&entry.run) else {
            return;
        };
        run.live_pages -= 1;
        if run.live_pages == 0 {
            self.runs.remove(&entry.run);
            self.out.push(Action::FreeRun { run: entry.run });
        }
    }

    /// `gnttab_handle_deferred`, in every domain whose timer is due.
    pub(super) fn retry_end_access(&mut self) {
        let due = |t: &GrantTable, now| t.tick_at.is_some_and(|at| at <= now);
        let domains = self
            .domains
            .iter()
            .filter(|(_, d)| due(&d.grants, self.now));
        let domains: Vec<_> = domains.map(|(domid, _)| *domid).collect();
        for domid in domains {
            self.retry_end_access_of(domid);
        }
    }

    fn retry_end_access_of(&mut self, domid: DomId) {
        let mut first_failed = None;
        for _ in 0..ENTRIES_PER_TICK {
            let Some(domain) = self.domains.get_mut(&domid) else {
                return;
            };
            let Some(mut next) = domain.grants.deferred.pop_front() else {
                break;
            };
            if first_failed == Some(next.gref) {
                // Once round the whole list.
                domain.grants.deferred.push_front(next);
                break;
            }
            if self.try_end_access(domid, next.gref) {
                continue;
            }
            next.warn_delay = next.warn_delay.wrapping_sub(1);
            if next.warn_delay == 0 {
                self.log(format!(
                    "d{}: g.e. {:#x} still pending",
                    domid.0, next.gref.0
                ));
            }
            first_failed = first_failed.or(Some(next.gref));
            if let Some(domain) = self.domains.get_mut(&domid) {
                domain.grants.deferred.push_back(next);
            }
        }
        let again = self.now + TICK;
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.grants.tick_at = (!domain.grants.deferred.is_empty()).then_some(again);
        }
    }

    /// The granter is destroyed: whatever nobody uses is free.
    pub(super) fn end_dead_grants(&mut self, domid: DomId) {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        let mut grefs = Vec::new();
        for (gref, entry) in &mut domain.grants.entries {
            grefs.push(*gref);
            if entry.state == EntryState::Granted {
                entry.state = EntryState::Ending;
            }
        }
        for gref in grefs {
            self.try_end_access(domid, gref);
        }
        self.reap_domain(domid);
    }

    pub(super) fn grants_in_use(&mut self, domid: DomId, grefs: &[GrantRef]) -> Outcome {
        let table = self.domains.get(&domid).map(|d| &d.grants);
        let in_use = |g: &&GrantRef| {
            table
                .and_then(|t| t.entries.get(g))
                .is_some_and(Entry::in_use)
        };
        reply(Reply::Grefs {
            grefs: grefs.iter().filter(in_use).copied().collect(),
        })
    }
}
