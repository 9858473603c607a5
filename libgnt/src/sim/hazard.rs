//! Hazard slots: how a process copies through a page it has cached without asking the host, and
//! the host still knows when nobody copies from a revoked grant any more.
//!
//! Each process has one page of slots, shared with the host. The copier publishes the grant in
//! a slot, fences, and looks at the granter's generation word for it; if the word has not moved
//! it copies, then clears the slot. The host moves the word, fences, and looks at all slots. Each
//! stores before its fence and loads after it, so at least one sees the other: either the copier
//! turns back, or the host waits for the slot.

use crate::shm::SharedPages;
use crate::types::ForeignGrant;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};

/// Slots of one process; two for each copy that runs at the same moment.
pub const SLOTS: usize = 64;
/// Pages of hazard slots.
pub const HAZARD_PAGES: usize = 1;
/// Tells domain 0's reference 0 from an empty slot.
const TAKEN: u64 = 1 << 63;

/// A slot's word for a grant.
fn word(grant: ForeignGrant) -> u64 {
    TAKEN | u64::from(grant.domid.0) << 32 | u64::from(grant.gref.0)
}

/// The slots and the fence: shared memory, or loom's model of it.
pub trait Slots {
    /// Loads a slot.
    fn load(&self, slot: usize, order: Ordering) -> u64;
    /// Stores a slot.
    fn store(&self, slot: usize, value: u64, order: Ordering);
    /// `fence(SeqCst)`.
    fn fence(&self);
}

impl Slots for SharedPages {
    fn load(&self, slot: usize, order: Ordering) -> u64 {
        self.load_u64(slot * 8, order)
    }
    fn store(&self, slot: usize, value: u64, order: Ordering) {
        self.store_u64(slot * 8, value, order);
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// Publishes a grant, then runs `copy` if `current` says that the generation word still stands.
/// False: it does not, and nothing was copied.
pub fn guarded(
    slots: &impl Slots,
    slot: usize,
    grant: ForeignGrant,
    current: impl FnOnce() -> bool,
    copy: impl FnOnce(),
) -> bool {
    slots.store(slot, word(grant), Ordering::Relaxed);
    // Slot before generation word. Partner: the fence in `named`, which has them the other way round.
    slots.fence();
    let good = current();
    if good {
        copy();
    }
    // Release: the host that sees the empty slot (Acquire in `named`) sees the copy as done.
    slots.store(slot, 0, Ordering::Release);
    good
}

/// True if a slot names the grant. The caller has stored the new generation word before.
pub fn named(slots: &impl Slots, grant: ForeignGrant, count: usize) -> bool {
    // Generation word before slots. Partner: the fence in `guarded`.
    slots.fence();
    (0..count).any(|slot| slots.load(slot, Ordering::Acquire) == word(grant))
}

/// The copier's side: a process's page, shared out between its threads in pairs of slots.
#[derive(Debug)]
pub struct HazardPage {
    pages: SharedPages,
    /// One bit for each free pair.
    free: Mutex<u32>,
    freed: Condvar,
}

impl HazardPage {
    /// Takes the process's page.
    pub fn new(pages: SharedPages) -> Self {
        HazardPage {
            pages,
            free: Mutex::new(u32::MAX),
            freed: Condvar::new(),
        }
    }

    /// A pair of slots for this thread. Waits while 32 other threads copy.
    pub fn pair(&self) -> SlotPair<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self
                .freed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let pair = free.trailing_zeros();
        *free &= *free - 1;
        SlotPair { page: self, pair }
    }
}

/// Two slots: a copy has at most two grant sides.
#[derive(Debug)]
pub struct SlotPair<'a> {
    page: &'a HazardPage,
    pair: u32,
}

impl SlotPair<'_> {
    /// [`guarded`] with one of the two.
    pub fn guarded(
        &self,
        second: bool,
        grant: ForeignGrant,
        current: impl FnOnce() -> bool,
        copy: impl FnOnce(),
    ) -> bool {
        let slot = self.pair as usize * 2 + usize::from(second);
        guarded(&self.page.pages, slot, grant, current, copy)
    }
}

impl Drop for SlotPair<'_> {
    fn drop(&mut self) {
        *self
            .page
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner) |= 1 << self.pair;
        self.page.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DomId, GrantRef};

    #[test]
    fn a_grant_is_named_exactly_while_it_is_copied() {
        let page = HazardPage::new(SharedPages::anonymous(HAZARD_PAGES).expect("memory"));
        let zero = ForeignGrant {
            domid: DomId(0),
            gref: GrantRef(0),
        };
        let other = ForeignGrant {
            domid: DomId(1),
            gref: GrantRef(0),
        };
        assert!(!named(&page.pages, zero, SLOTS));
        let pair = page.pair();
        let second = page.pair();
        let mut ran = false;
        assert!(pair.guarded(
            false,
            zero,
            || true,
            || {
                assert!(second.guarded(
                    true,
                    other,
                    || true,
                    || {
                        ran = named(&page.pages, zero, SLOTS) && named(&page.pages, other, SLOTS);
                    }
                ));
                assert!(!named(&page.pages, other, SLOTS));
            }
        ));
        assert!(ran);
        assert!(!named(&page.pages, zero, SLOTS));
        assert!(!pair.guarded(
            false,
            zero,
            || false,
            || panic!("copied from a revoked grant")
        ));
    }

    #[test]
    fn pairs_run_out_and_come_back() {
        let page = HazardPage::new(SharedPages::anonymous(HAZARD_PAGES).expect("memory"));
        let mut pairs: Vec<_> = (0..SLOTS / 2).map(|_| page.pair()).collect();
        assert_eq!(*page.free.lock().expect("lock"), 0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| page.pair().pair);
            let given = pairs.pop().expect("a pair");
            let expected = given.pair;
            drop(given);
            assert_eq!(waiter.join().expect("waiter"), expected);
        });
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p libgnt --lib loom --release`
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::types::{DomId, GrantRef};
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    const GRANT: ForeignGrant = ForeignGrant {
        domid: DomId(5),
        gref: GrantRef(8),
    };

    struct Model {
        slot: AtomicU64,
        generation: AtomicU64,
        /// 1 while the page belongs to the grant; the host puts 0 when it hands the page on.
        page: AtomicU64,
        fences: bool,
    }

    impl Slots for Model {
        fn load(&self, _: usize, order: Ordering) -> u64 {
            self.slot.load(order)
        }
        fn store(&self, _: usize, value: u64, order: Ordering) {
            self.slot.store(value, order);
        }
        fn fence(&self) {
            if self.fences {
                loom::sync::atomic::fence(Ordering::SeqCst);
            }
        }
    }

    fn no_copy_of_a_reused_page(fences: bool) {
        loom::model(move || {
            let model = Arc::new(Model {
                slot: AtomicU64::new(0),
                generation: AtomicU64::new(0),
                page: AtomicU64::new(1),
                fences,
            });
            let host = {
                let model = model.clone();
                thread::spawn(move || {
                    model.generation.store(1, Ordering::Relaxed);
                    if !named(&*model, GRANT, 1) {
                        model.page.store(0, Ordering::Relaxed);
                    }
                })
            };
            guarded(
                &*model,
                0,
                GRANT,
                || model.generation.load(Ordering::Relaxed) == 0,
                || {
                    assert_eq!(
                        model.page.load(Ordering::Relaxed),
                        1,
                        "copied a reused page"
                    )
                },
            );
            host.join().expect("host");
        });
    }

    #[test]
    fn loom_a_revoked_page_is_not_reused_under_a_copy() {
        no_copy_of_a_reused_page(true);
    }

    #[test]
    #[should_panic(expected = "copied a reused page")]
    fn loom_catches_missing_hazard_fences() {
        no_copy_of_a_reused_page(false);
    }
}
