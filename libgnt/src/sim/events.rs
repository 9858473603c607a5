//! Event channels without a broker: a page of bits and an eventfd for each open evtchn file,
//! shared with everyone who may raise a port there.
//!
//! The bits are Xen's two-level ABI (`evtchn_pending`, `evtchn_mask` and `evtchn_pending_sel`
//! in `xen/include/public/xen.h`); the eventfd stands for the upcall. [`raise`], [`take`] and
//! [`unmask`] keep three promises:
//!
//! - An event raised before its port is taken is delivered by that take, with everything the
//!   raiser wrote before it.
//! - An event raised while its port is masked stays pending, and is delivered after the unmask.
//! - The eventfd is written only when the selector goes from empty to not empty: whoever finds it
//!   not empty knows that the receiver has a wake-up coming.
//!
//! The last promise depends on the one who filled the selector living until it has written the
//! eventfd. When it dies in between, the host writes for it: it signals every file whose peer changed.
//!
//! A peer can write to the whole page. That is less than Xen promises: a domain of the simulated
//! Xen can confuse the event channels of another that it is connected to, though not crash it.

use crate::shm::SharedPages;
use crate::types::{EvtchnPort, PAGE_SIZE};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Ports of the two-level ABI on a 64-bit machine.
pub const PORTS: usize = 4096;
/// Pages of one event page's memfd: the bits, then the generation words.
pub const EVENT_PAGES: usize = 1 + PORTS * 4 / PAGE_SIZE;

const BITS: usize = u64::BITS as usize;
/// Word indices in the page.
const PENDING: usize = 0;
const MASK: usize = PORTS / BITS;
const SELECTOR: usize = 2 * MASK;
/// Byte offset of the generation words.
const GENERATIONS: usize = PAGE_SIZE;

/// The words of an event page: shared memory, or loom's model of it.
pub trait Words {
    /// Loads a word.
    fn load(&self, word: usize, order: Ordering) -> u64;
    /// Sets bits; returns what was.
    fn fetch_or(&self, word: usize, bits: u64, order: Ordering) -> u64;
    /// Keeps bits; returns what was.
    fn fetch_and(&self, word: usize, bits: u64, order: Ordering) -> u64;
    /// Replaces; returns what was.
    fn swap(&self, word: usize, value: u64, order: Ordering) -> u64;
    /// `fence(SeqCst)`.
    fn fence(&self);
}

impl Words for SharedPages {
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.load_u64(word * 8, order)
    }
    fn fetch_or(&self, word: usize, bits: u64, order: Ordering) -> u64 {
        self.fetch_or_u64(word * 8, bits, order)
    }
    fn fetch_and(&self, word: usize, bits: u64, order: Ordering) -> u64 {
        self.fetch_and_u64(word * 8, bits, order)
    }
    fn swap(&self, word: usize, value: u64, order: Ordering) -> u64 {
        self.swap_u64(word * 8, value, order)
    }
    fn fence(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Word and bit of a port; none for one outside the table.
fn place(port: EvtchnPort) -> Option<(usize, u64)> {
    let port = port.0 as usize;
    (port < PORTS).then(|| (port / BITS, 1 << (port % BITS)))
}

/// Marks a word in the selector. True: the selector was empty, so the receiver must be woken.
fn select(words: &impl Words, word: usize) -> bool {
    // AcqRel: the receiver's swap in `take` reads this (or a later mark that read it) and so sees
    // the pending bit that came before.
    words.fetch_or(SELECTOR, 1 << word, Ordering::AcqRel) == 0
}

/// Sets a port pending. True: write the eventfd.
pub fn raise(words: &impl Words, port: EvtchnPort) -> bool {
    let Some((word, bit)) = place(port) else {
        return false;
    };
    // AcqRel, and a read-modify-write even when the bit is set already: the clearing in `take`
    // then reads this one, and the receiver sees what the raiser wrote before.
    if words.fetch_or(PENDING + word, bit, Ordering::AcqRel) & bit != 0 {
        return false;
    }
    // Pending bit before mask bit. Partner: the fence in `unmask`, which has mask before pending.
    // One of the two sees the other's store, so either we wake or the unmask does.
    words.fence();
    words.load(MASK + word, Ordering::Acquire) & bit == 0 && select(words, word)
}

/// Takes pending, unmasked ports, and masks them. Drain the eventfd before: a wake-up that comes
/// after the swap here is then never swallowed.
///
/// One thread at a time for one page: a second taker could mask a port that the first has handed
/// out and its user already unmasked.
pub fn take(words: &impl Words, ports: &mut Vec<EvtchnPort>) -> usize {
    let before = ports.len();
    // Acquire: see `select`. Release: what we clear is ours before the next mark.
    let mut selected = words.swap(SELECTOR, 0, Ordering::AcqRel);
    while selected != 0 {
        let word = selected.trailing_zeros() as usize;
        selected &= selected - 1;
        let ready = words.load(PENDING + word, Ordering::Acquire)
            & !words.load(MASK + word, Ordering::Acquire);
        if ready == 0 {
            continue;
        }
        // Mask first: an event between the two is one with the event we deliver; an event after
        // the clearing finds the mask, and waits for the unmask.
        words.fetch_or(MASK + word, ready, Ordering::AcqRel);
        let mut due = words.fetch_and(PENDING + word, !ready, Ordering::AcqRel) & ready;
        let closed = ready & !due;
        if closed != 0 {
            // `clear` came between our look and the clearing: these ports were closed, and the mask
            // that we set would keep the next ports of their numbers silent.
            words.fetch_and(MASK + word, !closed, Ordering::AcqRel);
            // Mask bit before pending bit. Partner: the fence in `raise`.
            words.fence();
            if words.load(PENDING + word, Ordering::Acquire) & closed != 0 {
                selected |= 1 << word;
            }
        }
        while due != 0 {
            let port = word * BITS + due.trailing_zeros() as usize;
            due &= due - 1;
            ports.push(EvtchnPort(port as u32));
        }
    }
    ports.len() - before
}

/// Lets a port be delivered again. True: it became pending meanwhile, and the eventfd must be
/// written for it.
pub fn unmask(words: &impl Words, port: EvtchnPort) -> bool {
    let Some((word, bit)) = place(port) else {
        return false;
    };
    words.fetch_and(MASK + word, !bit, Ordering::AcqRel);
    // Mask bit before pending bit. Partner: the fence in `raise`.
    words.fence();
    words.load(PENDING + word, Ordering::Acquire) & bit != 0 && select(words, word)
}

/// Forgets what there was of a port of this number: it was closed, or is about to be bound anew. A
/// raiser that knew the former port may come after its end, so both clear.
pub fn clear(words: &impl Words, port: EvtchnPort) {
    if let Some((word, bit)) = place(port) {
        words.fetch_and(PENDING + word, !bit, Ordering::AcqRel);
        words.fetch_and(MASK + word, !bit, Ordering::AcqRel);
    }
}

/// One evtchn file's page and eventfd, in a process that receives there, raises there, or is the host.
#[derive(Debug)]
pub struct EventPage {
    pages: SharedPages,
    eventfd: Arc<OwnedFd>,
}

impl EventPage {
    /// `pages` must be [`EVENT_PAGES`], writable; the eventfd non-blocking.
    ///
    /// # Panics
    /// If the pages are too few.
    pub fn new(pages: SharedPages, eventfd: Arc<OwnedFd>) -> Self {
        assert!(
            pages.pages() >= EVENT_PAGES,
            "{} pages are no event page",
            pages.pages()
        );
        EventPage { pages, eventfd }
    }

    /// Raises a port of the file that owns this page.
    pub fn raise(&self, port: EvtchnPort) {
        if raise(&self.pages, port) {
            self.signal();
        }
    }

    /// Receives; see [`take`].
    pub fn take(&self, ports: &mut Vec<EvtchnPort>) -> usize {
        take(&self.pages, ports)
    }

    /// False: a [`EventPage::take`] now would find nothing.
    pub fn any_selected(&self) -> bool {
        self.pages.load(SELECTOR, Ordering::Acquire) != 0
    }

    /// Writes a port back.
    pub fn unmask(&self, port: EvtchnPort) {
        if unmask(&self.pages, port) {
            self.signal();
        }
    }

    /// True: a take now would give this port, as a kernel's driver would have queued it already.
    pub fn is_due(&self, port: EvtchnPort) -> bool {
        place(port).is_some_and(|(word, bit)| {
            let pending = self.pages.load(PENDING + word, Ordering::Acquire);
            pending & !self.pages.load(MASK + word, Ordering::Acquire) & bit != 0
        })
    }

    /// Forgets what there was of a port; see [`clear`].
    pub fn clear(&self, port: EvtchnPort) {
        clear(&self.pages, port);
    }

    /// The word that changes with the port's other end; 0 for a port outside the table.
    pub fn generation(&self, port: EvtchnPort) -> u32 {
        // Acquire: pairs with the host's Release in `set_generation`.
        place(port).map_or(0, |_| {
            self.pages
                .load_u32(generation_offset(port), Ordering::Acquire)
        })
    }

    /// The other end of a port changed. Signals too: the other end may have died between filling
    /// the selector and writing the eventfd.
    pub fn set_generation(&self, port: EvtchnPort, generation: u32) {
        if place(port).is_some() {
            self.pages
                .store_u32(generation_offset(port), generation, Ordering::Release);
        }
        self.signal();
    }

    /// Makes the eventfd readable.
    pub fn signal(&self) {
        loop {
            match rustix::io::write(&self.eventfd, &1u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                // EAGAIN: the counter is full, so it is readable.
                _ => return,
            }
        }
    }

    /// Empties the eventfd.
    pub fn drain(&self) {
        let mut counter = [0; 8];
        while let Err(Errno::INTR) = rustix::io::read(&self.eventfd, &mut counter) {}
    }

    /// The eventfd.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

fn generation_offset(port: EvtchnPort) -> usize {
    GENERATIONS + port.0 as usize * 4
}

#[cfg(test)]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
