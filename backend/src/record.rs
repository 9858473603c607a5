//! What a back end must not forget when it is killed: the requests that it has taken off the ring
//! and not answered. Their slots may hold answers of others by now, so nobody could find them there.
//!
//! The idea is that of vhost-user's in-flight memory. In a mapped file, each request taken has a
//! place:
//!
//! 1. *taken*: written before anything is done for it. If its pages are lent to others, *lent*.
//! 2. *answered*, with the index that its response gets: before the response is in the ring.
//! 3. *free*: after the response was published.
//!
//! A request that was never taken is still in the ring. One that is *taken* is done again: its pages
//! are the front end's until it has the answer, so that doing it twice does what doing it once does.
//! One that is *answered* has its answer if the ring's `rsp_prod` is past that index, else it is as
//! *taken*. Requests are taken in order, so the ring's next one is `rsp_prod` plus those.
//!
//! The front end may write what it likes to `rsp_prod`. It is only compared; what it would get by
//! that are its own requests, twice or never.

use crate::disk::pool::FailedFlush;
use crate::machine::RING_SIZE;
use libgnt::proto::blkif::{MAX_SEGMENTS, Malformed, Operation, Request, Segment};
use libgnt::{DomId, EvtchnPort, GrantRef, PAGE_SIZE, SharedPages};
use pv_xenstore::toolstack::DeviceId;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Anything else is not ours. The last byte is the version of what follows.
const MAGIC: u64 = u64::from_ne_bytes(*b"pvpair\0\x01");
const PAGES: usize = 2;

/// Offsets in the first page. All numbers are as this machine has them.
mod header {
    pub const MAGIC: usize = 0;
    pub const FRONT: usize = 8;
    pub const DEVICE: usize = 12;
    pub const RING_REF: usize = 16;
    pub const PORT: usize = 20;
    /// 1: what is below speaks of that ring.
    pub const VALID: usize = 24;
    pub const FLUSH_FAILED: usize = 28;
}

/// Offsets in a request's place, of which the second page is full.
mod place {
    pub const STATE: usize = 0;
    pub const ANSWER: usize = 4;
    pub const ID: usize = 8;
    pub const SECTOR: usize = 16;
    /// Operation, its number, and the handle.
    pub const WHAT: usize = 24;
    pub const SEGMENTS: usize = 28;
    pub const FIRST_SEGMENT: usize = 32;
    pub const BYTES: usize = 128;
}

const _: () = assert!(place::FIRST_SEGMENT + MAX_SEGMENTS * 8 <= place::BYTES);
const _: () = assert!(RING_SIZE * place::BYTES <= PAGE_SIZE);

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const ANSWERED: u32 = 2;
const LENT: u32 = 3;

/// Which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingName {
    pub ring_ref: GrantRef,
    pub port: EvtchnPort,
}

/// The file, mapped.
#[derive(Debug)]
pub(crate) struct Record {
    pages: Arc<SharedPages>,
    free: Vec<usize>,
    /// In the order in which they were taken: the id, and the place.
    taken: Vec<(u64, usize)>,
    answered: Vec<usize>,
}

impl Record {
    /// Maps a device's file; makes it one if it is none, or another's.
    ///
    /// # Errors
    /// What the kernel says: no space left.
    pub fn open(file: &File, front: DomId, device: DeviceId) -> std::io::Result<Self> {
        let bytes = (PAGES * PAGE_SIZE) as u64;
        // Room is made now: later a full file system would end the process.
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?;
        // SAFETY: it has that length since just now, and belongs to whoever has it locked, in a
        // directory where nobody else may write.
        #[allow(unsafe_code, reason = "a file that others could shorten")]
        let pages = unsafe { SharedPages::of_file(file, PAGES) }.map_err(std::io::Error::other)?;
        let record = Record {
            pages: Arc::new(pages),
            free: (0..RING_SIZE).collect(),
            taken: Vec::new(),
            answered: Vec::new(),
        };
        let (front, device) = (u32::from(front.0), device.0);
        let ours = record.pages.load_u64(header::MAGIC, Ordering::Acquire) == MAGIC
            && record.get(header::FRONT) == front
            && record.get(header::DEVICE) == device;
        if !ours {
            record.pages.fill(0, PAGES * PAGE_SIZE, 0);
            record.set(header::FRONT, front);
            record.set(header::DEVICE, device);
            record
                .pages
                .store_u64(header::MAGIC, MAGIC, Ordering::Release);
        }
        Ok(record)
    }

    fn get(&self, at: usize) -> u32 {
        self.pages.load_u32(at, Ordering::Acquire)
    }

    fn set(&self, at: usize, value: u32) {
        // A process that is killed leaves its stores in the order in which it made them: the
        // compiler must keep that, and Release is how to say so. Partner: `get`, in the next process.
        self.pages.store_u32(at, value, Ordering::Release);
    }

    /// The device is another one than before: nothing of what was is so any more.
    pub fn forget(&mut self) {
        self.end();
        self.set(header::FLUSH_FAILED, 0);
    }

    /// A ring of which nothing was taken.
    pub fn begin(&mut self, ring: RingName) {
        self.end();
        self.set(header::RING_REF, ring.ring_ref.0);
        self.set(header::PORT, ring.port.0);
        self.set(header::VALID, 1);
    }

    /// The ring is let go: whatever is unanswered stays so.
    pub fn end(&mut self) {
        self.set(header::VALID, 0);
        for place in 0..RING_SIZE {
            self.set(at(place, place::STATE), FREE);
        }
        self.free = (0..RING_SIZE).collect();
        self.taken.clear();
        self.answered.clear();
    }

    /// Does this speak of that ring?
    pub fn knows(&self, ring: RingName) -> bool {
        self.get(header::VALID) == 1
            && self.get(header::RING_REF) == ring.ring_ref.0
            && self.get(header::PORT) == ring.port.0
    }

    /// Pages of a request were lent to others, who may hold them when this process is no more. Then
    /// nobody knows when they let go, and without that no answer may be given (XSA-396).
    pub fn was_lent(&self) -> bool {
        (0..RING_SIZE).any(|place| self.get(at(place, place::STATE)) == LENT)
    }

    /// The requests that an earlier back end took off this ring and did not answer, given the
    /// ring's `rsp_prod`. They are taken by us now.
    pub fn inherit(&mut self, rsp_prod: u32) -> Vec<Request> {
        self.free.clear();
        self.taken.clear();
        self.answered.clear();
        let mut requests = Vec::new();
        for place in 0..RING_SIZE {
            let state = self.get(at(place, place::STATE));
            let answer = self.get(at(place, place::ANSWER));
            let pending = answer.wrapping_sub(rsp_prod).cast_signed() >= 0;
            if state == TAKEN || state == LENT || (state == ANSWERED && pending) {
                let request = self.read(place);
                self.set(at(place, place::STATE), TAKEN);
                self.taken.push((request.id, place));
                requests.push(request);
            } else {
                self.set(at(place, place::STATE), FREE);
                self.free.push(place);
            }
        }
        requests
    }

    /// No place is free: there are answers that were not published.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// To be called with each request off the ring, before anything is done for it.
    ///
    /// # Panics
    /// With more requests than a ring has slots: the ring's count, not the front end's.
    pub fn take(&mut self, request: &Request) {
        let Some(place) = self.free.pop() else {
            panic!("more than {RING_SIZE} requests taken off a ring");
        };
        self.write(place, request);
        self.set(at(place, place::STATE), TAKEN);
        self.taken.push((request.id, place));
    }

    /// To be called before pages of a request are lent to others.
    pub fn lend(&mut self, id: u64) {
        if let Some((_, place)) = self.taken.iter().find(|(taken, _)| *taken == id) {
            self.set(at(*place, place::STATE), LENT);
        }
    }

    /// To be called before a response is written to the ring at an index.
    pub fn answer(&mut self, id: u64, index: u32) {
        // A front end that gives two requests one id gets either's answer for either.
        let Some(found) = self.taken.iter().position(|(taken, _)| *taken == id) else {
            return;
        };
        let (_, place) = self.taken.swap_remove(found);
        self.set(at(place, place::ANSWER), index);
        self.set(at(place, place::STATE), ANSWERED);
        self.answered.push(place);
    }

    /// To be called when all responses written were published.
    pub fn published(&mut self) {
        for place in self.answered.drain(..) {
            self.pages
                .store_u32(at(place, place::STATE), FREE, Ordering::Release);
            self.free.push(place);
        }
    }

    /// Has a file something that the next back end must know: a ring in service, or a failed flush?
    pub fn is_of_use(file: &File) -> bool {
        let mut header = [0; 32];
        // One that is shorter is nobody's.
        if file.read_exact_at(&mut header, 0).is_err() {
            return false;
        }
        let word = |at: usize| header[at..at + 4].iter().any(|byte| *byte != 0);
        header.starts_with(&MAGIC.to_ne_bytes())
            && (word(header::VALID) || word(header::FLUSH_FAILED))
    }

    /// For the disk.
    pub fn failed_flush(&self) -> Arc<dyn FailedFlush> {
        Arc::new(FlushMark(Arc::clone(&self.pages)))
    }

    fn write(&self, place: usize, request: &Request) {
        let put = |field, value| {
            self.pages
                .store_u32(at(place, field), value, Ordering::Relaxed)
        };
        let put_long = |field, value| {
            self.pages
                .store_u64(at(place, field), value, Ordering::Relaxed)
        };
        put_long(place::ID, request.id);
        put_long(place::SECTOR, request.sector);
        let kind = match request.operation {
            Operation::Malformed { .. } => 1,
            _ => 0,
        };
        let [low, high] = request.handle.to_le_bytes();
        let what = [kind, request.operation.number(), low, high];
        put(place::WHAT, u32::from_le_bytes(what));
        put(place::SEGMENTS, u32::from(request.segments.count()));
        for (n, segment) in request.segments.iter().enumerate() {
            put_long(place::FIRST_SEGMENT + n * 8, segment.word());
        }
    }

    fn read(&self, place: usize) -> Request {
        let get = |field| self.pages.load_u32(at(place, field), Ordering::Relaxed);
        let get_long = |field| self.pages.load_u64(at(place, field), Ordering::Relaxed);
        let [kind, number, low, high] = get(place::WHAT).to_le_bytes();
        let operation = match (kind, number) {
            (0, 0) => Operation::Read,
            (0, 1) => Operation::Write,
            (0, 3) => Operation::Flush,
            (0, number) => Operation::Other(number),
            // Answered with an error, whatever was wrong with it.
            (_, number) => Operation::Malformed {
                number,
                why: Malformed::SegmentCount(0),
            },
        };
        let count = (get(place::SEGMENTS) as usize).min(MAX_SEGMENTS);
        let segments =
            (0..count).map(|n| Segment::from_word(get_long(place::FIRST_SEGMENT + n * 8)));
        Request {
            operation,
            handle: u16::from_le_bytes([low, high]),
            id: get_long(place::ID),
            sector: get_long(place::SECTOR),
            segments: segments.collect(),
        }
    }
}

fn at(place: usize, field: usize) -> usize {
    PAGE_SIZE + place * place::BYTES + field
}

/// That a flush failed is true of the image, not of the process.
struct FlushMark(Arc<SharedPages>);

impl FailedFlush for FlushMark {
    fn is_noted(&self) -> bool {
        self.0.load_u32(header::FLUSH_FAILED, Ordering::Acquire) != 0
    }

    fn note(&self) {
        // Partner: the load in `is_noted`.
        self.0.store_u32(header::FLUSH_FAILED, 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
