//! A transaction as xenstored has it: what it has seen and changed of each node, beside the tree.
//!
//! Each node is as it was when the transaction first looked at it, not as at the start, and its end
//! compares the generations of just these nodes (`access_node`, `finalize_transaction`,
//! `tools/xenstored/transaction.c`). A node that was seen is a snapshot of that node: it is shared
//! with the tree until one of both changes.

use super::change::Change;
use super::store::grant::Grant;
use super::store::{Node, Tree, insert_child, remove_child};
use crate::path::{last_name, parent_of};
use libgnt::DomId;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Children that a transaction makes are younger than all that the tree has.
const BORN_INSIDE: u64 = 1 << 63;

/// A node that the transaction has looked at.
#[derive(Debug)]
struct Seen {
    path: Arc<str>,
    /// Its generation in the tree at that moment; `None`: it was not there.
    generation: Option<u64>,
    /// Its permissions then.
    grant: Option<Arc<Grant>>,
    /// What the transaction has made of it; `None`: it is not there.
    now: Option<Arc<Node>>,
    changed: bool,
    /// Watches hear of it at the end, only those on exactly this path if true.
    fires: Option<bool>,
}

/// An open transaction.
#[derive(Debug, Default)]
pub struct Transaction {
    /// In the order of the first look.
    seen: Vec<Seen>,
    places: HashMap<Arc<str>, usize>,
    /// Nodes that domains own more than before.
    owned: BTreeMap<DomId, isize>,
    /// Bytes of all that was seen and changed.
    bytes: usize,
    made: u64,
    has_made: bool,
    /// Its end will be ENOMEM: something in it went half way.
    failed: bool,
}

impl Transaction {
    /// How many nodes it has looked at.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Has it looked at none?
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// About what it keeps.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has it looked at this node?
    pub fn has_seen(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// Nodes that a domain owns more than before.
    pub fn owned(&self, domid: DomId) -> isize {
        self.owned.get(&domid).copied().unwrap_or(0)
    }

    /// A node is about to be made in it.
    pub fn note_making(&mut self) {
        self.has_made = true;
    }

    /// Was any node made in it, or tried to?
    pub fn has_made(&self) -> bool {
        self.has_made
    }

    /// Lets its end fail.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// The node as the transaction sees it, which it has looked at now.
    pub fn fetch(&mut self, live: &Tree, path: &str) -> Option<&Arc<Node>> {
        let place = match self.places.get(path) {
            Some(place) => *place,
            None => self.look(live.get(path), path),
        };
        self.seen[place].now.as_ref()
    }

    fn look(&mut self, node: Option<&Arc<Node>>, path: &str) -> usize {
        let path: Arc<str> = path.into();
        let place = self.seen.len();
        self.bytes += path.len() + node.map_or(0, |node| node.content_bytes());
        self.places.insert(Arc::clone(&path), place);
        self.seen.push(Seen {
            path,
            generation: node.map(|node| node.generation()),
            grant: node.map(|node| Arc::clone(node.grant())),
            now: node.cloned(),
            changed: false,
            fires: None,
        });
        place
    }

    fn change<T>(&mut self, path: &str, change: impl FnOnce(&mut Node) -> T) -> Option<T> {
        let seen = &mut self.seen[*self.places.get(path)?];
        seen.changed = true;
        let node = Arc::make_mut(seen.now.as_mut()?);
        let before = node.content_bytes();
        let changed = change(node);
        self.bytes = (self.bytes + node.content_bytes()).saturating_sub(before);
        Some(changed)
    }

    fn count(&mut self, domid: DomId, by: isize) {
        *self.owned.entry(domid).or_default() += by;
    }

    /// A new value. The node has been fetched, as with all that follows.
    pub fn set_value(&mut self, path: &str, value: &[u8]) {
        self.change(path, |node| node.set_value(value));
    }

    /// New permissions.
    pub fn set_grant(&mut self, path: &str, grant: Arc<Grant>) {
        let owner = grant.owner();
        let old = self.change(path, |node| node.set_grant(grant));
        if let Some(old) = old {
            self.count(old.owner(), -1);
            self.count(owner, 1);
        }
    }

    /// A new node below one that is there.
    pub fn insert(&mut self, path: &str, value: &[u8], grant: Arc<Grant>) {
        let (Some(parent), Some(place)) = (parent_of(path), self.places.get(path)) else {
            return;
        };
        let place = *place;
        self.made += 1;
        let owner = grant.owner();
        let node = Arc::new(Node::new(
            last_name(path),
            value,
            grant,
            BORN_INSIDE + self.made,
        ));
        self.bytes += node.content_bytes();
        self.seen[place].now = Some(Arc::clone(&node));
        self.seen[place].changed = true;
        self.count(owner, 1);
        self.change(parent, |parent| insert_child(parent, node));
    }

    /// Removes one node, whose children have been removed.
    pub fn remove(&mut self, path: &str) {
        let (Some(parent), Some(place)) = (parent_of(path), self.places.get(path)) else {
            return;
        };
        let seen = &mut self.seen[*place];
        seen.changed = true;
        if let Some(node) = seen.now.take() {
            self.count(node.grant().owner(), -1);
        }
        self.change(parent, |parent| remove_child(parent, last_name(path)));
    }

    /// Watches hear of this node at the end. Those above hear of it, too, if they should once.
    pub fn fire(&mut self, path: &str, exact: bool) {
        if let Some(place) = self.places.get(path) {
            let fires = &mut self.seen[*place].fires;
            *fires = Some(exact && fires.unwrap_or(true));
        }
    }

    /// Broken on purpose: it commits whatever has changed since.
    pub(crate) fn forget_what_it_saw(&mut self, live: &Tree) {
        for seen in &mut self.seen {
            seen.generation = live.get(&seen.path).map(|node| node.generation());
        }
    }

    /// Makes the changes real, all or none, and says what watches must hear. `most_nodes`: how many
    /// nodes domains may own then, if that has a limit.
    ///
    /// # Errors
    /// ENOMEM: something in it went half way. ENOSPC: too many nodes. EAGAIN: a node that it saw is
    /// no longer as it was then.
    pub fn commit(self, live: &mut Tree, most_nodes: Option<usize>) -> Result<Vec<Change>, Errno> {
        if self.failed {
            return Err(Errno::NOMEM);
        }
        let over = |(domid, by): (&DomId, &isize)| {
            let owned = live.owned_by(*domid).saturating_add_signed(*by);
            *domid != DomId::DOM0 && most_nodes.is_some_and(|most| owned >= most)
        };
        if self.owned.iter().any(over) {
            return Err(Errno::NOSPC);
        }
        let generation = |path: &str| live.get(path).map(|node| node.generation());
        if self
            .seen
            .iter()
            .any(|seen| seen.generation != generation(&seen.path))
        {
            return Err(Errno::AGAIN);
        }
        self.apply(live);
        Ok(self.changes(live))
    }

    fn apply(&self, live: &mut Tree) {
        let mut made = Vec::new();
        for seen in self.seen.iter().filter(|seen| seen.changed) {
            match &seen.now {
                // One that was made, removed and made again is a new one, the youngest.
                Some(node) if node.born() >= BORN_INSIDE => made.push((node, &seen.path)),
                Some(node) => {
                    live.copy_from(&seen.path, node);
                }
                None => {
                    live.remove(&seen.path);
                }
            }
        }
        // Parents before their children.
        made.sort_unstable_by_key(|(node, _)| node.born());
        for (node, path) in made {
            live.remove(path);
            live.insert(path, node.value(), Arc::clone(node.grant()));
        }
    }

    /// In xenstored's order, and with the permissions that it looks at: each node's before, its own
    /// now, and its parent's as written at that moment.
    fn changes(&self, live: &Tree) -> Vec<Change> {
        let mut changes = Vec::new();
        for (place, seen) in self.seen.iter().enumerate() {
            let Some(exact) = seen.fires.filter(|_| seen.changed) else {
                continue;
            };
            let mut readable_by: Vec<_> = seen.grant.iter().cloned().collect();
            if let Some(node) = live.get(&seen.path) {
                readable_by.push(Arc::clone(node.grant()));
                readable_by
                    .extend(parent_of(&seen.path).and_then(|p| self.grant_at(live, p, place)));
            }
            changes.push(Change {
                path: seen.path.to_string(),
                exact,
                readable_by,
            });
        }
        changes
    }

    fn grant_at(&self, live: &Tree, path: &str, place: usize) -> Option<Arc<Grant>> {
        match self
            .places
            .get(path)
            .map(|parents| (*parents, &self.seen[*parents]))
        {
            Some((parents, seen)) if seen.changed && parents > place => seen.grant.clone(),
            _ => live.get(path).map(|node| Arc::clone(node.grant())),
        }
    }
}
