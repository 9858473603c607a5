//! One node, in few bytes: a store has many.

use super::children::Children;
use super::grant::Grant;
use crate::perms::Perms;
use std::sync::Arc;

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The name, then the value.
    text: Box<[u8]>,
    /// At most 2048: a path is no longer.
    name_bytes: u16,
    pub(super) grant: Arc<Grant>,
    pub(super) generation: u64,
    born: u64,
    pub(super) children: Option<Box<Children>>,
}

/// What xenstored stores for each permission: `struct xs_permissions`.
const PERMISSION_BYTES: usize = 8;

impl Node {
    /// A node without children, as old as `born`.
    pub fn new(name: &str, value: &[u8], grant: Arc<Grant>, born: u64) -> Node {
        Node {
            text: [name.as_bytes(), value].concat().into(),
            name_bytes: u16::try_from(name.len()).unwrap_or(u16::MAX),
            grant,
            generation: born,
            born,
            children: None,
        }
    }

    /// Its name in its directory; empty for the root.
    pub fn name(&self) -> &str {
        std::str::from_utf8(self.name_in_bytes()).unwrap_or_default()
    }

    pub(super) fn name_in_bytes(&self) -> &[u8] {
        &self.text[..self.name_bytes.into()]
    }

    /// Its bytes; empty for a plain directory.
    pub fn value(&self) -> &[u8] {
        &self.text[self.name_bytes.into()..]
    }

    /// Another value.
    pub fn set_value(&mut self, value: &[u8]) {
        if self.value().len() == value.len() {
            let start = self.name_bytes.into();
            self.text[start..].copy_from_slice(value);
        } else {
            self.text = [self.name_in_bytes(), value].concat().into();
        }
    }

    /// Who may do what.
    pub fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    /// Other permissions; says the old ones.
    pub fn set_grant(&mut self, grant: Arc<Grant>) -> Arc<Grant> {
        std::mem::replace(&mut self.grant, grant)
    }

    /// Who may do what, as a list.
    pub fn perms(&self) -> &Perms {
        self.grant.perms()
    }

    /// Changes with the value, the permissions and the list of children, and only then.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its place among its siblings, which are listed by age.
    pub fn born(&self) -> u64 {
        self.born
    }

    /// Its children, in the order of their names.
    pub fn children(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.children.iter().flat_map(|children| children.iter())
    }

    pub(super) fn child(&self, name: &str) -> Option<&Arc<Node>> {
        self.children.as_ref()?.get(name.as_bytes())
    }

    /// Its children, the oldest first.
    pub fn children_by_age(&self) -> Vec<&Arc<Node>> {
        let mut children: Vec<_> = self.children().collect();
        children.sort_unstable_by_key(|child| child.born);
        children
    }

    /// The children's names, the oldest first, each with its NUL: xenstored's list.
    pub fn names(&self) -> Vec<u8> {
        let mut names = Vec::with_capacity(self.names_bytes());
        for child in self.children_by_age() {
            names.extend_from_slice(child.name_in_bytes());
            names.push(0);
        }
        names
    }

    fn names_bytes(&self) -> usize {
        let of = |children: &Children| children.names_bytes() + children.len();
        self.children.as_deref().map_or(0, of)
    }

    /// What xenstored stores for the node beside its header (`calc_node_acc_size`).
    pub fn content_bytes(&self) -> usize {
        PERMISSION_BYTES * self.perms().entries().len() + self.value().len() + self.names_bytes()
    }

    /// Makes it another node's copy of an age, but for the children.
    pub(super) fn become_copy(&mut self, other: &Node) {
        self.set_value(other.value());
        self.grant = Arc::clone(&other.grant);
    }
}

/// What xenstored stores for an empty node with so many permissions, beside its header.
pub fn empty_node_bytes(permissions: usize) -> usize {
    PERMISSION_BYTES * permissions
}
