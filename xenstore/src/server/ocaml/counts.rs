//! How many nodes each domain owns, as oxenstored counts: by what is done, not by what is there
//! (`quota.ml`).

use super::super::store::Tree;
use libgnt::DomId;
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    nodes: BTreeMap<DomId, isize>,
    /// Can it be less than nothing? The root, which is not counted, can be removed.
    signed: bool,
}

impl Counts {
    /// Of a tree. The root is nobody's.
    pub fn of(tree: &Tree, signed: bool) -> Counts {
        let mut counts = Counts::none(signed);
        for (path, node) in tree.subtree("/") {
            if path != "/" {
                counts.add(node.grant().owner(), 1);
            }
        }
        counts
    }

    fn none(signed: bool) -> Counts {
        Counts {
            nodes: BTreeMap::new(),
            signed,
        }
    }

    /// A domain's; `None` is not counted.
    pub fn get(&self, domid: DomId) -> Option<isize> {
        self.nodes.get(&domid).copied()
    }

    /// Has a domain so many or more?
    pub fn is_over(&self, domid: DomId, most: usize) -> bool {
        let count = self.get(domid).map(usize::try_from);
        count.is_some_and(|count| count.is_ok_and(|count| count >= most))
    }

    /// So many more.
    pub fn add(&mut self, domid: DomId, more: isize) {
        if more < 0 && !self.signed && self.get(domid).is_none() {
            return;
        }
        let count = self.nodes.entry(domid).or_default();
        *count += more;
        if *count == 0 {
            self.nodes.remove(&domid);
        }
    }

    /// A domain is no more.
    pub fn forget(&mut self, domid: DomId) {
        self.nodes.remove(&domid);
    }

    /// What was counted in a copy since this was `before`, but for domains that own nothing there any more.
    pub fn merge(&mut self, before: &Counts, copy: &Counts) {
        for (domid, count) in &copy.nodes {
            let more = count - before.get(*domid).unwrap_or(0);
            if more != 0 {
                self.add(*domid, more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_counts_are_added() {
        let of = |all: &[(u16, isize)]| {
            let mut counts = Counts::none(true);
            all.iter()
                .for_each(|(domid, count)| counts.add(DomId(*domid), *count));
            counts
        };
        let before = of(&[(1, 5), (2, 1)]);
        let copy = of(&[(1, 7), (3, 2)]);
        let mut live = of(&[(1, 6), (2, 1)]);
        live.merge(&before, &copy);
        // What went to nothing is not seen.
        assert_eq!(live, of(&[(1, 8), (2, 1), (3, 2)]));
        assert!(live.is_over(DomId(1), 8));
        assert!(!live.is_over(DomId(1), 9));
        assert!(!live.is_over(DomId(4), 0));
        for (signed, left) in [(true, Some(-1)), (false, None)] {
            let mut counts = Counts::none(signed);
            counts.add(DomId(0), -1);
            assert_eq!(counts.get(DomId(0)), left);
        }
        live.forget(DomId(1));
        assert_eq!(live.get(DomId(1)), None);
    }
}
