//! The block protocol of this end as a state machine without I/O: what callers ask, what the back
//! end answers and what becomes of it go in as [`Input`]; requests to push, bytes to copy and
//! results come out as [`Action`].
//!
//! Promises, each with a broken variant in [`FrontSabotage`] that a test catches:
//! - every I/O completes exactly once, whatever the back end does or dies of;
//! - a page carries one request at a time, and is free only after that request's response;
//! - a response is believed only if its id, generation and operation are those of a request in
//!   flight (XSA-405);
//! - what was not acknowledged when the back end died goes out again, oldest first;
//! - a flush goes out when every write submitted before it is answered;
//! - a disk that becomes smaller harms no request on the ring, and gets none past its end.

mod sabotage;

mod io;
mod pages;

mod types;

mod ios;
mod table;

// One machine, in the files of its parts.
mod connection;
mod ends;
mod push;
#[cfg(test)]
mod tests;

pub use io::{DeviceError, DiskInfo, IoError, IoKey, IoOp, IoRequest, ProtocolError, WaitsFor};
pub use pages::{PageList, PageNo};
#[doc(hidden)]
pub use sabotage::FrontSabotage;
pub use types::{Action, Input, Limits, Session};

use ios::{Io, Ios};
use libgnt::GrantRef;
use libgnt::machine::{Machine, Now};
use libgnt::proto::blkif::SECTOR_SIZE;
use pages::Pages;
use std::collections::VecDeque;
use table::Table;

/// A part of an I/O that is not on the ring: sectors, counted from the I/O's first.
#[derive(Clone, Copy, Debug)]
struct Part {
    io: IoKey,
    first: u32,
    sectors: u32,
}

#[derive(Debug)]
enum Phase {
    Down,
    Up(Box<Up>),
    Failed(DeviceError),
}

#[derive(Debug)]
struct Up {
    disk: DiskInfo,
    handle: u16,
    pages: Pages,
}

/// The state machine.
#[derive(Debug)]
pub struct FrontMachine {
    limits: Limits,
    phase: Phase,
    ios: Ios,
    queue: VecDeque<Part>,
    table: Table,
    /// Oldest first; an entry whose I/O is over is skipped. The first one's is not.
    deadlines: VecDeque<(Now, IoKey, u64)>,
    next_seq: u64,
    sabotage: FrontSabotage,
}

impl FrontMachine {
    /// A machine without a back end: it queues until [`Input::Connected`].
    pub fn new(limits: Limits) -> Self {
        Self::sabotaged(limits, FrontSabotage::None)
    }

    /// A machine that breaks one promise, for the tests that must notice.
    #[doc(hidden)]
    pub fn sabotaged(limits: Limits, sabotage: FrontSabotage) -> Self {
        FrontMachine {
            limits,
            phase: Phase::Down,
            ios: Ios::default(),
            queue: VecDeque::new(),
            table: Table::new(sabotage),
            deadlines: VecDeque::new(),
            next_seq: 0,
            sabotage,
        }
    }

    /// I/Os accepted and not completed.
    pub fn pending(&self) -> usize {
        self.ios.len()
    }

    /// Requests on the ring.
    pub fn in_flight(&self) -> u32 {
        self.table.in_flight()
    }

    /// Why the device takes no more I/O, if it takes none.
    pub fn failed(&self) -> Option<&DeviceError> {
        match &self.phase {
            Phase::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// When [`Input::Tick`] has something to do, at the earliest. None while no back end is there:
    /// that wait has its own bound, the driver's.
    pub fn next_deadline(&self) -> Option<Now> {
        match &self.phase {
            Phase::Up(_) => self.deadlines.front().map(|(at, ..)| *at),
            _ => None,
        }
    }

    /// The pages that a response claims to give back, as grants, for whoever can ask whether they
    /// are really unmapped. Nothing for an id that is not in flight.
    pub fn grants_of(&self, id: u64) -> Vec<GrantRef> {
        match (&self.phase, self.table.get(id)) {
            (Phase::Up(up), Some(flight)) => {
                flight.pages.iter().map(|&p| up.pages.grant(p)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn submit(&mut self, now: Now, key: IoKey, request: IoRequest) -> Result<(), IoError> {
        match &self.phase {
            Phase::Failed(error) => return Err(IoError::Device(error.clone())),
            Phase::Up(up) => request.check(&up.disk)?,
            // Checked when a back end says how large the disk is.
            Phase::Down => {}
        }
        let limit = self.limits.queue;
        let seq = self.next_seq;
        let io = Io {
            request,
            seq,
            since: now,
            in_flight: 0,
            queued: 1,
            error: None,
        };
        if self.ios.len() >= limit || key.0 >= limit || !self.ios.insert(key, io) {
            return Err(IoError::QueueFull { limit });
        }
        self.next_seq += 1;
        self.queue.push_back(Part {
            io: key,
            first: 0,
            sectors: request.sectors,
        });
        let at = now.saturating_add(self.limits.deadline);
        self.deadlines.push_back((at, key, seq));
        Ok(())
    }
}

impl Machine for FrontMachine {
    type Input = Input;
    type Action = Action;

    fn step(&mut self, now: Now, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Submit { io, request } => {
                if let Err(error) = self.submit(now, io, request) {
                    actions.push(Action::Refuse { io, error });
                }
            }
            Input::Push => self.push(actions),
            Input::Response {
                response,
                still_mapped,
            } => self.response(&response, still_mapped, actions),
            Input::Tick => self.tick(now, actions),
            Input::Connected(session) => self.connected(now, *session, actions),
            Input::Resized { sectors } => self.resized(sectors, actions),
            Input::BackGone => self.back_gone(actions),
            Input::RingBroken(error) => self.protocol_error(error.into(), actions),
            Input::GiveUp(error) => self.give_up(error, actions),
        }
    }
}

fn bytes(sectors: u32) -> usize {
    sectors as usize * SECTOR_SIZE
}
