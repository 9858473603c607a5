//! A page of ordinary memory near a mapping, for a region that covers both.
#![allow(unsafe_code, reason = "mmap at a chosen address, and its end")]

use crate::holder::{HoldError, HoldName, call};
use libgnt::PAGE_SIZE;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// How far away the page may be: what else is mapped in between is covered, too, and no worse for it.
const NEAR: usize = 1024;

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
    /// The address of the nearest page on one side of a mapping. A page of ours that is there
    /// already serves again.
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
        let (address, len) = mapping;
        let mut pages = self.pages.borrow_mut();
        for far in 0..NEAR {
            let at = match side {
                Side::Before => address.checked_sub((far + 1) * PAGE_SIZE),
                Side::After => address.checked_add(len + far * PAGE_SIZE),
            };
            let Some(at) = at.filter(|at| *at > 0) else {
                break;
            };
            let ours = pages.contains(&at);
            match (ours, state) {
                (true, State::Touched) => {}
                (true, State::Untouched) => map(at, MapFlags::FIXED).map_err(call(kind, "mmap"))?,
                (false, _) => match map(at, MapFlags::FIXED_NOREPLACE) {
                    Ok(()) => {
                        pages.insert(at);
                    }
                    Err(Errno::EXIST) => continue,
                    Err(errno) => return Err(call(kind, "mmap")(errno)),
                },
            }
            if state == State::Touched {
                // SAFETY: mapped above or earlier, writable, and of no use to anybody else.
                unsafe { (at as *mut u8).write_volatile(1) };
            }
            return Ok(at);
        }
        Err(HoldError::Broken {
            kind,
            what: format!("the {NEAR} pages beside the mapping at {address:#x} are all taken"),
        })
    }
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
    }

    #[test]
    fn no_place_at_all_is_said() {
        let mapping = SharedPages::anonymous(NEAR + 1).unwrap();
        let last = (mapping.address() + NEAR * PAGE_SIZE, PAGE_SIZE);
        let error = Beside::default()
            .page(HoldName::RdmaOdp, last, Side::Before, State::Untouched)
            .unwrap_err();
        assert!(error.to_string().contains("all taken"), "{error}");
    }
}
