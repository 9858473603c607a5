//! What a peer that writes anything at any moment can do to a ring: end it, with a typed error.
//!
//! Each judge is also shown a ring that believes the peer, and must find it guilty.
#![allow(clippy::unwrap_used, reason = "a test")]

use libgnt::SharedPages;
use libgnt::proto::blkif::{Operation, Request, Response, Segment, Status, X86_64};
use libgnt::ring::layout::{HEADER_BYTES, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use libgnt::ring::{
    BackRing, FrontRing, RingError, RingMemory, SlotCodec, SlotCopy, SlotWriter, Through,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SLOTS: usize = 32;
const SLOT: usize = X86_64::SLOT_BYTES;

fn page() -> Arc<SharedPages> {
    Arc::new(SharedPages::anonymous(1).unwrap())
}

fn read_request(id: u64) -> Request {
    Request {
        operation: Operation::Read,
        handle: 51712,
        id,
        sector: id * 8,
        segments: [Segment {
            gref: 8,
            first_sector: 0,
            last_sector: 7,
        }]
        .into_iter()
        .collect(),
    }
}

/// One side of a ring, as a judge sees it: takes whatever the peer offers.
trait Side {
    fn pop(&mut self) -> Result<bool, RingError>;
    fn final_check(&mut self) -> Result<bool, RingError>;
}

struct Back<M: RingMemory>(BackRing<X86_64, M>);
impl<M: RingMemory> Side for Back<M> {
    fn pop(&mut self) -> Result<bool, RingError> {
        Ok(self.0.pop()?.is_some())
    }
    fn final_check(&mut self) -> Result<bool, RingError> {
        self.0.final_check()
    }
}

struct Front<M: RingMemory>(FrontRing<X86_64, M>);
impl<M: RingMemory> Side for Front<M> {
    fn pop(&mut self) -> Result<bool, RingError> {
        Ok(self.0.pop()?.is_some())
    }
    fn final_check(&mut self) -> Result<bool, RingError> {
        self.0.final_check()
    }
}

/// The broken rings.
#[derive(Clone, Copy, Debug)]
enum Trust {
    /// Loops until its index equals the peer's.
    Index,
    /// Bounds the index, by a size that it reads from the page's reserved bytes.
    SharedSize,
    /// Bounds the index, and reads each slot twice: to check, then to use.
    SlotTwice,
}

struct Trusting<M: RingMemory> {
    memory: M,
    trust: Trust,
    cons: u32,
}

impl<M: RingMemory> Side for Trusting<M> {
    fn pop(&mut self) -> Result<bool, RingError> {
        let claimed = self.memory.load(REQ_PROD);
        let ahead = claimed.wrapping_sub(self.cons);
        let size = match self.trust {
            Trust::Index => u32::MAX,
            Trust::SharedSize => self.memory.load(16),
            Trust::SlotTwice => SLOTS as u32,
        };
        if ahead > size {
            let (index, ours) = ("req_prod", self.cons);
            return Err(RingError::IndexOutOfRange {
                index,
                claimed,
                ours,
                ahead,
                allowed: size,
                size,
            });
        }
        if ahead > 0 {
            let at = HEADER_BYTES + (self.cons as usize % SLOTS) * SLOT;
            let mut slot = [0; SLOT];
            self.memory.read(at, &mut slot);
            if matches!(self.trust, Trust::SlotTwice) {
                self.memory.read(at, &mut slot);
            }
            self.cons = self.cons.wrapping_add(1);
        }
        Ok(ahead > 0)
    }
    fn final_check(&mut self) -> Result<bool, RingError> {
        Ok(self.memory.load(REQ_PROD) != self.cons)
    }
}

/// Writes garbage into the page and drains, `seeds` times. What is wrong, if something is.
fn judge_bounds(
    seeds: u64,
    allowed: usize,
    make: impl Fn(&Arc<SharedPages>, u32) -> Box<dyn Side>,
) -> Result<(), String> {
    // Miri is a hundred times slower.
    let seeds = if cfg!(miri) { seeds / 100 } else { seeds };
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let start = if rng.bool() {
            u32::MAX - rng.u32(0..40)
        } else {
            rng.u32(..)
        };
        let page = page();
        let mut side = make(&page, start);
        let mut popped = 0;
        let mut failed = None;
        for _ in 0..12 {
            match rng.u8(0..4) {
                // Near the truth, where an off-by-one would hide.
                0 => {
                    let at = if rng.bool() { REQ_PROD } else { RSP_PROD };
                    page.store(at, start.wrapping_add(rng.u32(0..80)).wrapping_sub(8));
                }
                1 => {
                    let at = rng.usize(0..16) * 4;
                    page.store(at, rng.u32(..));
                }
                _ => {
                    let mut junk = [0; 300];
                    rng.fill(&mut junk);
                    let at = rng.usize(0..4096 - 300);
                    SharedPages::write(&page, at, &junk[..rng.usize(0..300)]);
                }
            }
            loop {
                let result = if rng.u8(0..10) == 0 {
                    side.final_check().map(|_| true)
                } else {
                    side.pop().inspect(|&some| popped += usize::from(some))
                };
                if popped > allowed {
                    return Err(format!("seed {seed}: {popped} taken, {allowed} possible"));
                }
                match (result, failed) {
                    (Ok(_), Some(error)) => {
                        return Err(format!("seed {seed}: went on after {error}"));
                    }
                    (Err(error), Some(first)) if error != first => {
                        return Err(format!("seed {seed}: {error} after {first}"));
                    }
                    (Err(error), _) => failed = Some(error),
                    (Ok(_), None) => {}
                }
                if matches!(result, Ok(false) | Err(_)) {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn garbage_never_makes_a_back_end_take_more_than_the_ring_holds() {
    judge_bounds(4000, SLOTS, |page, start| {
        FrontRing::starting_at(page.clone(), X86_64, start);
        Box::new(Back(BackRing::attach(page.clone(), X86_64)))
    })
    .unwrap();
}

#[test]
fn garbage_never_makes_a_front_end_take_more_than_it_asked_for() {
    for asked in [0, 1, 5, 32] {
        judge_bounds(1000, asked, |page, start| {
            let mut front = FrontRing::starting_at(page.clone(), X86_64, start);
            for id in 0..asked as u64 {
                front.push(&read_request(id)).unwrap();
            }
            let _ = front.publish();
            Box::new(Front(front))
        })
        .unwrap();
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri is too slow for enough seeds")]
fn rings_that_trust_the_peer_are_found_guilty() {
    for trust in [Trust::Index, Trust::SharedSize] {
        let verdict = judge_bounds(1000, SLOTS, |page, start| {
            FrontRing::starting_at(page.clone(), X86_64, start);
            Box::new(Trusting {
                memory: page.clone(),
                trust,
                cons: start,
            })
        });
        assert!(verdict.is_err(), "{trust:?} passed");
    }
}

#[test]
fn a_claim_beyond_the_ring_names_everything_and_stays() {
    let page = page();
    FrontRing::starting_at(page.clone(), X86_64, 100);
    let mut back = BackRing::attach(page.clone(), X86_64);
    page.store(REQ_PROD, 133);
    let expected = RingError::IndexOutOfRange {
        index: "req_prod",
        claimed: 133,
        ours: 100,
        ahead: 33,
        allowed: 32,
        size: 32,
    };
    assert_eq!(back.pop(), Err(expected));
    // A repaired index does not repair the peer.
    page.store(REQ_PROD, 101);
    assert_eq!(back.pop(), Err(expected));
    assert_eq!(back.final_check(), Err(expected));
}

#[test]
fn an_index_that_goes_backwards_is_a_violation() {
    let page = page();
    let mut front = FrontRing::new(page.clone(), X86_64);
    let mut back = BackRing::attach(page.clone(), X86_64);
    for id in 0..3 {
        front.push(&read_request(id)).unwrap();
    }
    let _ = front.publish();
    while back.pop().unwrap().is_some() {}
    // io/ring.h's RING_REQUEST_PROD_OVERFLOW compares with the responses, and would let this pass.
    page.store(REQ_PROD, 2);
    assert!(matches!(
        back.pop(),
        Err(RingError::IndexOutOfRange {
            ahead: u32::MAX,
            ..
        })
    ));
}

#[test]
fn slots_of_unanswered_requests_are_not_free() {
    let page = page();
    let mut front = FrontRing::new(page.clone(), X86_64);
    let mut back = BackRing::attach(page.clone(), X86_64);
    for id in 0..32 {
        front.push(&read_request(id)).unwrap();
    }
    assert_eq!(front.push(&read_request(32)).unwrap_err().size, 32);
    let _ = front.publish();
    while back.pop().unwrap().is_some() {}
    page.store(REQ_PROD, 33);
    assert!(matches!(
        back.pop(),
        Err(RingError::IndexOutOfRange {
            allowed: 0,
            ahead: 1,
            ..
        })
    ));
}

#[test]
fn a_response_to_an_unpublished_request_is_a_violation() {
    let page = page();
    let mut front = FrontRing::new(page.clone(), X86_64);
    front.push(&read_request(1)).unwrap();
    page.store(RSP_PROD, 1);
    assert!(matches!(
        front.pop(),
        Err(RingError::IndexOutOfRange { allowed: 0, .. })
    ));
}

#[test]
fn hostile_event_indices_cost_an_event_at_most() {
    for seed in 0..if cfg!(miri) { 2 } else { 500 } {
        let mut rng = fastrand::Rng::with_seed(seed);
        let page = page();
        let mut front = FrontRing::starting_at(page.clone(), X86_64, rng.u32(..));
        let mut back = BackRing::attach(page.clone(), X86_64);
        for id in 0..100 {
            page.store(REQ_EVENT, rng.u32(..));
            page.store(RSP_EVENT, rng.u32(..));
            front.push(&read_request(id)).unwrap();
            let _ = front.publish();
            let request = back.pop().unwrap().unwrap();
            back.push(&request.response(Status::Okay));
            let _ = back.publish();
            assert_eq!(front.pop().unwrap().unwrap().id, id, "seed {seed}");
        }
    }
}

/// Counts every access, and scribbles over each byte of a slot as soon as it was read.
#[derive(Default)]
struct Log {
    reads: HashMap<usize, u32>,
    stores: Vec<usize>,
    /// Whether to scribble.
    scribble: bool,
}

#[derive(Clone)]
struct Audited {
    page: Arc<SharedPages>,
    log: Rc<RefCell<Log>>,
}

impl RingMemory for Audited {
    type Slot<'a> = Through<'a, Self>;
    fn slot(&self, offset: usize, _len: usize) -> Through<'_, Self> {
        Through::new(self, offset)
    }
    fn size(&self) -> usize {
        self.page.size()
    }
    fn load(&self, offset: usize) -> u32 {
        self.page.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.log.borrow_mut().stores.push(offset);
        self.page.store(offset, value);
    }
    fn load_u8(&self, offset: usize) -> u8 {
        RingMemory::load_u8(&self.page, offset)
    }
    fn store_u8(&self, offset: usize, value: u8) {
        RingMemory::store_u8(&self.page, offset, value);
    }
    fn set_bits(&self, offset: usize, bits: u8) {
        self.page.set_bits(offset, bits);
    }
    fn take_bits(&self, offset: usize, bits: u8) -> u8 {
        self.page.take_bits(offset, bits)
    }
    fn fence(&self, order: Ordering) {
        self.page.fence(order);
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        RingMemory::read(&self.page, offset, into);
        let mut log = self.log.borrow_mut();
        for at in offset..offset + into.len() {
            *log.reads.entry(at).or_default() += 1;
        }
        if log.scribble {
            self.page.fill(offset, into.len(), 0xa5);
        }
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.log
            .borrow_mut()
            .stores
            .extend(offset..offset + from.len());
        RingMemory::write(&self.page, offset, from);
    }
}

fn audited(page: &Arc<SharedPages>) -> (Audited, Rc<RefCell<Log>>) {
    let log = Rc::new(RefCell::new(Log {
        scribble: true,
        ..Log::default()
    }));
    (
        Audited {
            page: page.clone(),
            log: log.clone(),
        },
        log,
    )
}

/// Takes one request through `side`, and counts how often its bytes were read.
fn most_reads(side: &mut dyn Side, log: &RefCell<Log>) -> u32 {
    log.borrow_mut().reads.clear();
    assert!(side.pop().unwrap());
    log.borrow().reads.values().copied().max().unwrap()
}

#[test]
fn a_slot_is_copied_once_and_only_the_copy_is_used() {
    let page = page();
    let mut front = FrontRing::new(page.clone(), X86_64);
    let (memory, log) = audited(&page);
    let mut back = BackRing::attach(memory.clone(), X86_64);
    let sent: Vec<Request> = (0..8).map(read_request).collect();
    for request in &sent {
        front.push(request).unwrap();
    }
    let _ = front.publish();
    for request in &sent[..7] {
        log.borrow_mut().reads.clear();
        assert_eq!(
            back.pop().unwrap(),
            Some(*request),
            "the scribbled slot came back"
        );
        assert_eq!(log.borrow().reads.values().max(), Some(&1));
        assert_eq!(log.borrow().reads.len(), SLOT);
    }
    assert_eq!(most_reads(&mut Back(back), &log), 1);
    let mut twice = Trusting {
        memory,
        trust: Trust::SlotTwice,
        cons: 0,
    };
    assert_eq!(most_reads(&mut twice, &log), 2, "the judge cannot count");
}

#[test]
fn each_side_writes_its_own_fields_only() {
    let page = page();
    let (front_memory, front_log) = audited(&page);
    let (back_memory, back_log) = audited(&page);
    front_log.borrow_mut().scribble = false;
    back_log.borrow_mut().scribble = false;
    let mut front = FrontRing::new(front_memory, X86_64);
    front_log.borrow_mut().stores.clear();
    let mut back = BackRing::attach(back_memory, X86_64);
    for id in 0..if cfg!(miri) { 4 } else { 100 } {
        front.push(&read_request(id)).unwrap();
        let _ = front.publish();
        assert!(back.final_check().unwrap());
        let request = back.pop().unwrap().unwrap();
        back.push(&request.response(Status::Okay));
        let _ = back.publish();
        assert!(!back.final_check().unwrap());
        let expected = Response {
            id,
            operation: 0,
            status: Status::Okay,
        };
        assert_eq!(front.pop().unwrap(), Some(expected));
        assert!(!front.final_check().unwrap());
    }
    let header = |log: &RefCell<Log>| {
        let mut fields: Vec<usize> = log
            .borrow()
            .stores
            .iter()
            .copied()
            .filter(|&at| at < HEADER_BYTES)
            .collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    };
    assert_eq!(header(&front_log), [REQ_PROD, RSP_EVENT]);
    assert_eq!(header(&back_log), [REQ_EVENT, RSP_PROD]);
}

/// A codec may refuse bytes altogether; then the ring is over too.
#[derive(Clone, Copy)]
struct Strict;
impl SlotCodec for Strict {
    type Request = u8;
    type RequestRef<'a> = u8;
    type Response = u8;
    const SLOT_BYTES: usize = 16;
    fn encode_request<W: SlotWriter + ?Sized>(&self, request: &u8, slot: &mut W) -> usize {
        slot.put(0, [*request; Self::SLOT_BYTES]);
        Self::SLOT_BYTES
    }
    fn decode_request(&self, slot: &SlotCopy) -> Result<u8, &'static str> {
        match slot.get(0) {
            [66] => Err("66 is not a number"),
            [number] => Ok(number),
        }
    }
    fn encode_response<W: SlotWriter + ?Sized>(&self, response: &u8, slot: &mut W) {
        self.encode_request(response, slot);
    }
    fn decode_response(&self, slot: &SlotCopy) -> Result<u8, &'static str> {
        self.decode_request(slot)
    }
}

#[test]
fn what_a_codec_refuses_is_final() {
    let page = page();
    let mut front = FrontRing::new(page.clone(), Strict);
    let mut back = BackRing::attach(page, Strict);
    for number in [1, 66, 2] {
        front.push(&number).unwrap();
    }
    let _ = front.publish();
    assert_eq!(back.pop(), Ok(Some(1)));
    let error = RingError::Malformed {
        slot: 1,
        what: "66 is not a number",
    };
    for _ in 0..3 {
        assert_eq!(back.pop(), Err(error));
    }
    back.push(&66);
    let _ = back.publish();
    let error = RingError::Malformed {
        slot: 0,
        what: "66 is not a number",
    };
    assert_eq!((front.pop(), front.final_check()), (Err(error), Err(error)));
}
