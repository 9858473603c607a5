//! A permission list as the store keeps it, and the domains that have died.

use crate::perms::{Caller, Permission, Perms, Rights};
use libgnt::DomId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A permission list, and the tree's generation when somebody gave it. Nodes share it.
#[derive(Debug)]
pub struct Grant {
    perms: Perms,
    since: u64,
}

impl Grant {
    /// A list that somebody gives now.
    pub fn new(perms: Perms, since: u64) -> Arc<Grant> {
        Arc::new(Grant { perms, since })
    }

    /// The list, entries of dead domains among it: they are listed, and do not count.
    pub fn perms(&self) -> &Perms {
        &self.perms
    }

    /// Who owns the node.
    pub fn owner(&self) -> DomId {
        self.perms.owner()
    }

    /// The same list, as old, under another owner: what a new node gets from its parent.
    pub fn for_owner(self: &Arc<Grant>, owner: DomId) -> Arc<Grant> {
        if self.owner() == owner {
            return Arc::clone(self);
        }
        Arc::new(Grant {
            perms: self.perms.owned_by(owner),
            since: self.since,
        })
    }

    /// What the caller may do.
    pub fn rights(&self, caller: Caller, deaths: &Deaths) -> Rights {
        self.perms
            .rights_where(caller, |domid| self.counts(domid, deaths))
    }

    /// Do all of its entries count?
    pub fn is_whole(&self, deaths: &Deaths) -> bool {
        self.perms.entries()[1..]
            .iter()
            .all(|entry| self.counts(entry.domid, deaths))
    }

    /// The list without the entries that do not count.
    pub fn in_force(&self, deaths: &Deaths) -> Vec<Permission> {
        let (owner, others) = self.perms.entries().split_at(1);
        let counting = others.iter().filter(|e| self.counts(e.domid, deaths));
        owner.iter().chain(counting).copied().collect()
    }

    fn counts(&self, domid: DomId, deaths: &Deaths) -> bool {
        deaths.last(domid).is_none_or(|death| self.since > death)
    }
}

/// When domains died, in generations of the tree. A permission that was given to a domain before its
/// death is not its successor's of the same number (XSA-322; `domain_adjust_node_perms`).
#[derive(Clone, Debug, Default)]
pub struct Deaths(BTreeMap<DomId, u64>);

impl Deaths {
    /// A domain dies.
    pub fn note(&mut self, domid: DomId, generation: u64) {
        self.0.insert(domid, generation);
    }

    fn last(&self, domid: DomId) -> Option<u64> {
        self.0.get(&domid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_domains_entries_do_not_count_for_its_successor() {
        let perms = Perms::new(vec!["n1".parse().unwrap(), "r2".parse().unwrap()]).unwrap();
        let old = Grant::new(perms.clone(), 5);
        let two = Caller::of(DomId(2));
        let mut deaths = Deaths::default();
        assert_eq!(old.rights(two, &deaths), Rights::Read);
        deaths.note(DomId(2), 7);
        assert_eq!(old.rights(two, &deaths), Rights::None);
        assert_eq!(old.for_owner(DomId(3)).rights(two, &deaths), Rights::None);
        assert!(!old.is_whole(&deaths));
        assert_eq!(old.in_force(&deaths), perms.entries()[..1]);
        assert_eq!(Grant::new(perms, 8).rights(two, &deaths), Rights::Read);
    }
}
