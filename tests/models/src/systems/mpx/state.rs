//! What the model knows of bounds tables, their directory and munmap.

use crate::program::Law;

pub const BD_SEM: usize = 0;
pub const MMAP_SEM: usize = 1;
pub const LOCKS: &[&str] = &["bd_sem", "mmap_sem"];

/// A mapping and its table for each munmap call; masks of them.
pub type Set = u8;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mpx {
    /// The directory's page is in memory.
    pub present: bool,
    /// Mappings that exist.
    pub data: Set,
    /// Directory entries that are valid.
    pub entries: Set,
    /// Tables that are mapped.
    pub tables: Set,
    /// Tables marked for removal, and how many are said to be.
    pub marked: Set,
    pub count: u8,
    /// What each munmap call read of the count.
    pub read: [u8; 8],
    /// Tables with bounds of mappings that nobody is unmapping.
    pub used: Set,
    /// Of those, the ones with bounds of a neighbouring mapping.
    pub neighbour: Set,
}

pub const TABLE: &str = "entry-has-table";
pub const IN_USE: &str = "used-table-kept";
pub const ORDER: &str = "bd_sem-outermost";

pub fn laws() -> Vec<Law<Mpx>> {
    let law = Law::of_steps;
    vec![
        Law {
            key: TABLE,
            says: "a valid directory entry points to a mapped table",
            holds: Some(|v: &Mpx| v.entries & !v.tables == 0),
        },
        law(
            IN_USE,
            "a table that was marked and is used again is not reaped",
        ),
        law(ORDER, "bd_sem is taken before mmap_sem, always"),
    ]
}

/// How munmap gets rid of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmap {
    /// Touches the directory under mmap_sem held for writing, and faults if it must.
    FaultUnderLock,
    /// The same with faults disabled: an absent page means that the table stays.
    FaultsDisabled,
    /// Faults disabled, and the page looked up explicitly if it is absent (merged).
    LookUp,
    /// Like `LookUp`, with bd_sem taken inside mmap_sem.
    Inside,
    /// Before, unmap, after.
    Phases(Phases),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// bd_sem is held from the first phase to the last.
    pub held: bool,
    /// The first phase invalidates the entry; otherwise the last one does.
    pub invalidates_first: bool,
    /// The last phase looks at each table again before it reaps it.
    pub recheck: bool,
    /// The count of marked tables is read with bd_sem held.
    pub count_inside: bool,
    /// The first phase leaves tables alone that a neighbour uses.
    pub spares_neighbours: bool,
}

/// As it was proposed.
pub const PROPOSED: Phases = Phases {
    held: true,
    invalidates_first: true,
    recheck: false,
    count_inside: true,
    spares_neighbours: true,
};
