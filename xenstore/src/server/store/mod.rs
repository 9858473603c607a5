//! The tree of nodes. Immutable snapshots are cheap: nodes are shared, and a change copies what it
//! changes, from the root down to it, if somebody has a snapshot of that.
//!
//! Each module uses only what is above it: [`grant`]; `children`, in any order by name; `node`.

pub mod grant;

mod children;
mod node;

pub use node::{Node, empty_node_bytes};

use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, last_name, names, parent_of};
use crate::perms::Perms;
use grant::Grant;
use libgnt::DomId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a domain has in the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Nodes.
    pub nodes: usize,
    /// Bytes of them: paths, and what [`Node::content_bytes`] counts.
    pub bytes: usize,
}

/// All nodes. Cloning makes a snapshot.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Node>,
    /// Special watches, which have permissions, as if they were nodes.
    special: BTreeMap<String, Arc<Node>>,
    owned: BTreeMap<DomId, Owned>,
    generation: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

/// A node of a snapshot, and its path.
pub type Found = (String, Arc<Node>);

impl Tree {
    /// A root that dom0 owns and nobody else may use.
    pub fn new() -> Tree {
        let root = Node::new("", b"", Grant::new(Perms::private(), 1), 1);
        let owned = Owned {
            nodes: 1,
            bytes: "/".len() + root.content_bytes(),
        };
        let special = |name: &&str| {
            let node = Node::new(name, b"", Arc::clone(root.grant()), 1);
            ((*name).to_owned(), Arc::new(node))
        };
        let special = [INTRODUCE_DOMAIN, RELEASE_DOMAIN]
            .iter()
            .map(special)
            .collect();
        Tree {
            root: Arc::new(root),
            special,
            owned: BTreeMap::from([(DomId::DOM0, owned)]),
            generation: 1,
        }
    }

    /// Counts changes: two trees of one history with equal generations are equal.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The node at a path, or the special watch of that name.
    pub fn get(&self, path: &str) -> Option<&Arc<Node>> {
        if is_special(path) {
            return self.special.get(path);
        }
        let mut node = &self.root;
        for name in names(path) {
            node = node.child(name)?;
        }
        Some(node)
    }

    /// A further special watch, with permissions of its own.
    pub fn insert_special(&mut self, path: &str, grant: Arc<Grant>) {
        self.generation += 1;
        let node = Node::new(path, b"", grant, self.generation);
        self.special.insert(path.to_owned(), Arc::new(node));
    }

    /// Removes a special watch's permissions.
    pub fn remove_special(&mut self, path: &str) {
        self.special.remove(path);
    }

    /// The special watches.
    pub fn special(&self) -> impl Iterator<Item = (&str, &Arc<Node>)> {
        self.special.iter().map(|(path, node)| (&**path, node))
    }

    /// What a domain owns.
    pub fn owned(&self, domid: DomId) -> Owned {
        self.owned.get(&domid).copied().unwrap_or_default()
    }

    /// How many nodes a domain owns.
    pub fn owned_by(&self, domid: DomId) -> usize {
        self.owned(domid).nodes
    }

    /// All owners.
    pub fn owners(&self) -> impl Iterator<Item = (DomId, Owned)> {
        self.owned.iter().map(|(domid, owned)| (*domid, *owned))
    }

    /// Sets a value. False if there is no such node.
    pub fn set_value(&mut self, path: &str, value: &[u8]) -> bool {
        self.change(path, |node| node.set_value(value)).is_some()
    }

    /// Replaces permissions. False if there is no such node.
    pub fn set_grant(&mut self, path: &str, grant: Arc<Grant>) -> bool {
        self.change(path, |node| node.grant = grant).is_some()
    }

    /// Value and permissions at once, of a node that was seen elsewhere. False if there is no such node.
    pub fn copy_from(&mut self, path: &str, other: &Node) -> bool {
        self.change(path, |node| node.become_copy(other)).is_some()
    }

    /// Makes a node, and those above it, other nodes than a snapshot's, though nothing changes.
    pub fn touch(&mut self, path: &str) {
        self.change(path, |_| ());
    }

    /// Adds a node. False if the parent is missing or the node is there.
    pub fn insert(&mut self, path: &str, value: &[u8], grant: Arc<Grant>) -> bool {
        let parent = match parent_of(path) {
            Some(parent)
                if !is_special(path) && self.get(parent).is_some() && self.get(path).is_none() =>
            {
                parent
            }
            _ => return false,
        };
        let node = Node::new(last_name(path), value, grant, self.generation + 1);
        self.count(&node, path, 1);
        self.change(parent, |parent| insert_child(parent, Arc::new(node)));
        true
    }

    /// Removes a node and all below it; says what went, children before their parents, siblings by
    /// age. Nothing for the root.
    pub fn remove(&mut self, path: &str) -> Vec<Found> {
        let Some(parent) = parent_of(path) else {
            return Vec::new();
        };
        if is_special(path) {
            return Vec::new();
        }
        // Turned round, this is from the oldest child's oldest grandchild up.
        let mut gone = self.walk(path, true);
        gone.reverse();
        for (path, node) in &gone {
            self.count(node, path, -1);
        }
        if !gone.is_empty() {
            self.change(parent, |parent| remove_child(parent, last_name(path)));
        }
        gone
    }

    /// Removes all nodes but the root.
    pub fn remove_all(&mut self) {
        let names: Vec<String> = self
            .root
            .children()
            .map(|child| child_path("/", child.name()))
            .collect();
        for path in names {
            self.remove(&path);
        }
        self.touch("/");
    }

    /// Becomes what a copy of it has become.
    pub fn become_copy(&mut self, copy: &Tree) {
        let generation = self.generation.max(copy.generation) + 1;
        *self = copy.clone();
        self.generation = generation;
    }

    /// Takes a node, with all below it, as it has become in a copy, which was made when this tree was
    /// `before`. Nothing has changed there since.
    pub fn graft(&mut self, path: &str, before: &Tree, copy: &Tree) {
        let (Some(node), Some(parent)) = (copy.get(path), parent_of(path)) else {
            return;
        };
        self.generation = self.generation.max(copy.generation);
        self.change(parent, |parent| insert_child(parent, Arc::clone(node)));
        for domid in before
            .owned
            .keys()
            .chain(copy.owned.keys())
            .copied()
            .collect::<BTreeSet<_>>()
        {
            let (was, is) = (before.owned(domid), copy.owned(domid));
            let more = |was: usize, is: usize| is as isize - was as isize;
            self.add(domid, more(was.nodes, is.nodes), more(was.bytes, is.bytes));
        }
    }

    /// A node and all below it, parents before their children, siblings by age.
    pub fn subtree(&self, top: &str) -> Vec<Found> {
        self.walk(top, false)
    }

    fn walk(&self, top: &str, youngest_first: bool) -> Vec<Found> {
        let mut found = Vec::new();
        let mut todo: Vec<Found> = self
            .get(top)
            .map(|node| (top.to_owned(), Arc::clone(node)))
            .into_iter()
            .collect();
        while let Some((path, node)) = todo.pop() {
            let mut children = node.children_by_age();
            if !youngest_first {
                children.reverse();
            }
            for child in children {
                todo.push((child_path(&path, child.name()), Arc::clone(child)));
            }
            found.push((path, node));
        }
        found
    }

    /// What was made of a tree of [`Tree::subtree`] and a generation. For what is read back from a file.
    pub fn restored(
        generation: u64,
        nodes: impl IntoIterator<Item = (String, Vec<u8>, Perms)>,
    ) -> Tree {
        let mut tree = Tree::new();
        tree.generation = generation;
        for (path, value, perms) in nodes {
            let grant = Grant::new(perms, generation);
            if path == "/" || is_special(&path) {
                tree.set_value(&path, &value);
                tree.set_grant(&path, grant);
            } else {
                tree.insert(&path, &value, grant);
            }
        }
        tree
    }

    fn change<T>(&mut self, path: &str, change: impl FnOnce(&mut Node) -> T) -> Option<T> {
        if is_special(path) {
            let node = Arc::make_mut(self.special.get_mut(path)?);
            self.generation += 1;
            node.generation = self.generation;
            return Some(change(node));
        }
        let mut node = Arc::make_mut(&mut self.root);
        for name in names(path) {
            let children = node.children.as_mut()?;
            node = Arc::make_mut(children.get_mut(name.as_bytes())?);
        }
        self.generation += 1;
        node.generation = self.generation;
        let before = (node.grant.owner(), node.content_bytes());
        let changed = change(node);
        let after = (node.grant.owner(), node.content_bytes());
        self.recount(before, after, path.len());
        Some(changed)
    }

    fn recount(&mut self, before: (DomId, usize), after: (DomId, usize), path_bytes: usize) {
        if before == after {
            return;
        }
        for ((domid, bytes), sign) in [(before, -1), (after, 1)] {
            self.add(domid, sign, sign * (bytes + path_bytes) as isize);
        }
    }

    fn count(&mut self, node: &Node, path: &str, sign: isize) {
        let bytes = (node.content_bytes() + path.len()) as isize;
        self.add(node.grant.owner(), sign, sign * bytes);
    }

    fn add(&mut self, domid: DomId, nodes: isize, bytes: isize) {
        let owned = self.owned.entry(domid).or_default();
        owned.nodes = owned.nodes.saturating_add_signed(nodes);
        owned.bytes = owned.bytes.saturating_add_signed(bytes);
        if owned.nodes == 0 {
            self.owned.remove(&domid);
        }
    }
}

fn is_special(path: &str) -> bool {
    path.starts_with('@')
}

/// The path of a child.
pub fn child_path(parent: &str, name: &str) -> String {
    match parent {
        "/" => format!("/{name}"),
        _ => format!("{parent}/{name}"),
    }
}

/// A node with one more child.
pub fn insert_child(parent: &mut Node, child: Arc<Node>) {
    parent.children.get_or_insert_default().insert(child);
}

/// A node with one child less.
pub fn remove_child(parent: &mut Node, name: &str) {
    if let Some(children) = &mut parent.children {
        children.remove(name.as_bytes());
        if children.len() == 0 {
            parent.children = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perms::{Permission, Rights};
    use proptest::prelude::*;

    fn owner(domid: u16) -> Arc<Grant> {
        let perms = Perms::new(vec![Permission::new(Rights::None, DomId(domid))]);
        Grant::new(perms.unwrap(), 1)
    }

    #[test]
    fn a_snapshot_does_not_move() {
        let mut tree = Tree::new();
        assert!(tree.insert("/a", b"1", owner(0)));
        assert!(tree.insert("/a/b", b"2", owner(1)));
        let snapshot = tree.clone();
        assert!(tree.set_value("/a/b", b"3"));
        let gone: Vec<_> = tree.remove("/a").into_iter().map(|(p, _)| p).collect();
        assert_eq!(gone, ["/a/b", "/a"]);
        assert_eq!(snapshot.get("/a/b").unwrap().value(), b"2");
        assert_eq!(
            (tree.owned_by(DomId(1)), snapshot.owned_by(DomId(1))),
            (0, 1)
        );
    }

    #[test]
    fn generations_are_the_nodes_own() {
        let mut tree = Tree::new();
        tree.insert("/a", b"", owner(0));
        tree.insert("/a/b", b"", owner(0));
        let generation = |tree: &Tree, p: &str| tree.get(p).unwrap().generation();
        let (a, root) = (generation(&tree, "/a"), generation(&tree, "/"));
        tree.set_value("/a/b", b"x");
        assert_eq!(
            generation(&tree, "/a"),
            a,
            "a grandchild's value is not the parent's change"
        );
        tree.insert("/a/c", b"", owner(0));
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
                let p = &text[..];
                let parent = parent_of(p).unwrap().to_owned();
                match op {
                    0 => {
                        let expected = model.contains_key(&parent) && !model.contains_key(&text);
                        prop_assert_eq!(tree.insert(p, &[value], owner(domid)), expected);
                        if expected { model.insert(p.to_owned(), (vec![value], domid)); }
                    }
                    1 => {
                        let there = model.get_mut(p).map(|n| n.0 = vec![value]).is_some();
                        prop_assert_eq!(tree.set_value(p, &[value]), there);
                    }
                    2 => {
                        let there = model.get_mut(p).map(|n| n.1 = domid).is_some();
                        prop_assert_eq!(tree.set_grant(p, owner(domid)), there);
                    }
                    _ => {
                        let below = format!("{p}/");
                        let before = model.len();
                        model.retain(|k, _| *k != p && !k.starts_with(&below));
                        prop_assert_eq!(tree.remove(p).len(), before - model.len());
                    }
                }
            }
            let all = tree.subtree("/");
            prop_assert_eq!(all.len(), model.len());
            for (p, node) in &all {
                let (value, domid) = &model[p.as_str()];
                prop_assert_eq!(tree.get(p).unwrap().value(), value);
                prop_assert_eq!(node.grant().owner(), DomId(*domid));
            }
            for domid in 0..3 {
                let mine = all.iter().filter(|(_, node)| node.grant().owner() == DomId(domid));
                let bytes = mine.clone().map(|(p, node)| p.len() + node.content_bytes());
                let owned = Owned { nodes: mine.clone().count(), bytes: bytes.sum() };
                prop_assert_eq!(tree.owned(DomId(domid)), owned);
            }
        }
    }
}
