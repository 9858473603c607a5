//! The ledger: what this process has granted, mapped, and not yet got rid of.

use crate::error::Result;
use crate::platform::{Holder, Platform};
use crate::types::{DomId, ForeignGrant};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum EntryKind {
    /// Our pages, offered to a peer.
    Granted,
    /// A peer's pages, mapped here.
    Mapped,
    /// A peer's pages that we unmapped, and the hypervisor has not: somebody holds them.
    Unmapping,
    /// A peer's pages that we unmapped, and nobody tells whether the hypervisor has: the notice of
    /// it went to the peer, or could not be armed.
    Untold,
}

/// One thing that is not given back yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LedgerEntry {
    /// What.
    pub kind: EntryKind,
    /// Mapped and unmapping: the granters' references. Granted: our own, with the peer's domain.
    pub grants: Vec<ForeignGrant>,
    /// Time in this state.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_millis"))]
    pub age: Duration,
    /// Who holds the pages, where the platform can say ([`Ledger::snapshot_with_holders`]).
    pub holders: Vec<Holder>,
}

#[cfg(feature = "serde")]
fn as_millis<S: serde::Serializer>(age: &Duration, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Display for LedgerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            EntryKind::Granted => "granted to",
            EntryKind::Mapped => "mapped from",
            EntryKind::Unmapping => "still unmapping from",
            EntryKind::Untold => "unmapped, perhaps held on, from",
        };
        let pages = self.grants.len();
        write!(
            f,
            "{pages} page{} {verb} ",
            if pages == 1 { "" } else { "s" }
        )?;
        let mut domains: Vec<DomId> = self.grants.iter().map(|g| g.domid).collect();
        domains.sort_unstable();
        domains.dedup();
        for (n, domid) in domains.iter().enumerate() {
            write!(f, "{}{domid}", if n > 0 { ", " } else { "" })?;
        }
        write!(f, " for {:.1} s (", self.age.as_secs_f64())?;
        for (n, grant) in self.grants.iter().take(4).enumerate() {
            write!(f, "{}{}", if n > 0 { ", " } else { "" }, grant.gref)?;
        }
        write!(f, "{})", if pages > 4 { ", …" } else { "" })?;
        for holder in &self.holders {
            write!(f, ", held by {} (pid {})", holder.process, holder.pid)?;
        }
        Ok(())
    }
}

/// How much of each kind there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counts {
    /// Pages granted.
    pub granted_pages: usize,
    /// Pages mapped.
    pub mapped_pages: usize,
    /// Pages unmapping.
    pub unmapping_pages: usize,
    /// Pages unmapped without news of their release.
    pub untold_pages: usize,
}

impl Counts {
    /// True if everything was given back.
    pub fn is_empty(&self) -> bool {
        *self == Counts::default()
    }
}

/// What a ledger has seen since it was opened, in pages: what is over counts, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Totals {
    /// Mapped, for a moment only to see whether it can be done, too.
    pub mapped: u64,
    /// Unmapped, with the news that the hypervisor has released them.
    pub released: u64,
    /// Unmapped without that news.
    pub untold: u64,
}

struct Entry {
    kind: EntryKind,
    grants: Arc<[ForeignGrant]>,
    since: Instant,
}

#[derive(Default)]
struct Inner {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    /// Entries that nothing will ever remove, oldest first.
    untold: VecDeque<u64>,
    totals: Totals,
}

/// Entries of [`EntryKind::Untold`] that are kept: the youngest.
const MAX_UNTOLD: usize = 1024;

/// Counts and names what is mapped, unmapping and still granted. A handle: clones share one ledger.
#[derive(Clone, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

/// Names an entry to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId(u64);

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    // The ledger is bookkeeping: a panic elsewhere must not take it away from who wants to look.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, kind: EntryKind, grants: Arc<[ForeignGrant]>) -> EntryId {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        if kind == EntryKind::Mapped {
            inner.totals.mapped += grants.len() as u64;
        }
        inner.entries.insert(
            id,
            Entry {
                kind,
                grants,
                since: Instant::now(),
            },
        );
        EntryId(id)
    }

    pub(super) fn change(&self, id: EntryId, kind: EntryKind) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(&id.0) else {
            return;
        };
        let pages = entry.grants.len() as u64;
        let was = std::mem::replace(&mut entry.kind, kind);
        entry.since = Instant::now();
        if kind == EntryKind::Untold && was != EntryKind::Untold {
            inner.totals.untold += pages;
            inner.untold.push_back(id.0);
            if inner.untold.len() > MAX_UNTOLD
                && let Some(oldest) = inner.untold.pop_front()
            {
                inner.entries.remove(&oldest);
            }
        }
    }

    pub(super) fn remove(&self, id: EntryId) {
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.remove(&id.0)
            && entry.kind == EntryKind::Unmapping
        {
            inner.totals.released += entry.grants.len() as u64;
        }
    }

    /// Pages that were mapped for a moment and unmapped at once, without a word of their release.
    pub(super) fn count_probe(&self, pages: usize) {
        let totals = &mut self.lock().totals;
        totals.mapped += pages as u64;
        totals.untold += pages as u64;
    }

    /// What was mapped and given back so far.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// Everything, oldest first.
    pub fn snapshot(&self) -> Vec<LedgerEntry> {
        let inner = self.lock();
        let entry = |e: &Entry| LedgerEntry {
            kind: e.kind,
            grants: e.grants.to_vec(),
            age: e.since.elapsed(),
            holders: Vec::new(),
        };
        inner.entries.values().map(entry).collect()
    }

    /// Everything, and who holds the pages that we unmapped.
    ///
    /// # Errors
    /// As [`Platform::holders`].
    pub fn snapshot_with_holders(&self, platform: &dyn Platform) -> Result<Vec<LedgerEntry>> {
        let mut entries = self.snapshot();
        for entry in entries
            .iter_mut()
            .filter(|e| matches!(e.kind, EntryKind::Unmapping | EntryKind::Untold))
        {
            entry.holders = platform.holders(&entry.grants)?;
        }
        Ok(entries)
    }

    /// The sums.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.lock().entries.values() {
            *match entry.kind {
                EntryKind::Granted => &mut counts.granted_pages,
                EntryKind::Mapped => &mut counts.mapped_pages,
                EntryKind::Unmapping => &mut counts.unmapping_pages,
                EntryKind::Untold => &mut counts.untold_pages,
            } += entry.grants.len();
        }
        counts
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({:?})", self.counts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::GrantRef;

    #[test]
    fn entries_move_from_state_to_state_and_go() {
        let ledger = Ledger::new();
        let grants: Arc<[ForeignGrant]> = (8..11)
            .map(|n| ForeignGrant {
                domid: DomId(3),
                gref: GrantRef(n),
            })
            .collect();
        let id = ledger.add(EntryKind::Mapped, grants);
        assert_eq!(ledger.counts().mapped_pages, 3);
        ledger.change(id, EntryKind::Unmapping);
        assert_eq!(
            (
                ledger.counts().mapped_pages,
                ledger.counts().unmapping_pages
            ),
            (0, 3)
        );
        let text = ledger.snapshot()[0].to_string();
        assert_eq!(
            text,
            "3 pages still unmapping from domain 3 for 0.0 s (grant 0x8, grant 0x9, grant 0xa)"
        );
        ledger.remove(id);
        assert!(ledger.counts().is_empty());
        let over = Totals {
            mapped: 3,
            released: 3,
            untold: 0,
        };
        assert_eq!(ledger.totals(), over);
    }

    #[test]
    fn totals_count_what_is_over() {
        let ledger = Ledger::new();
        let grants = |n| -> Arc<[ForeignGrant]> {
            let grant = ForeignGrant {
                domid: DomId(3),
                gref: GrantRef(8),
            };
            vec![grant; n].into()
        };
        ledger.add(EntryKind::Granted, grants(7));
        ledger.add(EntryKind::Mapped, grants(1));
        let untold = ledger.add(EntryKind::Mapped, grants(2));
        ledger.change(untold, EntryKind::Untold);
        ledger.change(untold, EntryKind::Untold);
        ledger.count_probe(4);
        let totals = Totals {
            mapped: 7,
            released: 0,
            untold: 6,
        };
        assert_eq!(ledger.totals(), totals);
    }

    #[test]
    fn what_nobody_tells_of_is_listed_and_bounded() {
        let ledger = Ledger::new();
        let grant = |n| {
            let (domid, gref) = (DomId(3), GrantRef(n));
            Arc::from([ForeignGrant { domid, gref }])
        };
        let mapped = ledger.add(EntryKind::Mapped, grant(0));
        for n in 1..=MAX_UNTOLD as u32 + 5 {
            let id = ledger.add(EntryKind::Mapped, grant(n));
            ledger.change(id, EntryKind::Untold);
        }
        let counts = ledger.counts();
        assert_eq!((counts.mapped_pages, counts.untold_pages), (1, MAX_UNTOLD));
        assert_eq!(ledger.snapshot()[1].grants[0].gref, GrantRef(6));
        ledger.remove(mapped);
        assert!(!ledger.counts().is_empty());
    }
}
