//! What must hold between any two steps, whatever the inputs were.
//!
//! The letters are those of the discussion of gntdev's asynchronous unmap (xen-devel, May 2022):
//! (b) each handle is unmapped once; (c) a map outlives its work; (d) nothing is unmapped that
//! somebody holds; (e) the granter reuses nothing that is in use; (f) a map is never mapped again;
//! (h) one work item per page. (a), that no asynchronous munmap waits, is the tests' to see; (g),
//! that no entry is cleared that maps a grant, is what a PV guest's kernel breaks when somebody holds
//! a page: it is recorded as damage, and not wrong of the machine.

use super::evtchn::PortState;
use super::grants::EntryState;
use super::mm::{FileKind, VmaKind};
use super::unmap::Then;
use super::waits::Wait;
use super::{UnmapMode, Xen};
use crate::types::{Access, DomId, ForeignGrant};
use std::collections::{BTreeMap, BTreeSet};

/// Says what is wrong, unless it holds.
macro_rules! hold {
    ($what:expr, $($why:tt)+) => {
        if !$what {
            return Err(format!($($why)+));
        }
    };
}

impl Xen {
    /// Checks the machine's own bookkeeping.
    ///
    /// # Errors
    /// What does not hold, with the names of the things.
    pub fn check(&self) -> Result<(), String> {
        self.check_mappings()?;
        self.check_maps()?;
        self.check_works()?;
        self.check_holds()?;
        self.check_gntalloc()?;
        self.check_runs()?;
        self.check_ports()?;
        self.check_owners()?;
        self.check_waits()
    }

    /// (b), (e): the maptrack and the entries agree, and an entry in use is what it was.
    fn check_mappings(&self) -> Result<(), String> {
        hold!(
            self.stats.bad_handles == 0,
            "(b) {} unmaps of dead handles",
            self.stats.bad_handles
        );
        let live = self.maptrack.len() as u64;
        hold!(
            self.stats.mapped == self.stats.unmapped + live,
            "(b) {} mapped, {} unmapped, {live} live",
            self.stats.mapped,
            self.stats.unmapped
        );
        let mut counts: BTreeMap<ForeignGrant, (u32, u32)> = BTreeMap::new();
        for (handle, mapping) in &self.maptrack {
            let grant = mapping.grant;
            let entry = self
                .domains
                .get(&grant.domid)
                .and_then(|d| d.grants.entries.get(&grant.gref));
            let same = entry.is_some_and(|e| (e.run, e.page) == (mapping.run, mapping.page));
            hold!(same, "(e) {grant} was reused while {handle:?} maps it");
            let count = counts.entry(grant).or_default();
            match mapping.access {
                Access::ReadOnly => count.0 += 1,
                Access::ReadWrite => count.1 += 1,
            }
        }
        let of_maps = self.maps.values().flat_map(|m| &m.pages);
        let mut owned: BTreeSet<_> = of_maps.filter_map(|p| p.handle).collect();
        owned.extend(self.works.values().flat_map(|w| w.handles.iter().flatten()));
        owned.extend(self.domains.values().flat_map(|d| &d.lost_handles));
        let stray = self.maptrack.keys().find(|handle| !owned.contains(handle));
        hold!(stray.is_none(), "nobody will unmap {stray:?}");
        for (domid, domain) in &self.domains {
            for (gref, entry) in &domain.grants.entries {
                let grant = ForeignGrant {
                    domid: *domid,
                    gref: *gref,
                };
                let (readers, writers) = counts.get(&grant).copied().unwrap_or_default();
                let agree = (entry.readers, entry.writers) == (readers, writers);
                hold!(agree, "{grant}: the entry and the maptrack disagree");
                hold!(
                    entry.access.writable() || writers == 0,
                    "{grant}: written read-only"
                );
                let draining = entry.state == EntryState::Draining;
                hold!(
                    !draining || entry.maps() == 0,
                    "{grant}: revoked while mapped"
                );
            }
        }
        Ok(())
    }

    /// (c), (f): each map's uses are accounted for.
    fn check_maps(&self) -> Result<(), String> {
        let mut users: BTreeMap<_, u32> = BTreeMap::new();
        for file in self.files.values() {
            if let FileKind::Gntdev(list) = &file.kind {
                let indexes = list.maps.iter().filter_map(|id| self.maps.get(id));
                let mut free_from = 0;
                for map in indexes {
                    hold!(map.index >= free_from, "two maps of one file overlap");
                    free_from = map.index + map.pages.len() as u64;
                }
                list.maps
                    .iter()
                    .for_each(|id| *users.entry(*id).or_default() += 1);
            }
        }
        for vma in self.vmas.values() {
            if let VmaKind::Gntdev { map } = vma.kind {
                *users.entry(map).or_default() += vma.pieces.len() as u32;
            }
        }
        for work in self.works.values() {
            *users.entry(work.map).or_default() += 1;
        }
        for (id, count) in users {
            let map = self
                .maps
                .get(&id)
                .ok_or_else(|| format!("(c) {id:?} is gone but in use"))?;
            hold!(
                map.users == count,
                "(c) {id:?} counts {} uses, has {count}",
                map.users
            );
        }
        let reserved: usize = self.maps.values().map(|m| m.pages.len()).sum();
        hold!(
            self.reserved == reserved,
            "{} pages counted, {reserved} reserved",
            self.reserved
        );
        for (id, map) in &self.maps {
            hold!(map.users > 0, "{id:?} leaks");
            let live = map.pages.iter().filter(|p| p.handle.is_some()).count();
            hold!(
                map.live as usize == live,
                "{id:?} counts {} handles, has {live}",
                map.live
            );
            hold!(
                map.mmapped || live == 0,
                "(f) {id:?} has handles without an mmap"
            );
        }
        Ok(())
    }

    /// (h), and that every unmap comes to an end: a timer or a blocked caller drives it.
    fn check_works(&self) -> Result<(), String> {
        let mut pages = BTreeSet::new();
        let mut timers = 0;
        for (id, work) in &self.works {
            for page in work.first_page..work.end() {
                hold!(
                    pages.insert((work.map, page)),
                    "(h) two unmaps of {:?} page {page}",
                    work.map
                );
            }
            match work.then {
                Then::RetryAt(at) => {
                    timers += 1;
                    hold!(self.retries.contains(&(at, *id)), "{id:?} has no timer");
                }
                Then::Wake(wait) => {
                    let waits = matches!(
                        self.waits.get(&wait),
                        Some(Wait::Unmap { works, .. }) if works.contains(id)
                    );
                    hold!(waits, "nobody waits for {id:?}");
                }
            }
        }
        hold!(
            timers == self.retries.len(),
            "a retry timer without an unmap"
        );
        Ok(())
    }

    /// (d): what somebody holds is mapped. References are counted.
    fn check_holds(&self) -> Result<(), String> {
        let mut references: BTreeMap<_, u32> = BTreeMap::new();
        for (id, hold) in &self.holds {
            let owned = self.processes.contains_key(&hold.owner);
            hold!(owned, "{id:?} outlives its owner");
            let map = match self.maps.get(&hold.map) {
                Some(map) => map,
                // Damage: said when it happened.
                None if hold.lost => continue,
                None => return Err(format!("(d) {id:?} holds pages of a map that is gone")),
            };
            for page in hold.first_page..hold.first_page + hold.pages {
                let handle = map.pages.get(page as usize).and_then(|p| p.handle);
                let mapped = handle.is_some_and(|h| self.maptrack.contains_key(&h));
                hold!(
                    mapped || hold.lost,
                    "(d) {id:?}: page {page} was unmapped under its holder"
                );
                *references.entry((hold.map, page)).or_default() += 1;
            }
        }
        for (id, map) in &self.maps {
            for (number, page) in map.pages.iter().enumerate() {
                let count = references.get(&(*id, number as u32)).copied().unwrap_or(0);
                hold!(
                    page.references == count,
                    "{id:?} page {number} counts wrong references"
                );
            }
        }
        Ok(())
    }

    fn check_gntalloc(&self) -> Result<(), String> {
        let limit = self.config.gntalloc_limit as usize;
        for domid in self.domains.keys() {
            let used = self.pages_shared_by(*domid);
            hold!(
                used <= limit,
                "{used} pages of {domid}, the limit is {limit}"
            );
        }
        let mut users: BTreeMap<_, u32> = BTreeMap::new();
        for file in self.files.values() {
            if let FileKind::Gntalloc(list) = &file.kind {
                list.pages
                    .values()
                    .for_each(|id| *users.entry(*id).or_default() += 1);
            }
        }
        for vma in self.vmas.values() {
            if let VmaKind::Gntalloc { pages } = &vma.kind {
                pages
                    .iter()
                    .for_each(|id| *users.entry(*id).or_default() += 1);
            }
        }
        hold!(
            users.keys().eq(self.shared.keys()),
            "a page of gntalloc leaks, or is gone but in use"
        );
        for (id, page) in &self.shared {
            hold!(
                users.get(id) == Some(&page.users),
                "{id:?} counts wrong users"
            );
            let grant = ForeignGrant {
                domid: page.domid,
                gref: page.gref,
            };
            let entry = self
                .domains
                .get(&page.domid)
                .and_then(|d| d.grants.entries.get(&page.gref));
            let granted = entry.is_some_and(|e| {
                (e.run, e.page, e.state) == (page.run, page.page, EntryState::Granted)
            });
            hold!(
                granted || !self.domain_alive(page.domid),
                "{grant}: the entry is not the page's"
            );
        }
        Ok(())
    }

    /// Every page is in exactly one table entry, and every run has pages.
    fn check_runs(&self) -> Result<(), String> {
        let mut pages = BTreeSet::new();
        let mut live: BTreeMap<_, u32> = BTreeMap::new();
        for domain in self.domains.values() {
            let size = domain.grants.entries.len() + domain.grants.deferred.len();
            let ticks = domain.grants.tick_at.is_some();
            hold!(
                ticks != domain.grants.deferred.is_empty(),
                "the deferral timer is wrong: {size}"
            );
            let waiting: BTreeSet<_> = domain.grants.deferred.iter().map(|d| d.gref).collect();
            for (gref, entry) in &domain.grants.entries {
                hold!(
                    pages.insert((entry.run, entry.page)),
                    "{gref}: its page is granted twice"
                );
                *live.entry(entry.run).or_default() += 1;
                let ending = entry.state == EntryState::Ending && domain.alive;
                hold!(
                    ending == waiting.contains(gref),
                    "{gref}: nobody will end access"
                );
            }
        }
        hold!(
            live.keys().eq(self.runs.keys()),
            "a run leaks, or is gone but granted"
        );
        let right = self
            .runs
            .iter()
            .all(|(id, run)| live.get(id) == Some(&run.live_pages));
        hold!(right, "a run counts wrong pages");
        Ok(())
    }

    fn check_ports(&self) -> Result<(), String> {
        let mut notifies: BTreeMap<_, u32> = BTreeMap::new();
        let maps = self.maps.values().map(|m| (m.domid, m.notify.event));
        for (domid, event) in maps.chain(self.shared.values().map(|p| (p.domid, p.notify.event))) {
            if let Some(port) = event {
                *notifies.entry((domid, port)).or_default() += 1;
            }
        }
        for (domid, domain) in &self.domains {
            for (port, entry) in &domain.ports {
                let in_range = port.0 > 0 && port.0 < self.config.event_channels;
                hold!(in_range, "{domid}: {port} is out of range");
                let files = u32::from(entry.file.is_some());
                let users = files + notifies.remove(&(*domid, *port)).unwrap_or(0);
                hold!(
                    entry.users == users && users > 0,
                    "{domid}: {port} counts wrong users"
                );
                let open = entry.file.is_none_or(|f| self.files.contains_key(&f));
                hold!(open, "{domid}: {port} belongs to a closed file");
                if let PortState::Interdomain {
                    remote,
                    port: remote_port,
                } = entry.state
                {
                    let back = PortState::Interdomain {
                        remote: *domid,
                        port: *port,
                    };
                    let mutual = self
                        .port(remote, remote_port)
                        .is_some_and(|p| p.state == back);
                    hold!(
                        mutual,
                        "{domid}: {port} is bound to a port that is not bound to it"
                    );
                }
            }
        }
        hold!(
            notifies.is_empty(),
            "an unmap notify names a port that is closed"
        );
        Ok(())
    }

    /// What belongs to a process goes with it, and what belongs to a domain too.
    fn check_owners(&self) -> Result<(), String> {
        for (id, file) in &self.files {
            let vmas = self.vmas.values().filter(|v| v.file == *id).count();
            hold!(file.vmas as usize == vmas, "{id:?} counts wrong mappings");
            hold!(file.open || vmas > 0, "{id:?} leaks");
            hold!(
                self.processes.contains_key(&file.conn),
                "{id:?} outlives its process"
            );
        }
        for (id, vma) in &self.vmas {
            hold!(
                self.processes.contains_key(&vma.conn),
                "{id:?} outlives its process"
            );
            let apart = vma.pieces.windows(2).all(|w| w[0].1 < w[1].0);
            let within = vma.pieces.iter().all(|(a, b)| a < b && *b <= vma.pages);
            hold!(
                apart && within && !vma.pieces.is_empty(),
                "{id:?} has bad pieces"
            );
        }
        for (domid, domain) in &self.domains {
            let of = |d: DomId| d == *domid;
            let busy = !domain.ports.is_empty()
                || self.processes.values().any(|p| p.domid.is_some_and(of))
                || self.maps.values().any(|m| of(m.domid));
            hold!(
                domain.alive || !busy,
                "{domid} is dead but has processes, maps or ports"
            );
            hold!(
                domain.alive || !domain.grants.entries.is_empty(),
                "dead {domid} leaks"
            );
        }
        hold!(self.domain_alive(DomId::DOM0), "dom0 is dead");
        Ok(())
    }

    /// Every blocked call is one that something will end.
    fn check_waits(&self) -> Result<(), String> {
        for (id, wait) in &self.waits {
            hold!(
                self.processes.contains_key(&wait.conn()),
                "{id:?} outlives its process"
            );
            match wait {
                Wait::Unmap { works, .. } => {
                    hold!(
                        self.config.unmap == UnmapMode::Sync,
                        "(a) {id:?} waits for references"
                    );
                    let alive = works.iter().all(|w| self.works.contains_key(w));
                    hold!(alive && !works.is_empty(), "{id:?} waits for nothing");
                }
                Wait::Release { hold, mm, .. } => {
                    let releasing = self
                        .holds
                        .get(hold)
                        .is_some_and(|h| h.releasing == Some(*id));
                    hold!(releasing, "{id:?} releases what is not held");
                    hold!(self.invalidation_running(*mm), "{id:?} was never woken");
                }
            }
        }
        Ok(())
    }
}
