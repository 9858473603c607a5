//! A page of ordinary memory near a mapping, for a region that covers both.
#![allow(unsafe_code, reason = "mmap at a chosen address, and its end")]

use crate::holder::{HoldError, HoldName, call};
use libgnt::PAGE_SIZE;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// How far away the page may be: what else is mapped in between is covered, too, and no worse for it.
const NEAR: usize = 256 << 20;
/// Other threads map as well, and may be first.
const TRIES: u32 = 16;
const MAPS: &str = "/proc/self/maps";

/// On which side of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The region begins with the page.
    Before,
    /// The region begins with the mapping.
    After,
}

/// Whether something is in the page before it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody has used it: it has no memory yet, and whoever wants it has to fault it in.
    Untouched,
    /// It is there.
    Touched,
}

/// Pages of this process, until this is dropped: a region needs its page until its release.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pages: RefCell<BTreeSet<usize>>,
}

impl Beside {
    /// The address of a page on one side of a mapping: one of ours that serves already, or the
    /// nearest place that is free.
    ///
    /// # Errors
    /// Everything near is taken; ENOMEM.
    pub fn page(
        &self,
        kind: HoldName,
        mapping: (usize, usize),
        side: Side,
        state: State,
    ) -> Result<usize, HoldError> {
        let mut pages = self.pages.borrow_mut();
        let ours = pages
            .iter()
            .copied()
            .filter(|at| is_near(mapping, side, *at));
        let at = match side {
            Side::Before => ours.max(),
            Side::After => ours.min(),
        };
        let at = match (at, state) {
            (Some(at), State::Touched) => at,
            (Some(at), State::Untouched) => {
                map(at, MapFlags::FIXED).map_err(call(kind, "mmap"))?;
                at
            }
            (None, _) => {
                let at = new_page(kind, mapping, side)?;
                pages.insert(at);
                at
            }
        };
        if state == State::Touched {
            // SAFETY: mapped above or earlier, writable, and of no use to anybody else.
            unsafe { (at as *mut u8).write_volatile(1) };
        }
        Ok(at)
    }
}

fn new_page(kind: HoldName, mapping: (usize, usize), side: Side) -> Result<usize, HoldError> {
    for _ in 0..TRIES {
        let maps = std::fs::read_to_string(MAPS).map_err(|error| HoldError::Broken {
            kind,
            what: format!("{MAPS}: {error}"),
        })?;
        let Some(at) = nearest_free(&maps, mapping, side) else {
            break;
        };
        match map(at, MapFlags::FIXED_NOREPLACE) {
            Ok(()) => return Ok(at),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(call(kind, "mmap")(errno)),
        }
    }
    let (address, _) = mapping;
    Err(HoldError::Broken {
        kind,
        what: format!(
            "no place for a page is free in the {} MiB beside the mapping at {address:#x}",
            NEAR >> 20
        ),
    })
}

fn is_near((address, len): (usize, usize), side: Side, at: usize) -> bool {
    let far = match side {
        Side::Before => address.checked_sub(at + PAGE_SIZE),
        Side::After => at.checked_sub(address + len),
    };
    far.is_some_and(|far| far < NEAR)
}

/// The free page nearest to a mapping, by what the kernel says is mapped: `START-END …`, ascending.
fn nearest_free(maps: &str, mapping: (usize, usize), side: Side) -> Option<usize> {
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        Some((hexadecimal(start)?, hexadecimal(end)?))
    };
    let taken: Vec<(usize, usize)> = maps.lines().filter_map(range).collect();
    let (address, len) = mapping;
    let at = match side {
        Side::Before => {
            let mut edge = address;
            for (start, end) in taken.iter().rev().filter(|(start, _)| *start < address) {
                if *end < edge {
                    break;
                }
                edge = *start;
            }
            edge.checked_sub(PAGE_SIZE)?
        }
        Side::After => {
            let mut edge = address + len;
            for (start, end) in taken.iter().filter(|(_, end)| *end > address + len) {
                if *start > edge {
                    break;
                }
                edge = *end;
            }
            edge
        }
    };
    (at > 0 && is_near(mapping, side, at)).then_some(at)
}

/// Maps a page of zeroes, which takes no memory before somebody uses it.
fn map(at: usize, how: MapFlags) -> Result<(), Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | how;
    // SAFETY: FIXED_NOREPLACE takes no place that is taken; FIXED is only said of pages of ours,
    // which nothing in this process refers to.
    let got = unsafe { mmap_anonymous(at as *mut _, PAGE_SIZE, protection, flags) }?;
    if got as usize == at {
        return Ok(());
    }
    // A kernel before 4.17 takes the address for a wish.
    // SAFETY: mapped just now, by us.
    unsafe { munmap(got, PAGE_SIZE) }?;
    Err(Errno::EXIST)
}

impl Drop for Beside {
    fn drop(&mut self) {
        for at in self.pages.take() {
            // SAFETY: mapped by `map`, and nothing in this process refers to it.
            if let Err(errno) = unsafe { munmap(at as *mut _, PAGE_SIZE) } {
                tracing::warn!(%errno, "unmapping a page at {at:#x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::SharedPages;

    /// mincore says of a private page whether it has memory; ENOMEM where nothing is mapped.
    fn is_present(at: usize) -> Result<bool, Errno> {
        let mut byte = 0u8;
        // SAFETY: one page, one byte for the answer.
        let result = unsafe { libc::mincore(at as *mut _, PAGE_SIZE, &raw mut byte) };
        match result {
            0 => Ok(byte & 1 == 1),
            _ => Err(crate::holder::last_errno()),
        }
    }

    fn of(pages: &SharedPages) -> (usize, usize) {
        (pages.address(), pages.len())
    }

    #[test]
    fn the_page_is_before_or_after_touched_or_not_and_goes_with_its_owner() {
        let mapping = SharedPages::anonymous(2).unwrap();
        let beside = Beside::default();
        let kind = HoldName::RdmaOdp;
        let page = |side, state| beside.page(kind, of(&mapping), side, state).unwrap();
        let before = page(Side::Before, State::Untouched);
        assert!(before < mapping.address());
        assert_eq!(is_present(before), Ok(false));
        let after = page(Side::After, State::Touched);
        assert!(after >= mapping.address() + mapping.len());
        assert_eq!(is_present(after), Ok(true));
        // The same page again, and as good as new.
        assert_eq!(page(Side::Before, State::Touched), before);
        assert_eq!(is_present(before), Ok(true));
        assert_eq!(page(Side::Before, State::Untouched), before);
        assert_eq!(is_present(before), Ok(false));
        let all = beside.pages.borrow().clone();
        assert!(all.contains(&before) && all.contains(&after));
        drop(beside);
    }

    #[test]
    fn a_place_that_is_taken_is_left_alone() {
        let mapping = SharedPages::anonymous(3).unwrap();
        mapping.write(0, &[7; 3 * PAGE_SIZE]);
        // As if only the last page were the mapping: the two before it are somebody's.
        let last = (mapping.address() + 2 * PAGE_SIZE, PAGE_SIZE);
        let beside = Beside::default();
        let at = beside.page(HoldName::RdmaOdp, last, Side::Before, State::Untouched);
        assert!(at.unwrap() < mapping.address());
        let mut bytes = [0; 3 * PAGE_SIZE];
        mapping.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 7));
        assert_eq!(
            map(mapping.address(), MapFlags::FIXED_NOREPLACE),
            Err(Errno::EXIST)
        );
    }

    #[test]
    fn the_nearest_free_place_is_found_in_what_is_mapped() {
        let maps = "\
00001000-00003000 rw-p 00000000 00:00 0
00010000-00012000 r-xp 00000000 08:01 42   /bin/true
00012000-00015000 rw-s 00000000 00:0d 5    /dev/xen/gntdev
00015000-00016000 rw-p 00000000 00:00 0    [heap]
00018000-00019000 rw-p 00000000 00:00 0
";
        let free = |address, len, side| nearest_free(maps, (address, len), side);
        let mapping = (0x12000, 0x3000);
        assert_eq!(free(mapping.0, mapping.1, Side::Before), Some(0xf000));
        assert_eq!(free(mapping.0, mapping.1, Side::After), Some(0x16000));
        // A part of a mapping.
        assert_eq!(free(0x13000, 0x1000, Side::Before), Some(0xf000));
        assert_eq!(free(0x13000, 0x1000, Side::After), Some(0x16000));
        // With room around it, and at the very beginning.
        assert_eq!(free(0x18000, 0x1000, Side::Before), Some(0x17000));
        assert_eq!(free(0x18000, 0x1000, Side::After), Some(0x19000));
        assert_eq!(free(0x1000, 0x2000, Side::Before), None);
        // All that is near is taken.
        let full = format!("1000-{:x} rw-p\n", 2 * NEAR);
        let last = (2 * NEAR - PAGE_SIZE, PAGE_SIZE);
        assert_eq!(nearest_free(&full, last, Side::Before), None);
    }
}
