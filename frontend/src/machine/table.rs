//! Requests in flight, by id. An id is a slot's number and the slot's generation, so that an old
//! answer, or a second one, never passes for the answer to a new request.

use super::io::{IoKey, IoOp, ProtocolError};
use super::pages::PageList;
use super::sabotage::FrontSabotage;
use libgnt::proto::blkif::Response;

/// Bits of the id that number the slot.
const SLOT_BITS: u32 = 8;

#[derive(Debug)]
pub(super) struct InFlight {
    pub id: u64,
    /// `None`: its I/O is over (it timed out), but the back end still has the pages.
    pub io: Option<IoKey>,
    pub op: IoOp,
    /// Order of pushing.
    pub pushed: u64,
    /// Sectors, counted from the I/O's first.
    pub first: u32,
    pub sectors: u32,
    pub pages: PageList,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<InFlight>>,
    /// Per slot; counts on over every connection, so that ids never come again.
    generations: Vec<u64>,
    free: Vec<u8>,
    in_flight: u32,
    writes: u32,
    pushed: u64,
    sabotage: FrontSabotage,
}

impl Table {
    pub(super) fn new(sabotage: FrontSabotage) -> Self {
        Table {
            slots: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            writes: 0,
            pushed: 0,
            sabotage,
        }
    }

    /// Empty, for a ring of so many slots (at most 256).
    pub(super) fn reset(&mut self, slots: u32) {
        let slots = slots.min(1 << SLOT_BITS) as usize;
        self.slots.clear();
        self.slots.resize_with(slots, || None);
        self.generations
            .resize(slots.max(self.generations.len()), 0);
        self.free = (0..slots).rev().map(|n| n as u8).collect();
        (self.in_flight, self.writes) = (0, 0);
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Writes on the ring, those of I/Os that timed out included.
    pub(super) fn writes(&self) -> u32 {
        self.writes
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The id that the next [`Table::insert`] must have.
    pub(super) fn next_id(&self) -> Option<u64> {
        let slot = *self.free.last()?;
        Some((self.generations[usize::from(slot)] + 1) << SLOT_BITS | u64::from(slot))
    }

    pub(super) fn insert(&mut self, mut flight: InFlight) {
        let Some(slot) = self.free.pop().map(usize::from) else {
            return;
        };
        debug_assert_eq!(flight.id & ((1 << SLOT_BITS) - 1), slot as u64);
        self.generations[slot] += 1;
        self.in_flight += 1;
        self.pushed += 1;
        flight.pushed = self.pushed;
        self.writes += u32::from(flight.op == IoOp::Write);
        self.slots[slot] = Some(flight);
    }

    fn slot_of(&self, id: u64) -> Option<usize> {
        let slot = usize::try_from(id & ((1 << SLOT_BITS) - 1)).ok()?;
        let flight = self.slots.get(slot)?.as_ref()?;
        let matches = flight.id == id || self.sabotage == FrontSabotage::IgnoreGeneration;
        matches.then_some(slot)
    }

    pub(super) fn get(&self, id: u64) -> Option<&InFlight> {
        self.slots[self.slot_of(id)?].as_ref()
    }

    /// Takes out the request that a response answers.
    pub(super) fn answer(&mut self, response: &Response) -> Result<InFlight, ProtocolError> {
        let unknown = ProtocolError::UnknownId { id: response.id };
        let slot = self.slot_of(response.id).ok_or(unknown)?;
        let flight = self.slots[slot].take().ok_or(unknown)?;
        if flight.op.number() != response.operation
            && self.sabotage != FrontSabotage::IgnoreOperation
        {
            let (id, asked) = (flight.id, flight.op.number());
            self.slots[slot] = Some(flight);
            return Err(ProtocolError::WrongOperation {
                id,
                asked,
                got: response.operation,
            });
        }
        // `slot` came from at most eight bits.
        self.free.push(slot as u8);
        self.in_flight -= 1;
        self.writes -= u32::from(flight.op == IoOp::Write);
        Ok(flight)
    }

    /// Takes out everything: the connection is over.
    pub(super) fn drain(&mut self) -> Vec<InFlight> {
        let all = self.slots.iter_mut().filter_map(Option::take).collect();
        self.reset(self.slots.len() as u32);
        all
    }

    /// The id of the request that has been on the ring longest.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.iter()
            .min_by_key(|flight| flight.pushed)
            .map(|flight| flight.id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        self.slots.iter().flatten()
    }

    /// The I/O is over for its caller; its requests stay until they are answered.
    pub(super) fn orphan(&mut self, io: IoKey) {
        for flight in self.slots.iter_mut().flatten() {
            if flight.io == Some(io) {
                flight.io = None;
            }
        }
    }
}
