//! The children of one node, by name. A copy shares all it can: a change to a directory of which
//! somebody has a snapshot costs about as much as the square root of its length.

use super::node::Node;
use std::sync::Arc;

/// A list longer than this is split.
const LIST_MAX: usize = 128;
/// How a short list grows: most directories stay short, and a store has many.
const GROWTH: usize = 4;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Children {
    lists: Lists,
    count: u32,
    /// Of all names, without their NULs.
    names_bytes: u32,
}

#[derive(Clone, Debug)]
enum Lists {
    One(Vec<Arc<Node>>),
    /// Each list's names are all before the next one's. None is empty.
    Many(Vec<Arc<Vec<Arc<Node>>>>),
}

impl Default for Lists {
    fn default() -> Lists {
        Lists::One(Vec::new())
    }
}

fn place(list: &[Arc<Node>], name: &[u8]) -> Result<usize, usize> {
    list.binary_search_by(|node| node.name_in_bytes().cmp(name))
}

/// The list in which a name is, or belongs.
fn list_of(lists: &[Arc<Vec<Arc<Node>>>], name: &[u8]) -> usize {
    let first = |list: &Arc<Vec<Arc<Node>>>| {
        list.first()
            .is_some_and(|node| node.name_in_bytes() <= name)
    };
    lists.partition_point(first).saturating_sub(1)
}

impl Children {
    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    pub(super) fn names_bytes(&self) -> usize {
        self.names_bytes as usize
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        let (one, many) = match &self.lists {
            Lists::One(list) => (&list[..], &[][..]),
            Lists::Many(lists) => (&[][..], &lists[..]),
        };
        one.iter().chain(many.iter().flat_map(|list| list.iter()))
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        let list = match &self.lists {
            Lists::One(list) => list,
            Lists::Many(lists) => lists.get(list_of(lists, name))?,
        };
        list.get(place(list, name).ok()?)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Arc<Node>> {
        let list = match &mut self.lists {
            Lists::One(list) => list,
            Lists::Many(lists) => {
                let n = list_of(lists, name);
                Arc::make_mut(lists.get_mut(n)?)
            }
        };
        let place = place(list, name).ok()?;
        list.get_mut(place)
    }

    /// Adds a child; one of the same name goes.
    pub(super) fn insert(&mut self, node: Arc<Node>) {
        if let Some(there) = self.get_mut(node.name_in_bytes()) {
            *there = node;
            return;
        }
        self.count += 1;
        self.names_bytes += node.name_in_bytes().len() as u32;
        match &mut self.lists {
            Lists::One(list) => {
                let at = place(list, node.name_in_bytes()).unwrap_or_else(|at| at);
                if list.len() == list.capacity() {
                    list.reserve_exact(GROWTH.max(list.len() / 4));
                }
                list.insert(at, node);
                if list.len() > LIST_MAX {
                    let (low, high) = split(std::mem::take(list));
                    self.lists = Lists::Many(vec![Arc::new(low), Arc::new(high)]);
                }
            }
            Lists::Many(lists) => {
                let n = list_of(lists, node.name_in_bytes());
                let list = Arc::make_mut(&mut lists[n]);
                let at = place(list, node.name_in_bytes()).unwrap_or_else(|at| at);
                list.insert(at, node);
                if list.len() > LIST_MAX {
                    let (low, high) = split(std::mem::take(list));
                    *list = low;
                    lists.insert(n + 1, Arc::new(high));
                }
            }
        }
    }

    /// Takes a child out.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let gone = match &mut self.lists {
            Lists::One(list) => list.remove(place(list, name).ok()?),
            Lists::Many(lists) => {
                let n = list_of(lists, name);
                let at = place(lists.get(n)?, name).ok()?;
                let list = Arc::make_mut(&mut lists[n]);
                let gone = list.remove(at);
                if list.is_empty() {
                    lists.remove(n);
                }
                if lists.is_empty() {
                    self.lists = Lists::default();
                }
                gone
            }
        };
        self.count -= 1;
        self.names_bytes -= gone.name_in_bytes().len() as u32;
        Some(gone)
    }
}

fn split(mut list: Vec<Arc<Node>>) -> (Vec<Arc<Node>>, Vec<Arc<Node>>) {
    let mut high = Vec::with_capacity(LIST_MAX + 1);
    // Names that come in order fill the lists when only the last part is split off.
    high.extend(list.drain(list.len() * 3 / 4..));
    (list, high)
}

#[cfg(test)]
mod tests {
    use super::super::grant::Grant;
    use super::*;
    use crate::perms::Perms;
    use std::collections::BTreeMap;

    /// Against a sorted map, over every length at which lists are split and emptied.
    #[test]
    fn behaves_as_a_map() {
        let grant = Grant::new(Perms::private(), 0);
        for seed in 0..8 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut children, mut model) = (Children::default(), BTreeMap::new());
            for step in 0..6000u64 {
                let name = rng.u32(0..1500).to_string();
                // It grows, then shrinks to nothing.
                if rng.u64(0..6000) > step {
                    let node = Node::new(&name, b"", Arc::clone(&grant), step);
                    children.insert(Arc::new(node));
                    model.insert(name, step);
                } else {
                    let gone = children.remove(name.as_bytes()).map(|node| node.born());
                    assert_eq!(gone, model.remove(&name), "seed {seed} step {step}");
                }
                if step % 97 == 0 {
                    let mine = children.iter().map(|n| (n.name().to_owned(), n.born()));
                    assert!(mine.eq(model.clone()), "seed {seed} step {step}");
                    assert_eq!(children.len(), model.len());
                    let bytes: usize = model.keys().map(String::len).sum();
                    assert_eq!(children.names_bytes(), bytes);
                    for name in model.keys() {
                        assert!(children.get(name.as_bytes()).is_some());
                    }
                    assert!(children.get(b"none").is_none());
                }
            }
            let names: Vec<_> = model.into_keys().collect();
            for name in names {
                assert!(children.remove(name.as_bytes()).is_some());
            }
            assert_eq!((children.len(), children.names_bytes()), (0, 0));
            assert!(children.remove(b"1").is_none());
        }
    }

    #[test]
    fn a_copy_does_not_move() {
        let grant = Grant::new(Perms::private(), 0);
        let node = |n: u32| Arc::new(Node::new(&n.to_string(), b"", Arc::clone(&grant), n.into()));
        let mut children = Children::default();
        (0..1000).for_each(|n| children.insert(node(n)));
        let copy = children.clone();
        for n in 0..500 {
            children.remove(n.to_string().as_bytes());
        }
        assert_eq!((children.len(), copy.len()), (500, 1000));
        assert_eq!((children.iter().count(), copy.iter().count()), (500, 1000));
    }
}
