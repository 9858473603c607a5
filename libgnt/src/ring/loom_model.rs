//! The rings under loom: every interleaving and every value that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p libgnt --release --lib loom`
//!
//! The real front, back and stream run over [`ModelPage`], whose accesses are loom's. Faults are
//! put in at that seam, so that each broken variant is the real code with one thing missing.
//! A lost wake-up is a thread that waits for ever, which loom reports as a deadlock.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::layout::{HEADER_BYTES, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use super::stream::{Buffer, Offer, Stream};
use super::{BackRing, FrontRing, RingMemory, SlotCodec, SlotCopy, SlotWriter, Through};
use loom::sync::atomic::{AtomicU8, AtomicU32};
use loom::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is broken on one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// No full fence between the store of our index and the load of the peer's wish, or the
    /// other way round.
    NoFullFence,
    /// The index is stored before the slot.
    NoRelease,
    /// The slot is read before the index.
    NoAcquire,
    /// The final check believes its first look instead of looking again.
    NoSecondLook,
    /// The final check looks first and asks for the event afterwards.
    ArmedTooLate,
}

/// The words that a model shares. The rest of a page reads as zero.
struct Words {
    indices: [AtomicU32; 4],
    bytes: [AtomicU8; 4],
    /// The first word of each of two slots.
    slots: [AtomicU32; 2],
}

const SLOT_BYTES: usize = 4;
/// `left_order` is 10, `right_order` 11.
const ORDERS: [u8; 4] = [10, 0, 11, 0];

/// One side's view of the shared words.
struct ModelPage {
    words: Arc<Words>,
    size: usize,
    fault: Fault,
    /// For the faults of the final check: the last look at each index, and a store held back.
    seen: [Cell<u32>; 4],
    /// The header was initialised: from here on an event is armed by a final check.
    begun: Cell<bool>,
    armed: Cell<bool>,
    late: Cell<Option<(usize, u32)>>,
}

impl ModelPage {
    fn two(size: usize, faults: [Fault; 2]) -> [Self; 2] {
        let words = Arc::new(Words {
            indices: std::array::from_fn(|_| AtomicU32::new(0)),
            bytes: std::array::from_fn(|_| AtomicU8::new(0)),
            slots: std::array::from_fn(|_| AtomicU32::new(0)),
        });
        faults.map(|fault| ModelPage {
            words: words.clone(),
            size,
            fault,
            seen: std::array::from_fn(|_| Cell::new(0)),
            begun: Cell::new(false),
            armed: Cell::new(false),
            late: Cell::new(None),
        })
    }

    /// Two slots behind a header.
    fn ring(faults: [Fault; 2]) -> [Self; 2] {
        Self::two(HEADER_BYTES + 2 * SLOT_BYTES, faults)
    }

    fn slot(&self, offset: usize) -> Option<&AtomicU32> {
        // A stream's buffers begin at 1024 and 2048: their first bytes stand in the slots.
        let n = match offset {
            HEADER_BYTES | 1024 => 0,
            2048 => 1,
            other if other == HEADER_BYTES + SLOT_BYTES => 1,
            _ => return None,
        };
        Some(&self.words.slots[n])
    }

    fn is_event(offset: usize) -> bool {
        offset == REQ_EVENT || offset == RSP_EVENT
    }
}

impl RingMemory for ModelPage {
    type Slot<'a> = Through<'a, Self>;

    fn slot(&self, offset: usize, _len: usize) -> Through<'_, Self> {
        Through::new(self, offset)
    }

    fn size(&self) -> usize {
        self.size
    }

    fn load(&self, offset: usize) -> u32 {
        self.begun.set(true);
        let at = offset / 4;
        let is_index = offset == REQ_PROD || offset == RSP_PROD;
        if self.fault == Fault::NoSecondLook && is_index && self.armed.take() {
            return self.seen[at].get();
        }
        let value = self.words.indices[at].load(Ordering::Relaxed);
        self.seen[at].set(value);
        if is_index && let Some((at, value)) = self.late.take() {
            self.words.indices[at].store(value, Ordering::Relaxed);
        }
        value
    }

    fn store(&self, offset: usize, value: u32) {
        if self.begun.get() && Self::is_event(offset) {
            self.armed.set(true);
            if self.fault == Fault::ArmedTooLate {
                self.late.set(Some((offset / 4, value)));
                return;
            }
        }
        self.words.indices[offset / 4].store(value, Ordering::Relaxed);
    }

    fn load_u8(&self, offset: usize) -> u8 {
        self.words.bytes[offset - 20].load(Ordering::Relaxed)
    }

    fn store_u8(&self, offset: usize, value: u8) {
        self.words.bytes[offset - 20].store(value, Ordering::Relaxed);
    }

    fn set_bits(&self, offset: usize, bits: u8) {
        self.words.bytes[offset - 20].fetch_or(bits, Ordering::Relaxed);
    }

    fn take_bits(&self, offset: usize, bits: u8) -> u8 {
        self.words.bytes[offset - 20].fetch_and(!bits, Ordering::Relaxed)
    }

    fn fence(&self, order: Ordering) {
        let left_out = match order {
            Ordering::SeqCst => Fault::NoFullFence,
            Ordering::Release => Fault::NoRelease,
            _ => Fault::NoAcquire,
        };
        if self.fault != left_out {
            loom::sync::atomic::fence(order);
        }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        into.fill(0);
        if offset == 16 {
            into[..4].copy_from_slice(&ORDERS);
        } else if let Some(slot) = self.slot(offset) {
            let bytes = slot.load(Ordering::Relaxed).to_le_bytes();
            let n = into.len().min(4);
            into[..n].copy_from_slice(&bytes[..n]);
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        if let Some(slot) = self.slot(offset) {
            let mut bytes = [0; 4];
            let n = from.len().min(4);
            bytes[..n].copy_from_slice(&from[..n]);
            slot.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }
}

/// A number each way.
#[derive(Clone, Copy)]
struct Number;

impl SlotCodec for Number {
    type Request = u32;
    type RequestRef<'a> = u32;
    type Response = u32;
    const SLOT_BYTES: usize = SLOT_BYTES;
    fn encode_request<W: SlotWriter + ?Sized>(&self, request: &u32, slot: &mut W) -> usize {
        slot.put(0, request.to_le_bytes());
        SLOT_BYTES
    }
    fn decode_request(&self, slot: &SlotCopy) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(slot.get(0)))
    }
    fn encode_response<W: SlotWriter + ?Sized>(&self, response: &u32, slot: &mut W) {
        self.encode_request(response, slot);
    }
    fn decode_response(&self, slot: &SlotCopy) -> Result<u32, &'static str> {
        self.decode_request(slot)
    }
}

/// An event channel: pending until it is taken.
struct Event(Mutex<bool>, Condvar);

impl Event {
    fn new() -> Arc<Self> {
        Arc::new(Event(Mutex::new(false), Condvar::new()))
    }
    fn notify(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
    fn wait(&self) {
        let mut pending = self.0.lock().unwrap();
        while !*pending {
            pending = self.1.wait(pending).unwrap();
        }
        *pending = false;
    }
}

/// Takes until `count` numbers came, and sleeps in between as the rings allow.
fn drain(
    count: usize,
    event: &Event,
    mut pop: impl FnMut() -> Option<u32>,
    mut final_check: impl FnMut() -> bool,
) -> Vec<u32> {
    let mut got = Vec::new();
    // `pop` and `final_check` borrow one ring: the caller passes it through a cell.
    while got.len() < count {
        match pop() {
            Some(number) => got.push(number),
            None if final_check() => {}
            None => event.wait(),
        }
    }
    got
}

fn drain_requests(back: BackRing<Number, ModelPage>, count: usize, event: &Event) -> Vec<u32> {
    let ring = std::cell::RefCell::new(back);
    drain(
        count,
        event,
        || ring.borrow_mut().pop().unwrap(),
        || ring.borrow_mut().final_check().unwrap(),
    )
}

fn drain_responses(front: FrontRing<Number, ModelPage>, count: usize, event: &Event) -> Vec<u32> {
    let ring = std::cell::RefCell::new(front);
    drain(
        count,
        event,
        || ring.borrow_mut().pop().unwrap(),
        || ring.borrow_mut().final_check().unwrap(),
    )
}

/// Requests while the back end goes to sleep. The first was sent, noticed and taken before the
/// race, so that nobody is armed when it begins: the initial header would wake the back end
/// whatever it does.
fn requests(faults: [Fault; 2]) {
    let [mine, theirs] = ModelPage::ring(faults);
    let mut front = FrontRing::new(mine, Number);
    let mut back = BackRing::attach(theirs, Number);
    front.push(&70).unwrap();
    assert!(front.publish());
    assert_eq!(back.pop().unwrap(), Some(70));

    let event = Event::new();
    let woken = event.clone();
    let back = loom::thread::spawn(move || drain_requests(back, 1, &woken));
    front.push(&71).unwrap();
    if front.publish() {
        event.notify();
    }
    assert_eq!(back.join().unwrap(), [71]);
}

/// Two requests in two batches, each of which may find the back end awake or asleep.
fn two_batches(faults: [Fault; 2]) {
    let [mine, theirs] = ModelPage::ring(faults);
    let mut front = FrontRing::starting_at(mine, Number, u32::MAX);
    let back = BackRing::attach(theirs, Number);
    let event = Event::new();
    let woken = event.clone();
    let back = loom::thread::spawn(move || drain_requests(back, 2, &woken));
    for number in [70, 71] {
        front.push(&number).unwrap();
        if front.publish() {
            event.notify();
        }
    }
    assert_eq!(back.join().unwrap(), [70, 71]);
}

/// Responses while the front end goes to sleep, armed by nobody when the race begins.
fn responses(faults: [Fault; 2]) {
    let [mine, theirs] = ModelPage::ring(faults);
    let mut front = FrontRing::new(mine, Number);
    let mut back = BackRing::attach(theirs, Number);
    for number in [70, 71] {
        front.push(&number).unwrap();
    }
    assert!(front.publish());
    assert_eq!(
        (back.pop().unwrap(), back.pop().unwrap()),
        (Some(70), Some(71))
    );
    back.push(&80);
    assert!(back.publish());
    assert_eq!(front.pop().unwrap(), Some(80));

    let event = Event::new();
    let woken = event.clone();
    let front = loom::thread::spawn(move || drain_responses(front, 1, &woken));
    back.push(&81);
    if back.publish() {
        event.notify();
    }
    assert_eq!(front.join().unwrap(), [81]);
}

/// Both directions at once: a request answered while both sides fall asleep.
fn round_trip(faults: [Fault; 2]) {
    let [mine, theirs] = ModelPage::ring(faults);
    let mut front = FrontRing::new(mine, Number);
    let mut back = BackRing::attach(theirs, Number);
    front.push(&70).unwrap();
    assert!(front.publish());
    let first = back.pop().unwrap().unwrap();
    back.push(&(first + 10));
    assert!(back.publish());
    assert_eq!(front.pop().unwrap(), Some(80));

    let (to_back, to_front) = (Event::new(), Event::new());
    let (back_woken, front_notify) = (to_back.clone(), to_front.clone());
    let back = loom::thread::spawn(move || {
        let ring = std::cell::RefCell::new(back);
        let got = drain(
            1,
            &back_woken,
            || ring.borrow_mut().pop().unwrap(),
            || ring.borrow_mut().final_check().unwrap(),
        );
        let mut back = ring.into_inner();
        back.push(&(got[0] + 10));
        if back.publish() {
            front_notify.notify();
        }
    });
    front.push(&71).unwrap();
    if front.publish() {
        to_back.notify();
    }
    assert_eq!(drain_responses(front, 1, &to_front), [81]);
    back.join().unwrap();
}

fn streams(faults: [Fault; 2]) -> (Stream<ModelPage>, Stream<ModelPage>) {
    let [one, two] = ModelPage::two(4096, faults);
    let server = Stream::server(one, Buffer::Small, Buffer::Medium, &[]).unwrap();
    let offer = Offer::read(&two).unwrap();
    (server, Stream::client(two, &offer, None, None).unwrap())
}

/// Bytes while the reader goes to sleep; the first wish was used up before the race.
fn stream_data(faults: [Fault; 2]) {
    let (mut server, mut client) = streams(faults);
    assert!(client.write(&[0; 1024]).unwrap().notify);
    let _ = server.read(&mut [0; 1024]).unwrap();

    let event = Event::new();
    let woken = event.clone();
    let reader = loom::thread::spawn(move || {
        let mut into = [0; 4];
        loop {
            match server.read(&mut into).unwrap().bytes {
                0 if server.arm_readable().unwrap() => {}
                0 => woken.wait(),
                n => return (n, into),
            }
        }
    });
    if client.write(&[7, 8, 9, 10]).unwrap().notify {
        event.notify();
    }
    assert_eq!(reader.join().unwrap(), (4, [7, 8, 9, 10]));
}

/// Room while the writer goes to sleep. What it overwrites must have been read.
fn stream_room(faults: [Fault; 2]) {
    let (mut server, mut client) = streams(faults);
    let mut full = [0; 1024];
    full[..4].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(client.write(&full).unwrap().bytes, 1024);

    let event = Event::new();
    let woken = event.clone();
    let writer = loom::thread::spawn(move || {
        loop {
            match client.write(&[7, 8, 9, 10]).unwrap().bytes {
                0 if client.arm_writable().unwrap() => {}
                0 => woken.wait(),
                n => return n,
            }
        }
    });
    let mut into = [0; 4];
    let moved = server.read(&mut into).unwrap();
    assert_eq!(
        (moved.bytes, into),
        (4, [1, 2, 3, 4]),
        "overwritten before it was read"
    );
    if moved.notify {
        event.notify();
    }
    assert_eq!(writer.join().unwrap(), 4);
}

type Model = fn([Fault; 2]);

#[test]
fn loom_rings_lose_no_wake_up_and_no_slot() {
    for model in [requests, two_batches, responses, round_trip] as [Model; 4] {
        loom::model(move || model([Fault::None; 2]));
    }
}

#[test]
fn loom_streams_lose_no_wake_up_and_no_byte() {
    for model in [stream_data, stream_room] as [Model; 2] {
        loom::model(move || model([Fault::None; 2]));
    }
}

/// What loom says when it finds an execution of the broken variant that fails.
fn verdict(model: Model, faults: [Fault; 2]) -> String {
    let run = AssertUnwindSafe(|| loom::model(move || model(faults)));
    match std::panic::catch_unwind(run) {
        Ok(()) => "nothing found".into(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(_) => "a panic without a text".into(),
        },
    }
}

/// A wake-up that is lost is a deadlock; a slot that is seen too early has a wrong number in it.
fn must_be_caught(variants: &[(Model, [Fault; 2])]) {
    use Fault::{ArmedTooLate, NoFullFence, NoSecondLook};
    for (n, (model, faults)) in variants.iter().enumerate() {
        let wake_up = faults
            .iter()
            .any(|f| [NoFullFence, NoSecondLook, ArmedTooLate].contains(f));
        let expected = if wake_up {
            "deadlock"
        } else {
            "assertion `left == right` failed"
        };
        let verdict = verdict(*model, *faults);
        assert!(
            verdict.starts_with(expected),
            "variant {n}, {faults:?}: {verdict}"
        );
    }
}

#[test]
fn loom_catches_every_broken_ring() {
    use Fault::{ArmedTooLate, NoAcquire, NoFullFence, NoRelease, NoSecondLook, None};
    // The first side is the front.
    must_be_caught(&[
        (requests, [NoFullFence, None]),
        (requests, [None, NoFullFence]),
        (requests, [NoRelease, None]),
        (requests, [None, NoAcquire]),
        (requests, [None, NoSecondLook]),
        (requests, [None, ArmedTooLate]),
        (responses, [None, NoFullFence]),
        (responses, [NoFullFence, None]),
        (responses, [None, NoRelease]),
        (responses, [NoAcquire, None]),
        (responses, [NoSecondLook, None]),
        (responses, [ArmedTooLate, None]),
    ]);
}

/// Not among them: `stream_room` without the reader's release fence. It would take a load that
/// sees a later store, which loom does not make.
#[test]
fn loom_catches_every_broken_stream() {
    use Fault::{NoAcquire, NoFullFence, NoRelease, None};
    // The first side is the server, which reads.
    must_be_caught(&[
        (stream_data, [NoFullFence, None]),
        (stream_data, [None, NoFullFence]),
        (stream_data, [None, NoRelease]),
        (stream_data, [NoAcquire, None]),
        (stream_room, [NoFullFence, None]),
        (stream_room, [None, NoFullFence]),
    ]);
}
