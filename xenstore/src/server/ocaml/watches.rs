//! Who watches what: a tree of names, through which oxenstored looks from the root down, and of each
//! path's watches the newest first (`trie.ml`, `connections.ml`).

use super::super::watch::ConnId;
use super::text;
use libgnt::DomId;
use std::collections::BTreeMap;

/// A watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Whose.
    pub conn: ConnId,
    /// Of which domain.
    pub domid: DomId,
    /// The path as it was given.
    pub path: Vec<u8>,
    /// Comes back in each event.
    pub token: Vec<u8>,
}

#[derive(Debug, Default)]
struct Place {
    /// The newest last.
    watches: Vec<Watch>,
    below: Vec<(Vec<u8>, Place)>,
}

/// All watches.
#[derive(Debug)]
pub struct Watches {
    root: Place,
    counts: BTreeMap<ConnId, usize>,
    /// Names are in their order; else those that came last are first.
    sorted: bool,
}

/// The names on the way to a path. A special watch is one name, beside the root.
fn key(path: &[u8]) -> Vec<&[u8]> {
    match path {
        [b'@', ..] => vec![path],
        b"/" => vec![b""],
        _ => path.split(|byte| *byte == b'/').collect(),
    }
}

impl Place {
    fn at(&self, name: &[u8]) -> Option<&Place> {
        let mut below = self.below.iter();
        below.find(|(of, _)| of == name).map(|(_, place)| place)
    }

    fn make(&mut self, name: &[u8], sorted: bool) -> &mut Place {
        let there = self.below.iter().position(|(of, _)| of == name);
        let at = there.unwrap_or_else(|| {
            let at = match sorted {
                true => self.below.partition_point(|(of, _)| &**of < name),
                false => 0,
            };
            self.below.insert(at, (name.to_vec(), Place::default()));
            at
        });
        &mut self.below[at].1
    }

    fn is_empty(&self) -> bool {
        self.watches.is_empty() && self.below.is_empty()
    }

    /// Removes what `drops` says, and places where nothing is left.
    fn prune(&mut self, drops: &impl Fn(&Watch) -> bool) {
        self.watches.retain(|watch| !drops(watch));
        for (_, place) in &mut self.below {
            place.prune(drops);
        }
        self.below.retain(|(_, place)| !place.is_empty());
    }

    fn remove(&mut self, key: &[&[u8]], is_it: &impl Fn(&Watch) -> bool) -> bool {
        let Some((name, rest)) = key.split_first() else {
            let at = self.watches.iter().rposition(is_it);
            return at.map(|at| self.watches.remove(at)).is_some();
        };
        let Some(at) = self.below.iter().position(|(of, _)| of == name) else {
            return false;
        };
        let removed = self.below[at].1.remove(rest, is_it);
        if self.below[at].1.is_empty() {
            self.below.remove(at);
        }
        removed
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a Watch>) {
        found.extend(self.watches.iter().rev());
        for (_, place) in &self.below {
            place.collect(found);
        }
    }
}

impl Watches {
    /// None yet.
    pub fn new(sorted: bool) -> Watches {
        Watches {
            root: Place::default(),
            counts: BTreeMap::new(),
            sorted,
        }
    }

    /// How many a connection has.
    pub fn count(&self, conn: ConnId) -> usize {
        self.counts.get(&conn).copied().unwrap_or(0)
    }

    fn place(&self, path: &[u8]) -> Option<&Place> {
        let mut at = &self.root;
        for name in key(path) {
            at = at.at(name)?;
        }
        Some(at)
    }

    /// Has the connection this path, in full, with this token?
    pub fn has(&self, conn: ConnId, path: &[u8], token: &[u8]) -> bool {
        let watches = self.place(path).map(|place| &place.watches);
        let mut watches = watches.into_iter().flatten();
        watches.any(|watch| watch.conn == conn && watch.token == token)
    }

    /// Adds one, on a path in full.
    pub fn add(&mut self, path: &[u8], watch: Watch) {
        *self.counts.entry(watch.conn).or_default() += 1;
        let mut at = &mut self.root;
        for name in key(path) {
            at = at.make(name, self.sorted);
        }
        at.watches.push(watch);
    }

    /// Removes one: of those that were given so, if that counts. False: there is none. As in
    /// [`Watches::remove`](super::super::watch::Watches::remove) only a device has more than one alike, and
    /// the newest goes.
    pub fn remove(
        &mut self,
        conn: ConnId,
        path: &[u8],
        token: &[u8],
        given: Option<&[u8]>,
    ) -> bool {
        let is_it = |watch: &Watch| {
            watch.conn == conn
                && watch.token == token
                && given.is_none_or(|given| watch.path == given)
        };
        let removed = self.root.remove(&key(path), &is_it);
        if removed && let Some(count) = self.counts.get_mut(&conn) {
            *count -= 1;
        }
        removed
    }

    /// Drops all of a connection's.
    pub fn forget(&mut self, conn: ConnId) {
        if self.counts.remove(&conn).is_some_and(|count| count > 0) {
            self.root.prune(&|watch| watch.conn == conn);
        }
    }

    /// Those on exactly this path, the newest first.
    pub fn on(&self, path: &[u8]) -> impl Iterator<Item = &Watch> {
        let watches = self.place(path).map(|place| place.watches.iter().rev());
        watches.into_iter().flatten()
    }

    /// Those on this path and above, from the root down, the newest first.
    pub fn above(&self, path: &str) -> Vec<&Watch> {
        let mut found = Vec::new();
        let mut at = &self.root;
        for name in key(path.as_bytes()) {
            let Some(place) = at.at(name) else {
                break;
            };
            found.extend(place.watches.iter().rev());
            at = place;
        }
        found
    }

    /// Those on paths below this one.
    pub fn below(&self, path: &str) -> Vec<&Watch> {
        let mut found = Vec::new();
        let places = self.place(path.as_bytes()).map(|place| &place.below);
        for (_, place) in places.into_iter().flatten() {
            place.collect(&mut found);
        }
        found
    }
}

impl Watch {
    /// The path that it hears of, in full, is told as this one.
    pub fn told<'a>(&self, path: &'a str) -> &'a [u8] {
        if text::is_absolute(&self.path) {
            return path.as_bytes();
        }
        let home = crate::path::home(self.domid).len() + 1;
        path.as_bytes().get(home..).unwrap_or(path.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(conn: u64, path: &str, token: &str) -> Watch {
        Watch {
            conn: ConnId(conn),
            domid: DomId(7),
            path: path.into(),
            token: token.into(),
        }
    }

    fn tokens(watches: Vec<&Watch>) -> String {
        let tokens = watches
            .into_iter()
            .map(|watch| String::from_utf8_lossy(&watch.token).into_owned());
        tokens.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_order_of_looking() {
        for (sorted, below) in [(true, "a b b/x c"), (false, "c a b b/x")] {
            let mut watches = Watches::new(sorted);
            for (path, token) in [
                ("/", "1"),
                ("/d/b/x", "b/x"),
                ("/d/a", "a"),
                ("/", "2"),
                ("/d/c", "c"),
                ("/d/b", "b"),
                ("/d", "d"),
            ] {
                watches.add(path.as_bytes(), watch(1, path, token));
            }
            assert_eq!(tokens(watches.above("/d/e")), "2 1 d");
            assert_eq!(tokens(watches.below("/d")), below);
            assert_eq!(watches.count(ConnId(1)), 7);
        }
    }

    #[test]
    fn what_goes_leaves_no_place() {
        let mut watches = Watches::new(true);
        for (conn, path) in [(1, "/a/b/c"), (2, "/a"), (2, "@releaseDomain"), (2, "/a/b")] {
            watches.add(path.as_bytes(), watch(conn, path, "t"));
        }
        assert!(watches.has(ConnId(2), b"/a", b"t"));
        assert!(!watches.has(ConnId(1), b"/a", b"t"));
        assert!(!watches.remove(ConnId(2), b"/a", b"u", None));
        assert!(!watches.remove(ConnId(2), b"/a/c", b"t", None));
        assert!(watches.remove(ConnId(2), b"/a", b"t", None));
        assert_eq!(watches.on(b"@releaseDomain").count(), 1);
        watches.forget(ConnId(2));
        assert_eq!(tokens(watches.below("/")), "t");
        assert!(watches.remove(ConnId(1), b"/a/b/c", b"t", None));
        assert!(watches.root.is_empty());
        assert_eq!([1, 2].map(|conn| watches.count(ConnId(conn))), [0, 0]);
    }

    #[test]
    fn a_relative_watch_hears_relative_paths() {
        let path = "/local/domain/7/a/b";
        assert_eq!(watch(1, "a", "t").told(path), b"a/b");
        assert_eq!(watch(1, "/local", "t").told(path), path.as_bytes());
    }
}
