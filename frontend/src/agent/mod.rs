//! The data path's protocol as a state machine without I/O: what callers ask, what the back end
//! answers and what becomes of it go in; requests to push, bytes to copy and results come out.
//! It has no clock of its own: `now` is the time since any fixed moment.
//!
//! Promises, each with a broken variant in [`Sabotage`] that a test catches:
//! - every I/O completes exactly once, whatever the back end does or dies of;
//! - a page carries one request at a time, and is free only after that request's response;
//! - a response is believed only if its id, generation and operation are those of a request in
//!   flight (XSA-405);
//! - what was not acknowledged when the back end died goes out again, oldest first;
//! - a flush goes out when every write submitted before it is answered;
//! - a disk that becomes smaller harms no request on the ring, and gets none past its end.

mod io;
mod pages;
mod sabotage;
mod table;
#[cfg(test)]
mod tests;

pub use io::{DeviceError, DiskInfo, IoError, IoOp, IoRequest, ProtocolError, WaitsFor};
pub use pages::{PageList, PageNo};
#[doc(hidden)]
pub use sabotage::Sabotage;

use io::outcome;
use libgnt::GrantRef;
use libgnt::proto::blkif::{self, SECTOR_SIZE, SECTORS_PER_PAGE, Segment, Segments};
use libgnt::ring::RingError;
use pages::Pages;
use slab::Slab;
use std::collections::VecDeque;
use std::time::Duration;
use table::{InFlight, Table};

/// The caller's handle on an I/O, until its [`Action::Complete`]; then it may name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoKey(pub usize);

/// The machine's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// I/Os accepted and not completed.
    pub queue: usize,
    /// How long an I/O may take while a back end is connected.
    pub deadline: Duration,
}

/// A connection to a back end: what was negotiated, and fresh pages.
#[derive(Clone, Debug)]
pub struct Session {
    /// The disk.
    pub disk: DiskInfo,
    /// Slots of the ring.
    pub ring_slots: u32,
    /// `virtual-device`, which requests echo.
    pub handle: u16,
    /// Granted writable: the back end fills them.
    pub read_pages: Vec<GrantRef>,
    /// Granted read-only; `None` where persistent grants were asked for: every page serves both
    /// ways.
    pub write_pages: Option<Vec<GrantRef>>,
}

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// For a write, copy `len` bytes of the I/O's data from byte `start` on into the pages, each
    /// full but the last; then push the request.
    Push {
        /// Whose.
        io: IoKey,
        /// What.
        request: blkif::Request,
        /// Its pages, in the order of the segments.
        pages: PageList,
        /// Byte of the I/O's data.
        start: usize,
        /// Bytes.
        len: usize,
    },
    /// Copy `len` bytes out of the pages to the I/O's data from byte `start` on. The pages may be
    /// used again by a later action.
    CopyOut {
        /// Whose.
        io: IoKey,
        /// From.
        pages: PageList,
        /// Byte of the I/O's data.
        start: usize,
        /// Bytes.
        len: usize,
    },
    /// The back end is done with this request: its pages are free.
    Released {
        /// The request's id.
        id: u64,
        /// Its pages.
        pages: PageList,
    },
    /// The I/O is over; the key is free.
    Complete {
        /// Which.
        io: IoKey,
        /// How.
        result: Result<(), IoError>,
    },
    /// Close the device, and say why. Everything was completed before this.
    Fatal(ProtocolError),
}

#[derive(Debug)]
struct Io {
    request: IoRequest,
    /// Order of submission.
    seq: u64,
    since: Duration,
    /// Requests on the ring.
    in_flight: u32,
    /// Parts in the queue.
    queued: u32,
    error: Option<IoError>,
}

/// A part of an I/O that is not on the ring: sectors, counted from the I/O's first.
#[derive(Clone, Copy, Debug)]
struct Part {
    io: IoKey,
    first: u32,
    sectors: u32,
}

#[derive(Debug)]
enum Link {
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
pub struct Agent {
    limits: Limits,
    link: Link,
    ios: Slab<Io>,
    queue: VecDeque<Part>,
    table: Table,
    /// Oldest first; an entry whose I/O is over is skipped.
    deadlines: VecDeque<(Duration, IoKey, u64)>,
    next_seq: u64,
    sabotage: Sabotage,
}

impl Agent {
    /// A machine without a back end: it queues until [`Agent::connected`].
    pub fn new(limits: Limits) -> Self {
        Self::sabotaged(limits, Sabotage::None)
    }

    /// A machine that breaks one promise, for the tests that must notice.
    #[doc(hidden)]
    pub fn sabotaged(limits: Limits, sabotage: Sabotage) -> Self {
        Agent {
            limits,
            link: Link::Down,
            ios: Slab::new(),
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

    /// True if the device takes no more I/O.
    pub fn failed(&self) -> Option<&DeviceError> {
        match &self.link {
            Link::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Accepts an I/O. Nothing happens before [`Agent::pump`].
    ///
    /// # Errors
    /// [`IoError::QueueFull`], [`IoError::Device`], and those of [`IoRequest::check`].
    pub fn submit(&mut self, now: Duration, request: IoRequest) -> Result<IoKey, IoError> {
        match &self.link {
            Link::Failed(error) => return Err(IoError::Device(error.clone())),
            Link::Up(up) => request.check(&up.disk)?,
            // Checked when a back end says how large the disk is.
            Link::Down => {}
        }
        if self.ios.len() >= self.limits.queue {
            return Err(IoError::QueueFull {
                limit: self.limits.queue,
            });
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let io = Io {
            request,
            seq,
            since: now,
            in_flight: 0,
            queued: 1,
            error: None,
        };
        let key = IoKey(self.ios.insert(io));
        self.queue.push_back(Part {
            io: key,
            first: 0,
            sectors: request.sectors,
        });
        self.deadlines
            .push_back((now.saturating_add(self.limits.deadline), key, seq));
        Ok(key)
    }

    /// A back end is connected, on a fresh ring and fresh pages. Deadlines start anew.
    pub fn connected(&mut self, now: Duration, session: Session, out: &mut Vec<Action>) {
        if matches!(self.link, Link::Failed(_)) {
            return;
        }
        let disk = session.disk;
        self.table.reset(session.ring_slots);
        self.link = Link::Up(Box::new(Up {
            disk,
            handle: session.handle,
            pages: Pages::new(session.read_pages, session.write_pages),
        }));
        // The disk may have shrunk, or become read-only, meanwhile.
        let refused: Vec<(IoKey, IoError)> = (self.ios.iter())
            .filter_map(|(key, io)| Some((IoKey(key), io.request.check(&disk).err()?)))
            .collect();
        for (key, error) in refused {
            self.end_early(key, error, out);
        }
        self.deadlines.clear();
        let mut pending: Vec<_> = self.ios.iter_mut().collect();
        pending.sort_unstable_by_key(|(_, io)| io.seq);
        for (key, io) in pending {
            io.since = now;
            let at = now.saturating_add(self.limits.deadline);
            self.deadlines.push_back((at, IoKey(key), io.seq));
        }
    }

    /// The back end says that the disk has another size now. Requests on the ring are for it to
    /// answer; what is not there yet, and reaches past the new end, is refused.
    pub fn resized(&mut self, sectors: u64, out: &mut Vec<Action>) {
        let Link::Up(up) = &mut self.link else { return };
        up.disk.sectors = sectors;
        let disk = up.disk;
        let refused: Vec<(IoKey, IoError)> = (self.ios.iter())
            .filter(|(_, io)| io.queued > 0 || self.sabotage == Sabotage::RefuseOnTheRing)
            .filter_map(|(key, io)| Some((IoKey(key), io.request.check(&disk).err()?)))
            .collect();
        for (key, error) in refused {
            self.refuse_rest(key, error);
            self.settle(key, out);
        }
    }

    /// An I/O has failed: nothing more of it goes on the ring.
    fn refuse_rest(&mut self, key: IoKey, error: IoError) {
        let Some(io) = self.ios.get_mut(key.0) else {
            return;
        };
        io.error.get_or_insert(error);
        if io.queued > 0 {
            io.queued = 0;
            self.queue.retain(|part| part.io != key);
        }
    }

    /// The back end died or closed. What it had not answered is kept for the next one; pages and
    /// ring of this connection must not be used again.
    pub fn backend_gone(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        self.link = Link::Down;
        let mut parts: Vec<(u64, Part)> = Vec::new();
        for flight in self.table.drain() {
            let Some(key) = flight.io else { continue };
            let Some(io) = self.ios.get_mut(key.0) else {
                continue;
            };
            io.in_flight -= 1;
            match self.sabotage {
                Sabotage::ForgetOnDeath => continue,
                Sabotage::AcknowledgeOnDeath => {
                    self.settle(key, out);
                    continue;
                }
                _ => {}
            }
            if io.error.is_some() {
                // It has failed already; doing the rest again helps nobody.
                self.settle(key, out);
                continue;
            }
            io.queued += 1;
            parts.push((
                io.seq,
                Part {
                    io: key,
                    first: flight.first,
                    sectors: flight.sectors,
                },
            ));
        }
        for part in self.queue.drain(..) {
            parts.extend(self.ios.get(part.io.0).map(|io| (io.seq, part)));
        }
        parts.sort_unstable_by_key(|(seq, part)| (*seq, part.first));
        if self.sabotage == Sabotage::ResendBackwards {
            parts.reverse();
        }
        self.queue.extend(parts.into_iter().map(|(_, part)| part));
    }

    /// No more waiting for a back end, or the caller closes: everything pending ends with `error`.
    pub fn give_up(&mut self, error: DeviceError, out: &mut Vec<Action>) {
        if matches!(self.link, Link::Failed(_)) {
            return;
        }
        self.link = Link::Failed(error.clone());
        self.queue.clear();
        self.deadlines.clear();
        // Their pages go back to no pool: the back end may still map them.
        drop(self.table.drain());
        let mut pending: Vec<_> = self
            .ios
            .iter()
            .map(|(key, io)| (io.seq, IoKey(key)))
            .collect();
        pending.sort_unstable();
        self.ios.clear();
        let complete = |(_, io)| {
            let result = Err(IoError::Device(error.clone()));
            Action::Complete { io, result }
        };
        out.extend(pending.into_iter().map(complete));
    }

    /// The ring itself is broken.
    pub fn ring_broken(&mut self, error: RingError, out: &mut Vec<Action>) {
        self.protocol_error(error.into(), out);
    }

    fn protocol_error(&mut self, error: ProtocolError, out: &mut Vec<Action>) {
        if matches!(self.link, Link::Up(_)) {
            self.give_up(error.into(), out);
            out.push(Action::Fatal(error));
        }
    }

    /// The pages that a response claims to give back, as grants, for whoever can ask whether they
    /// are really unmapped. Nothing for an id that is not in flight.
    pub fn grants_of(&self, id: u64) -> Vec<GrantRef> {
        match (&self.link, self.table.get(id)) {
            (Link::Up(up), Some(flight)) => {
                flight.pages.iter().map(|&p| up.pages.grant(p)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A response. `still_mapped` names one of the request's grants that the back end is seen to
    /// map still, where that can be seen and grants are not persistent.
    pub fn response(
        &mut self,
        response: &blkif::Response,
        still_mapped: Option<GrantRef>,
        out: &mut Vec<Action>,
    ) {
        let Link::Up(up) = &mut self.link else { return };
        let flight = match self.table.answer(response) {
            Ok(flight) => flight,
            Err(error) => return self.protocol_error(error, out),
        };
        if let Some(grant) = still_mapped
            && self.sabotage != Sabotage::IgnoreStillMapped
        {
            return self.protocol_error(
                ProtocolError::StillMapped {
                    id: response.id,
                    grant,
                },
                out,
            );
        }
        if self.sabotage != Sabotage::FreeAtPush {
            up.pages.give(&flight.pages);
        }
        let io = flight.io.and_then(|key| self.ios.get_mut(key.0));
        if let (Some(key), Some(io)) = (flight.io, io) {
            io.in_flight -= 1;
            match outcome(&io.request, response.status) {
                Ok(()) if flight.op == IoOp::Read && io.error.is_none() => {
                    out.push(Action::CopyOut {
                        io: key,
                        pages: flight.pages,
                        start: bytes(flight.first),
                        len: bytes(flight.sectors),
                    });
                }
                Ok(()) => {}
                Err(error) => {
                    if error == IoError::FlushNotSupported {
                        up.disk.flush = false;
                    }
                    self.refuse_rest(key, error);
                }
            }
        }
        out.push(Action::Released {
            id: response.id,
            pages: flight.pages,
        });
        if let Some(key) = flight.io {
            self.settle(key, out);
        }
    }

    /// Completes an I/O that nothing is left of.
    fn settle(&mut self, key: IoKey, out: &mut Vec<Action>) {
        let Some(io) = self.ios.get(key.0) else {
            return;
        };
        let done = io.in_flight == 0 && io.queued == 0;
        if !done && self.sabotage == Sabotage::CompleteEarly {
            self.queue.retain(|part| part.io != key);
            self.table.orphan(key);
        } else if !done {
            return;
        }
        let io = self.ios.remove(key.0);
        let result = io.error.map_or(Ok(()), Err);
        out.push(Action::Complete { io: key, result });
    }

    /// Completes an I/O whatever is left of it. Its pages stay with the back end until it answers.
    fn end_early(&mut self, key: IoKey, error: IoError, out: &mut Vec<Action>) {
        if self.ios.try_remove(key.0).is_some() {
            self.queue.retain(|part| part.io != key);
            self.table.orphan(key);
            out.push(Action::Complete {
                io: key,
                result: Err(error),
            });
        }
    }

    /// Pushes what fits on the ring, oldest first. Reads and writes pass each other where one of
    /// them lacks pages; nothing passes a flush.
    pub fn pump(&mut self, out: &mut Vec<Action>) {
        let Link::Up(up) = &mut self.link else { return };
        // Reads, writes: no more pages for this kind.
        let mut starved = [false; 2];
        let mut at = 0;
        while at < self.queue.len() && !self.table.is_full() && starved != [true; 2] {
            let part = self.queue[at];
            let Some(io) = self.ios.get_mut(part.io.0) else {
                self.queue.remove(at);
                continue;
            };
            let op = io.request.op;
            let (pages, sectors) = if op == IoOp::Flush {
                let writes_before = self.table.writes() > 0 || starved[1];
                if writes_before && self.sabotage != Sabotage::FlushOvertakes {
                    return;
                }
                (PageList::default(), 0)
            } else {
                let write = op == IoOp::Write;
                let kind = usize::from(write);
                if starved[kind] {
                    at += 1;
                    continue;
                }
                let most = up.pages.most(write) as u32 * u32::from(SECTORS_PER_PAGE);
                let sectors = part.sectors.min(most);
                let wanted = sectors.div_ceil(u32::from(SECTORS_PER_PAGE)) as usize;
                let Some(pages) = up.pages.take(write, wanted).filter(|_| sectors > 0) else {
                    starved[kind] = true;
                    at += 1;
                    continue;
                };
                (pages, sectors)
            };
            let Some(id) = self.table.next_id() else {
                return;
            };
            let mut left = sectors;
            let segments: Segments = (pages.iter())
                .map(|&page| {
                    let here = left.min(u32::from(SECTORS_PER_PAGE));
                    left -= here;
                    // `here` is 1 to 8: `wanted` counted only pages that get a sector.
                    let last_sector = (here.max(1) - 1) as u8;
                    Segment {
                        gref: up.pages.grant(page).0,
                        first_sector: 0,
                        last_sector,
                    }
                })
                .collect();
            let request = blkif::Request {
                operation: op.operation(),
                handle: up.handle,
                id,
                sector: io.request.sector + u64::from(part.first),
                segments,
            };
            let first = part.first;
            self.table.insert(InFlight {
                id,
                io: Some(part.io),
                op,
                pushed: 0,
                first,
                sectors,
                pages,
            });
            if self.sabotage == Sabotage::FreeAtPush {
                up.pages.give(&pages);
            }
            io.in_flight += 1;
            let (start, len) = (bytes(first), bytes(sectors));
            out.push(Action::Push {
                io: part.io,
                request,
                pages,
                start,
                len,
            });
            if sectors < part.sectors {
                let rest = &mut self.queue[at];
                rest.first += sectors;
                rest.sectors -= sectors;
            } else {
                io.queued -= 1;
                self.queue.remove(at);
            }
        }
    }

    /// When [`Agent::tick`] has something to do, at the earliest. None while no back end is there:
    /// that wait has its own bound, the caller's.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        if !matches!(self.link, Link::Up(_)) {
            return None;
        }
        while let Some(&(at, key, seq)) = self.deadlines.front() {
            if self.ios.get(key.0).is_some_and(|io| io.seq == seq) {
                return Some(at);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Ends the I/Os whose deadline has passed, saying what they waited for.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, key, _)) = self.deadlines.pop_front() else {
                return;
            };
            let Some(io) = self.ios.get(key.0) else {
                continue;
            };
            let error = IoError::TimedOut {
                io: io.request,
                waited: now.saturating_sub(io.since),
                waits_for: self.waits_for(key),
            };
            self.end_early(key, error, out);
        }
    }

    /// What an I/O waits for.
    pub fn waits_for(&self, key: IoKey) -> WaitsFor {
        match self
            .table
            .iter()
            .filter(|f| f.io == Some(key))
            .min_by_key(|f| f.first)
        {
            Some(flight) => WaitsFor::Response {
                id: flight.id,
                grants: self.grants_of(flight.id),
            },
            None => WaitsFor::Room {
                in_flight: self.table.in_flight(),
                oldest: self.table.oldest(),
            },
        }
    }
}

fn bytes(sectors: u32) -> usize {
    sectors as usize * SECTOR_SIZE
}
