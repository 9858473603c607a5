//! The children of one node, by name. A copy shares all it can: a change to a directory of which
//! somebody has a snapshot costs about as much as the square root of its length.

use std::cmp::Ordering;
use std::sync::Arc;

/// A list longer than this is split.
const LIST_MAX: usize = 128;
/// How a short list grows: most directories stay short, and a store has many.
const GROWTH: usize = 4;

/// What can be a child.
pub(super) trait Named {
    /// Its name among its siblings.
    fn name_in_bytes(&self) -> &[u8];
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Children<N> {
    lists: Lists<N>,
    count: u32,
    /// Of all names, without their NULs.
    names_bytes: u32,
}

type List<N> = Vec<Entry<N>>;

/// A child, and the start of its name: most searches look at no node but the one that they find.
#[derive(Debug)]
struct Entry<N> {
    start: u64,
    node: Arc<N>,
}

impl<N> Clone for Entry<N> {
    fn clone(&self) -> Entry<N> {
        Entry {
            start: self.start,
            node: Arc::clone(&self.node),
        }
    }
}

/// The first bytes of a name, so that numbers are in the names' order, or equal.
fn start_of(name: &[u8]) -> u64 {
    match name.first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let all = name.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
            // No shift by all 64 bits.
            if name.is_empty() {
                0
            } else {
                all << (64 - 8 * name.len())
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Lists<N> {
    One(List<N>),
    /// Each list's names are all before the next one's. None is empty.
    Many(Vec<Arc<List<N>>>),
}

impl<N> Default for Children<N> {
    fn default() -> Children<N> {
        Children {
            lists: Lists::One(Vec::new()),
            count: 0,
            names_bytes: 0,
        }
    }
}

fn order<N: Named>(entry: &Entry<N>, start: u64, name: &[u8]) -> Ordering {
    let by_start = entry.start.cmp(&start);
    by_start.then_with(|| entry.node.name_in_bytes().cmp(name))
}

fn place<N: Named>(list: &[Entry<N>], name: &[u8]) -> Result<usize, usize> {
    let start = start_of(name);
    // By numbers alone, which processors do without a guess.
    let first = list.partition_point(|entry| entry.start < start);
    match &list[first..] {
        [entry, ..] if entry.node.name_in_bytes() == name => Ok(first),
        rest => {
            let found = rest.binary_search_by(|entry| order(entry, start, name));
            found.map(|at| first + at).map_err(|at| first + at)
        }
    }
}

/// The list in which a name is, or belongs.
fn list_of<N: Named>(lists: &[Arc<List<N>>], name: &[u8]) -> usize {
    let start = start_of(name);
    let first = |list: &Arc<List<N>>| {
        let first = list.first();
        first.is_some_and(|entry| order(entry, start, name).is_le())
    };
    lists.partition_point(first).saturating_sub(1)
}

impl<N: Named> Children<N> {
    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    pub(super) fn names_bytes(&self) -> usize {
        self.names_bytes as usize
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<N>> {
        let (one, many) = match &self.lists {
            Lists::One(list) => (&list[..], &[][..]),
            Lists::Many(lists) => (&[][..], &lists[..]),
        };
        let many = many.iter().flat_map(|list| list.iter());
        one.iter().chain(many).map(|entry| &entry.node)
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<N>> {
        let list = match &self.lists {
            Lists::One(list) => list,
            Lists::Many(lists) => lists.get(list_of(lists, name))?,
        };
        Some(&list.get(place(list, name).ok()?)?.node)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Arc<N>> {
        let list = match &mut self.lists {
            Lists::One(list) => list,
            Lists::Many(lists) => {
                let n = list_of(lists, name);
                Arc::make_mut(lists.get_mut(n)?)
            }
        };
        let place = place(list, name).ok()?;
        Some(&mut list.get_mut(place)?.node)
    }

    /// Adds a child; one of the same name goes.
    pub(super) fn insert(&mut self, node: Arc<N>) {
        if let Some(there) = self.get_mut(node.name_in_bytes()) {
            *there = node;
            return;
        }
        self.count += 1;
        self.names_bytes += node.name_in_bytes().len() as u32;
        let start = start_of(node.name_in_bytes());
        match &mut self.lists {
            Lists::One(list) => {
                let at = place(list, node.name_in_bytes()).unwrap_or_else(|at| at);
                if list.len() == list.capacity() {
                    list.reserve_exact(GROWTH.max(list.len() / 4));
                }
                list.insert(at, Entry { start, node });
                if list.len() > LIST_MAX {
                    let (low, high) = split(std::mem::take(list));
                    self.lists = Lists::Many(vec![Arc::new(low), Arc::new(high)]);
                }
            }
            Lists::Many(lists) => {
                let n = list_of(lists, node.name_in_bytes());
                let list = Arc::make_mut(&mut lists[n]);
                let at = place(list, node.name_in_bytes()).unwrap_or_else(|at| at);
                list.insert(at, Entry { start, node });
                if list.len() > LIST_MAX {
                    let (low, high) = split(std::mem::take(list));
                    *list = low;
                    lists.insert(n + 1, Arc::new(high));
                }
            }
        }
    }

    /// Takes a child out.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<N>> {
        let gone = match &mut self.lists {
            Lists::One(list) => list.remove(place(list, name).ok()?).node,
            Lists::Many(lists) => {
                let n = list_of(lists, name);
                let at = place(lists.get(n)?, name).ok()?;
                let list = Arc::make_mut(&mut lists[n]);
                let gone = list.remove(at).node;
                if list.is_empty() {
                    lists.remove(n);
                }
                if lists.is_empty() {
                    self.lists = Lists::One(Vec::new());
                }
                gone
            }
        };
        self.count -= 1;
        self.names_bytes -= gone.name_in_bytes().len() as u32;
        Some(gone)
    }
}

fn split<N>(mut list: List<N>) -> (List<N>, List<N>) {
    let mut high = Vec::with_capacity(LIST_MAX + 1);
    // Names that come in order fill the lists when only the last part is split off.
    high.extend(list.drain(list.len() * 3 / 4..));
    (list, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Clone)]
    struct Child(String, u64);

    impl Named for Child {
        fn name_in_bytes(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    /// Against a sorted map, over every length at which lists are split and emptied.
    #[test]
    fn behaves_as_a_map() {
        for seed in 0..8 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut children, mut model) = (Children::default(), BTreeMap::new());
            for step in 0..6000u64 {
                let name = rng.u32(0..1500).to_string();
                // It grows, then shrinks to nothing.
                if rng.u64(0..6000) > step {
                    children.insert(Arc::new(Child(name.clone(), step)));
                    model.insert(name, step);
                } else {
                    let gone = children.remove(name.as_bytes()).map(|node| node.1);
                    assert_eq!(gone, model.remove(&name), "seed {seed} step {step}");
                }
                if step % 97 == 0 {
                    let mine = children.iter().map(|n| (n.0.clone(), n.1));
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
    fn starts_are_in_the_order_of_names() {
        let mut names: Vec<&[u8]> = vec![
            b"",
            b"0",
            b"00",
            b"1",
            b"10",
            b"2",
            b"a",
            b"aaaaaaaa",
            b"aaaaaaab",
            b"aaaaaaaaa",
            b"ab",
            b"\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        names.sort_unstable();
        assert!(names.is_sorted_by_key(|name| start_of(name)));
        assert!(start_of(b"a") < start_of(b"aa") && start_of(b"aa") < start_of(b"b"));
    }

    #[test]
    fn a_copy_does_not_move() {
        let node = |n: u32| Arc::new(Child(n.to_string(), n.into()));
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
