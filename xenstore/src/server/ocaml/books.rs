//! What an oxenstored keeps beside the tree.

use super::super::daemon::Daemon;
use super::super::store::Tree;
use super::super::store::grant::Grant;
use super::counts::Counts;
use super::store::{Deed, may_read};
use super::watches::{Watch, Watches};
use crate::path::parent_of;
use crate::perms::{Caller, Perms};
use libgnt::DomId;
use std::collections::BTreeMap;

/// The page and the event channel with which a domain was introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The page's frame.
    pub frame: i64,
    /// The domain's port.
    pub port: i64,
}

/// See the module.
#[derive(Debug)]
pub struct Books {
    /// Who watches what.
    pub watches: Watches,
    /// Domains that INTRODUCE made known.
    pub rings: BTreeMap<DomId, Ring>,
    /// How many nodes each domain owns.
    pub counts: Counts,
    /// Domains that have died.
    pub deaths: u64,
}

/// A change of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What was done.
    pub deed: Deed,
    /// To which node.
    pub path: &'a str,
    /// The tree before all that was done together.
    pub before: &'a Tree,
    /// And after.
    pub after: &'a Tree,
}

impl Books {
    /// Of a server that begins.
    pub fn new(daemon: Daemon, tree: &Tree) -> Books {
        Books {
            counts: Counts::of(tree, daemon.counts_below_nothing()),
            watches: Watches::new(!daemon.lists_by_age()),
            rings: BTreeMap::new(),
            deaths: 0,
        }
    }

    /// The watches that hear of a change, and of which path, in this order: those above; and when nodes
    /// go, those below, each of its own path.
    pub fn fired<'a>(
        &'a self,
        change: Change<'a>,
        caller_of: impl Fn(&Watch) -> Caller,
        to_everybody: bool,
    ) -> Vec<(&'a Watch, &'a [u8])> {
        let hears = |watch: &Watch, path: &str| {
            let caller = caller_of(watch);
            change
                .seen_by(path)
                .any(|perms| to_everybody || may_read(perms, caller))
        };
        let above = self.watches.above(change.path).into_iter();
        let above = above.filter(|watch| hears(watch, change.path));
        let mut fired: Vec<_> = above
            .map(|watch| (watch, watch.told(change.path)))
            .collect();
        if change.deed == Deed::Removed {
            for watch in self.watches.below(change.path) {
                let path = match super::text::watched(&watch.path, watch.domid) {
                    Ok(path) => String::from_utf8(path).unwrap_or_default(),
                    Err(_) => continue,
                };
                if hears(watch, &path) {
                    fired.push((watch, &watch.path));
                }
            }
        }
        fired
    }

    /// The special watches of this name that fire.
    pub fn special<'a>(
        &'a self,
        name: &'a str,
        tree: &'a Tree,
        caller_of: impl Fn(&Watch) -> Caller,
    ) -> Vec<&'a Watch> {
        let node = format!("/{name}");
        let watches = self.watches.on(name.as_bytes());
        let hears =
            |watch: &&Watch| perms_at(tree, &node).any(|perms| may_read(perms, caller_of(watch)));
        watches.filter(hears).collect()
    }
}

impl<'a> Change<'a> {
    /// Whose readers hear of it at this path.
    fn seen_by(self, path: &str) -> impl Iterator<Item = &'a Perms> {
        let (before, after) = match self.deed {
            Deed::Made => (None, Some(self.after)),
            Deed::Removed => (Some(self.before), None),
            Deed::Permitted => (Some(self.before), Some(self.after)),
        };
        let trees = before.into_iter().chain(after);
        let perms: Vec<&Perms> = trees.flat_map(|tree| perms_at(tree, path)).collect();
        perms.into_iter()
    }
}

/// The permissions of a node's directory and its own. None of the root, of which nobody hears.
fn perms_at<'a>(tree: &'a Tree, path: &str) -> impl Iterator<Item = &'a Perms> + use<'a> {
    let of = |path: &str| tree.get(path).map(|node| node.perms());
    let directory = parent_of(path).and_then(of);
    let own = directory.and_then(|_| of(path));
    directory.into_iter().chain(own)
}

/// Takes a domain that is gone out of all permissions. Its nodes go, with all that is below them, and
/// nobody hears of it; the root only becomes dom0's.
pub fn forget_domain(tree: &mut Tree, domid: DomId) {
    for (path, node) in tree.subtree("/") {
        let perms = node.perms();
        if perms.owner() == domid && path != "/" {
            tree.remove(&path);
            continue;
        }
        let entries = perms.entries();
        if entries[1..].iter().any(|entry| entry.domid == domid) {
            let kept = entries[..1].iter();
            let kept = kept.chain(entries[1..].iter().filter(|entry| entry.domid != domid));
            if let Some(perms) = Perms::new(kept.copied().collect()) {
                let grant = Grant::new(perms, tree.generation() + 1);
                tree.set_grant(&path, grant);
            }
        }
    }
}
