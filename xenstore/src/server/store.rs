//! The tree of nodes. Immutable snapshots are cheap: nodes are shared, a change copies the path
//! from the root down to it.

use crate::path::Path;
use crate::perms::Perms;
use libgnt::DomId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its bytes; empty for a plain directory.
    pub value: Vec<u8>,
    /// Who may do what.
    pub perms: Perms,
    /// Changes with the value, the permissions and the list of children, and only then.
    pub generation: u64,
    /// The tree's generation when it was made.
    born: u64,
    children: BTreeMap<Arc<str>, Arc<Node>>,
}

impl Node {
    /// The children's names, the oldest first, as xenstored's list has them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_age().map(|(name, _)| name)
    }

    fn by_age(&self) -> impl DoubleEndedIterator<Item = (&str, &Node)> {
        let children = self.children.iter();
        let mut children: Vec<_> = children.map(|(n, c)| (c.born, &**n, &**c)).collect();
        children.sort_unstable_by_key(|(born, _, _)| *born);
        children.into_iter().map(|(_, name, child)| (name, child))
    }

    /// What xenstored stores for the node: that has a limit (`write_node_raw`).
    pub fn record_bytes(&self) -> usize {
        let names: usize = self.children.keys().map(|name| name.len() + 1).sum();
        record_bytes(&self.perms) + self.value.len() + names
    }
}

/// What xenstored stores for an empty node: `struct xs_tdb_record_hdr`, and a
/// `struct xs_permissions` for each permission.
pub fn record_bytes(perms: &Perms) -> usize {
    24 + 8 * perms.entries().len()
}

/// All nodes. Cloning makes a snapshot.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Node>,
    owned: BTreeMap<DomId, usize>,
    generation: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// A root that dom0 owns and nobody else may use.
    pub fn new() -> Tree {
        let root = Node {
            value: Vec::new(),
            perms: Perms::private(),
            generation: 1,
            born: 1,
            children: BTreeMap::new(),
        };
        Tree {
            root: Arc::new(root),
            owned: BTreeMap::from([(DomId::DOM0, 1)]),
            generation: 1,
        }
    }

    /// Counts changes: two trees of one history with equal generations are equal.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The node at a path.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        let mut node = &*self.root;
        for name in path.components() {
            node = node.children.get(name)?;
        }
        Some(node)
    }

    /// How many nodes a domain owns.
    pub fn owned_by(&self, domid: DomId) -> usize {
        self.owned.get(&domid).copied().unwrap_or(0)
    }

    /// Sets a value. False if there is no such node.
    pub fn set_value(&mut self, path: &Path, value: &[u8]) -> bool {
        self.change(path, |node| node.value = value.to_vec())
            .is_some()
    }

    /// Replaces permissions. False if there is no such node.
    pub fn set_perms(&mut self, path: &Path, perms: Perms) -> bool {
        let owner = perms.owner();
        match self.change(path, |node| std::mem::replace(&mut node.perms, perms)) {
            Some(old) => {
                self.count(old.owner(), -1);
                self.count(owner, 1);
                true
            }
            None => false,
        }
    }

    /// Adds a node under an existing parent. False if the parent is missing or the node is there.
    pub fn insert(&mut self, path: &Path, value: &[u8], perms: Perms) -> bool {
        let Some(parent) = path.parent() else {
            return false;
        };
        if self.get(&parent).is_none() || self.get(path).is_some() {
            return false;
        }
        let owner = perms.owner();
        let generation = self.generation + 1;
        let node = Node {
            value: value.to_vec(),
            perms,
            generation,
            born: generation,
            children: BTreeMap::new(),
        };
        let name: Arc<str> = path.name().into();
        self.change(&parent, |parent| {
            parent.children.insert(name, Arc::new(node))
        });
        self.count(owner, 1);
        true
    }

    /// Removes a node and all below it; says what went, children before parents. Nothing for the root.
    pub fn remove(&mut self, path: &Path) -> Vec<(Path, Perms)> {
        let Some(parent) = path.parent() else {
            return Vec::new();
        };
        if self.get(path).is_none() {
            return Vec::new();
        }
        let gone = self.children_first(path);
        self.change(&parent, |parent| parent.children.remove(path.name()));
        for (_, perms) in &gone {
            self.count(perms.owner(), -1);
        }
        gone
    }

    /// A node and all below it, parents before children, older ones before younger ones.
    pub fn subtree(&self, top: &Path) -> Vec<(Path, Perms)> {
        let mut found = Vec::new();
        let mut todo: Vec<(Path, &Node)> = self
            .get(top)
            .map(|n| (top.clone(), n))
            .into_iter()
            .collect();
        while let Some((path, node)) = todo.pop() {
            todo.extend(
                node.by_age()
                    .rev()
                    .map(|(name, child)| (path.child(name), child)),
            );
            found.push((path, node.perms.clone()));
        }
        found
    }

    /// As [`Tree::subtree`], but children before parents, still older ones before younger ones.
    fn children_first(&self, top: &Path) -> Vec<(Path, Perms)> {
        let mut found = Vec::new();
        let mut todo: Vec<(Path, &Node)> = Vec::new();
        todo.extend(self.get(top).map(|node| (top.clone(), node)));
        while let Some((path, node)) = todo.pop() {
            let children = node.by_age();
            todo.extend(children.map(|(name, child)| (path.child(name), child)));
            found.push((path, node.perms.clone()));
        }
        // Parents before children and younger ones before older ones, the other way round.
        found.reverse();
        found
    }

    fn change<T>(&mut self, path: &Path, change: impl FnOnce(&mut Node) -> T) -> Option<T> {
        self.get(path)?;
        let mut node = Arc::make_mut(&mut self.root);
        for name in path.components() {
            node = Arc::make_mut(node.children.get_mut(name)?);
        }
        self.generation += 1;
        node.generation = self.generation;
        Some(change(node))
    }

    fn count(&mut self, domid: DomId, by: isize) {
        let count = self.owned.entry(domid).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            self.owned.remove(&domid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perms::{Permission, Rights};
    use proptest::prelude::*;

    fn path(text: &str) -> Path {
        Path::parse_node(text.as_bytes(), DomId::DOM0).unwrap()
    }

    fn owner(domid: u16) -> Perms {
        Perms::new(vec![Permission::new(Rights::None, DomId(domid))]).unwrap()
    }

    #[test]
    fn a_snapshot_does_not_move() {
        let mut tree = Tree::new();
        assert!(tree.insert(&path("/a"), b"1", owner(0)));
        assert!(tree.insert(&path("/a/b"), b"2", owner(1)));
        let snapshot = tree.clone();
        assert!(tree.set_value(&path("/a/b"), b"3"));
        assert_eq!(tree.remove(&path("/a")).len(), 2);
        assert_eq!(snapshot.get(&path("/a/b")).unwrap().value, b"2");
        assert_eq!(
            (tree.owned_by(DomId(1)), snapshot.owned_by(DomId(1))),
            (0, 1)
        );
    }

    #[test]
    fn generations_are_the_nodes_own() {
        let mut tree = Tree::new();
        tree.insert(&path("/a"), b"", owner(0));
        tree.insert(&path("/a/b"), b"", owner(0));
        let generation = |tree: &Tree, p: &str| tree.get(&path(p)).unwrap().generation;
        let (a, root) = (generation(&tree, "/a"), generation(&tree, "/"));
        tree.set_value(&path("/a/b"), b"x");
        assert_eq!(
            generation(&tree, "/a"),
            a,
            "a grandchild's value is not the parent's change"
        );
        tree.insert(&path("/a/c"), b"", owner(0));
        assert_ne!(generation(&tree, "/a"), a, "a new child is");
        assert_eq!(generation(&tree, "/"), root);
    }

    proptest! {
        /// The tree against the plainest model: a sorted map of whole paths.
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((0u8..4, "/[ab](/[ab]){0,3}", any::<u8>(), 0u16..3), 0..60)) {
            let mut tree = Tree::new();
            let mut model: BTreeMap<String, (Vec<u8>, u16)> = BTreeMap::from([("/".into(), (vec![], 0))]);
            for (op, text, value, domid) in ops {
                let p = path(&text);
                let parent = p.parent().unwrap().as_str().to_owned();
                match op {
                    0 => {
                        let expected = model.contains_key(&parent) && !model.contains_key(&text);
                        prop_assert_eq!(tree.insert(&p, &[value], owner(domid)), expected);
                        if expected { model.insert(text, (vec![value], domid)); }
                    }
                    1 => {
                        let there = model.get_mut(&text).map(|n| n.0 = vec![value]).is_some();
                        prop_assert_eq!(tree.set_value(&p, &[value]), there);
                    }
                    2 => {
                        let there = model.get_mut(&text).map(|n| n.1 = domid).is_some();
                        prop_assert_eq!(tree.set_perms(&p, owner(domid)), there);
                    }
                    _ => {
                        let below = format!("{text}/");
                        let before = model.len();
                        model.retain(|k, _| *k != text && !k.starts_with(&below));
                        prop_assert_eq!(tree.remove(&p).len(), before - model.len());
                    }
                }
            }
            let all = tree.subtree(&Path::root());
            prop_assert_eq!(all.len(), model.len());
            for (p, perms) in all {
                let (value, domid) = &model[p.as_str()];
                prop_assert_eq!(&tree.get(&p).unwrap().value, value);
                prop_assert_eq!(perms.owner(), DomId(*domid));
            }
            for domid in 0..3 {
                let count = model.values().filter(|n| n.1 == domid).count();
                prop_assert_eq!(tree.owned_by(DomId(domid)), count);
            }
        }
    }
}
