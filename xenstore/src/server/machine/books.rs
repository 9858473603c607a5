//! What was taken of quotas, and the most of it.

use libgnt::DomId;
use std::collections::{BTreeMap, BTreeSet};

/// What a domain has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) nodes: usize,
    pub(super) watches: usize,
    /// Open ones.
    pub(super) transactions: usize,
    /// Bytes of all these.
    pub(super) memory: usize,
}

impl Usage {
    fn raise(&mut self, to: Usage) {
        self.nodes = self.nodes.max(to.nodes);
        self.watches = self.watches.max(to.watches);
        self.transactions = self.transactions.max(to.transactions);
        self.memory = self.memory.max(to.memory);
    }
}

/// The most that domains had, looked at after each of their own requests that changed something. What
/// others have given or made them is seen with the next.
#[derive(Debug)]
pub(super) struct Highest {
    of_domains: BTreeMap<DomId, Usage>,
    /// Of all domains but dom0.
    pub(super) of_all: Usage,
    /// Who takes more memory is warned of, once (`soft_quotas`, `tools/xenstored/domain.c`).
    pub(super) soft_memory: usize,
    warned: BTreeSet<DomId>,
}

impl Default for Highest {
    fn default() -> Highest {
        Highest {
            of_domains: BTreeMap::new(),
            of_all: Usage::default(),
            soft_memory: 2 << 20,
            warned: BTreeSet::new(),
        }
    }
}

impl Highest {
    /// A new domain of this number begins anew.
    pub(super) fn forget(&mut self, domid: DomId) {
        self.of_domains.remove(&domid);
        self.warned.remove(&domid);
    }

    /// What a domain has now; its highest.
    pub(super) fn note(&mut self, domid: DomId, usage: Usage) -> Usage {
        let highest = self.of_domains.entry(domid).or_default();
        highest.raise(usage);
        let highest = *highest;
        if domid != DomId::DOM0 {
            self.of_all.raise(usage);
            if usage.memory < self.soft_memory {
                self.warned.remove(&domid);
            } else if self.warned.insert(domid) {
                let (bytes, soft) = (usage.memory, self.soft_memory);
                tracing::warn!(%domid, bytes, soft, "a domain takes more memory than the soft quota");
            }
        }
        highest
    }

    /// For all to begin anew: which domains there are.
    pub(super) fn forget_all(&mut self) -> Vec<DomId> {
        self.of_all = Usage::default();
        self.of_domains.keys().copied().collect()
    }

    /// A domain begins anew with what it has.
    pub(super) fn begin(&mut self, domid: DomId, usage: Usage) {
        self.of_domains.insert(domid, usage);
    }
}
