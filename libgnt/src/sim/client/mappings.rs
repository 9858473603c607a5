//! What this process has mapped through the simulated devices, and where.

use crate::sim::wire::VmaId;
use crate::types::PAGE_SIZE;
use std::collections::BTreeMap;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The host's name for it.
    pub vma: VmaId,
    /// It is a gntdev file's: the pages are another domain's.
    pub foreign: bool,
    /// The offset.
    pub index: u64,
    /// How many pages.
    pub pages: usize,
}

/// Mappings by address: what the kernel's VMA tree is.
#[derive(Debug, Default)]
pub struct Mappings(BTreeMap<usize, Mapping>);

impl Mappings {
    /// The mapping that an address is in, and the mapping's own address.
    pub fn at(&self, address: usize) -> Option<(usize, Mapping)> {
        let (&start, &mapping) = self.0.range(..=address).next_back()?;
        (address - start < mapping.pages * PAGE_SIZE).then_some((start, mapping))
    }

    /// Notes a mapping.
    pub fn insert(&mut self, address: usize, mapping: Mapping) {
        self.0.insert(address, mapping);
    }

    /// Forgets a mapping. The range may be mapped anew already, by another thread: only the named
    /// one goes.
    pub fn remove(&mut self, address: usize, vma: VmaId) {
        if self
            .0
            .get(&address)
            .is_some_and(|mapping| mapping.vma == vma)
        {
            self.0.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(vma: u64, pages: usize) -> Mapping {
        Mapping {
            vma: VmaId(vma),
            foreign: true,
            index: 0,
            pages,
        }
    }

    #[test]
    fn addresses_find_their_mapping_and_nothing_else() {
        let mut all = Mappings::default();
        all.insert(0x10000, mapping(1, 2));
        all.insert(0x20000, mapping(2, 1));
        assert_eq!(all.at(0xffff), None);
        assert_eq!(all.at(0x10000), Some((0x10000, mapping(1, 2))));
        assert_eq!(all.at(0x11fff), Some((0x10000, mapping(1, 2))));
        assert_eq!(all.at(0x12000), None);
        assert_eq!(all.at(0x20fff), Some((0x20000, mapping(2, 1))));
        assert_eq!(all.at(0x21000), None);
        // Mapped anew before the old one's news was told.
        all.insert(0x20000, mapping(3, 1));
        all.remove(0x20000, VmaId(2));
        assert_eq!(all.at(0x20000), Some((0x20000, mapping(3, 1))));
        all.remove(0x20000, VmaId(3));
        assert_eq!(all.at(0x20000), None);
    }
}
