//! What the model knows of gntdev, the hypervisor and the address spaces.

use crate::program::{Law, Step};

pub const PAGES: usize = 2;
pub const MMAP_LOCK: usize = 0;
pub const LOCKS: &[&str] = &["mmap_lock"];

/// The kind of guest that the mapper is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Page-table entries are the hypervisor's: the unmap itself must clear them, so it is made
    /// from the notifier's callback, before the entries go.
    Pv,
    /// Entries are ordinary and count as references; the unmap is made at the map's last use.
    Hvm,
    /// Like `Hvm`, but parts are unmapped from the callback, as only PV does today: to see faults
    /// of partial unmaps without those of PV.
    HvmCallback,
}

/// How a variant unmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub guest: Guest,
    /// Wait for the references, or queue the unmap.
    pub sync: bool,
    /// What tells that a page is being unmapped already: a flag of its own, or the handle.
    pub removing_flag: bool,
    /// The queued unmap keeps the map.
    pub map_reference: bool,
    /// An unmap with nothing mapped returns at once, and so does mmap with something mapped.
    pub live_counter: bool,
    /// That counter falls with the hypercall, or when the handles have become invalid.
    pub live_until_hypercall: bool,
    /// After the last use's unmap, look whether the map is in use again before freeing it.
    pub look_again: bool,
    /// One work item for all ranges, or one each.
    pub shared_item: bool,
    /// Pages whose map failed are unmapped, too.
    pub unmap_failed: bool,
    /// On PV: the user's entry is unmapped when the unmap begins, and only the page waits.
    pub entry_first: bool,
}

impl Way {
    /// What was merged.
    pub const MERGED: Way = Way {
        guest: Guest::Hvm,
        sync: false,
        removing_flag: true,
        map_reference: true,
        live_counter: true,
        live_until_hypercall: false,
        look_again: true,
        shared_item: false,
        unmap_failed: false,
        entry_first: false,
    };
}

/// The model's variables. Pages are few, so sets of pages are bit masks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gntdev {
    /// Pages with an entry in the mapper's page table.
    pub entries: u8,
    /// Pages with an entry in the forked child's.
    pub child: u8,
    /// Outside references, a mask of pages per actor.
    pub pins: [u8; 8],
    /// Grants that the hypervisor has mapped: the granter's in-use bits.
    pub granted: u8,
    /// Pages that the map counts as live.
    pub live: u8,
    /// Handles that the map believes valid.
    pub handles: u8,
    /// Pages whose unmap has begun.
    pub removing: u8,
    /// Queued unmaps, a mask of pages each.
    pub work: [u8; PAGES],
    /// The one that the work queue has done the hypercall for.
    pub completing: Option<u8>,
    /// Uses of the map: the file's, each vma's, each queued unmap's.
    pub users: u8,
    /// Whose drop was the last.
    pub last: u8,
    pub freed: bool,
    /// Notifier rounds under way: its sequence is odd while there is one.
    pub rounds: u8,
    /// The notify byte was cleared: the unmap began.
    pub byte: bool,
    /// The notify event was sent: the map is gone.
    pub event: bool,
    /// Pages that the granter uses again.
    pub reused: u8,
    /// The mapper told the consumer that it is done.
    pub told: bool,
    /// mmap was refused.
    pub refused: bool,
    /// Pages of a PV guest whose entry was cleared while it was the hypervisor's: there is nothing
    /// left to unmap the grant by, and the references are gone with the entry.
    pub lost: u8,
    /// An on-demand region has its ordinary page in its table.
    pub present: bool,
    /// The operation on it is through.
    pub completed: bool,
}

impl Gntdev {
    /// Two pages mapped, the file and one vma using the map.
    pub fn mapped() -> Gntdev {
        Gntdev {
            entries: 0b11,
            granted: 0b11,
            live: 0b11,
            handles: 0b11,
            users: 2,
            ..Gntdev::default()
        }
    }

    pub fn pinned(&self) -> u8 {
        self.pins.iter().fold(0, |all, pins| all | pins)
    }

    /// Pages whose count is above one: what an unmap waits for.
    pub fn referenced(&self, guest: Guest) -> u8 {
        match guest {
            // The special entries of PV take no reference. Who clears one drops a reference all the
            // same (`find_special_page`): a pinner's.
            Guest::Pv => self.pinned() & !self.lost,
            Guest::Hvm | Guest::HvmCallback => self.pinned() | self.entries | self.child,
        }
    }

    /// Who holds references to any of these pages: pinners, and the child as actor `child`.
    pub fn holders(&self, pages: u8, child: usize) -> Vec<usize> {
        let mut holders: Vec<usize> = (0..self.pins.len())
            .filter(|actor| self.pins[*actor] & pages != 0)
            .collect();
        if self.child & pages != 0 {
            holders.push(child);
        }
        holders
    }

    pub fn pending(&self) -> u8 {
        self.work.iter().fold(0, |all, pages| all | pages)
    }

    /// A queued unmap none of whose pages is referenced: one held page holds its whole run.
    pub fn ready(&self, guest: Guest) -> Option<usize> {
        let referenced = self.referenced(guest);
        (self.work.iter()).position(|pages| *pages != 0 && pages & referenced == 0)
    }
}

pub fn laws() -> Vec<Law<Gntdev>> {
    let law = Law::of_steps;
    vec![
        law("a", "no invalidation callback waits for page references"),
        law("b", "each handle is unmapped exactly once"),
        law("c", "a map is not freed while its work is pending"),
        law(
            "d",
            "the hypervisor unmaps only with no outside reference left",
        ),
        law(
            "e",
            "the granter reuses a page only after the grant's in-use bits are clear",
        ),
        law("f", "a map is never mapped again while grants live"),
        law(
            "g",
            "a page-table entry of a PV guest is cleared only by the unmap itself",
        ),
        law("h", "one work item per range in flight"),
    ]
}

/// The hypercall, for these pages.
pub fn hypervisor_unmaps(s: &mut Step<'_, Gntdev>, pages: u8, way: Way) {
    if s.freed {
        return s.crashes("c");
    }
    if pages & !s.granted != 0 {
        return s.crashes("b");
    }
    if s.pinned() & pages != 0 {
        s.breaks("d");
    }
    s.granted &= !(pages & !s.lost);
    if way.live_until_hypercall {
        s.live &= !pages;
    }
    if way.guest == Guest::Pv {
        s.entries &= !pages;
    }
}

/// After the hypercall: the handles become invalid, and the unmap's use of the map ends.
pub fn complete(s: &mut Step<'_, Gntdev>, pages: u8, way: Way) {
    if s.freed {
        return s.crashes("c");
    }
    s.handles &= !pages;
    s.live &= !pages;
    if way.map_reference && !way.sync {
        s.users = s.users.saturating_sub(1);
        if s.users == 0 {
            free(s);
        }
    }
}

/// Frees the map and sends the notify event.
pub fn free(s: &mut Step<'_, Gntdev>) {
    if s.freed || s.pending() != 0 {
        return s.crashes("c");
    }
    s.freed = true;
    s.event = true;
}

/// The pages of a range that an unmap has to deal with.
pub fn to_unmap(v: &Gntdev, range: u8, way: Way) -> u8 {
    let valid = if way.unmap_failed {
        range
    } else {
        range & v.handles
    };
    if way.removing_flag {
        valid & !v.removing
    } else {
        valid
    }
}

/// `unmap_grant_pages`, asynchronous: marks, keeps the map, queues. The queue tries at once, and
/// again later while a page is referenced.
pub fn queue_unmap(s: &mut Step<'_, Gntdev>, range: u8, way: Way) {
    let pages = to_unmap(s, range, way);
    let nothing_live = way.live_counter && s.live & range == 0;
    if pages == 0 || nothing_live {
        return;
    }
    if s.pending() & pages != 0 {
        s.breaks("h");
    }
    s.removing |= pages;
    s.byte = true;
    if way.map_reference {
        s.users += 1;
    }
    if way.entry_first {
        s.entries &= !pages;
    }
    if s.referenced(way.guest) & pages == 0 {
        hypervisor_unmaps(s, pages, way);
        if !s.crashed {
            complete(s, pages, way);
        }
        return;
    }
    let slot = if way.shared_item {
        0
    } else {
        s.work.iter().position(|item| *item == 0).unwrap_or(0)
    };
    if s.work[slot] != 0 {
        s.breaks("h");
    }
    s.work[slot] = pages;
}
