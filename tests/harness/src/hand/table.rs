//! What a hand owns of one kind.

use super::failure::Failure;
use std::collections::BTreeMap;
use std::fmt::Display;

/// More than any rule or scenario needs of a kind.
const LIMIT: usize = 1024;

/// Things under handles, of which none is ever given out twice.
#[derive(Debug)]
pub(super) struct Table<I, T> {
    what: &'static str,
    next: u32,
    owned: BTreeMap<I, T>,
}

impl<I: Copy + Ord + Display + From<u32>, T> Table<I, T> {
    pub fn new(what: &'static str) -> Table<I, T> {
        Table {
            what,
            next: 0,
            owned: BTreeMap::new(),
        }
    }

    /// Refuses when the hand has as many as it may: to be asked before one is made.
    pub fn has_room(&self) -> Result<(), Failure> {
        if self.owned.len() < LIMIT {
            Ok(())
        } else {
            Err(Failure::TooMany {
                what: self.what,
                limit: LIMIT,
            })
        }
    }

    pub fn add(&mut self, thing: T) -> I {
        let id = I::from(self.next);
        self.next += 1;
        self.owned.insert(id, thing);
        id
    }

    pub fn put_back(&mut self, id: I, thing: T) {
        self.owned.insert(id, thing);
    }

    pub fn get(&self, id: I) -> Result<&T, Failure> {
        self.owned.get(&id).ok_or_else(|| gone(id))
    }

    pub fn get_mut(&mut self, id: I) -> Result<&mut T, Failure> {
        self.owned.get_mut(&id).ok_or_else(|| gone(id))
    }

    pub fn take(&mut self, id: I) -> Result<T, Failure> {
        self.owned.remove(&id).ok_or_else(|| gone(id))
    }

    pub fn clear(&mut self) {
        self.owned.clear();
    }
}

fn gone(id: impl Display) -> Failure {
    Failure::Gone(id.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::order::MapId;
    use super::*;

    #[test]
    fn a_handle_is_never_given_out_twice() {
        let mut table: Table<MapId, char> = Table::new("map");
        let first = table.add('a');
        assert_eq!(table.take(first).unwrap(), 'a');
        let second = table.add('b');
        assert_ne!(first, second);
        assert!(table.get(first).is_err());
        table.clear();
        assert_ne!(table.add('c'), second);
    }

    #[test]
    fn a_hand_owns_no_more_than_so_many() {
        let mut table: Table<MapId, usize> = Table::new("map");
        let ids: Vec<MapId> = (0..LIMIT).map(|n| table.add(n)).collect();
        let full = table.has_room().unwrap_err();
        assert!(full.to_string().contains("1024 maps"), "{full}");
        table.take(ids[7]).unwrap();
        table.has_room().unwrap();
    }
}
