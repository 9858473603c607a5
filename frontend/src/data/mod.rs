//! Performs the machine's actions on a ring and its pages, and feeds the ring's responses to it.
//! No xenstore, no sleeping.

use crate::counters::Counters;
use crate::io::{Completion, Io, Refused};
use crate::link::Link;
use crate::machine::{
    Action, DeviceError, DiskInfo, FrontMachine, Input, IoKey, PageNo, ProtocolError, Session,
};
use crate::observe::{FrontEventKind, Tell};
use libgnt::machine::{Machine, Now, monotonic};
use libgnt::proto::blkif::{self, Response};
use libgnt::{GrantRef, Platform};
use slab::Slab;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A caller's side of an accepted I/O.
#[derive(Debug)]
struct Pending {
    tag: u64,
    data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct DataPath {
    machine: FrontMachine,
    /// The clock as it was read last: at a submission, and when deadlines are looked at. What moves
    /// data needs no other time.
    now: Now,
    /// By [`IoKey`].
    pending: Slab<Pending>,
    done: VecDeque<Completion>,
    actions: Vec<Action>,
    platform: Arc<dyn Platform>,
    verify: bool,
    /// Pages that have carried a request in this connection; kept only for the observer.
    used: HashSet<PageNo>,
    fatal: Option<ProtocolError>,
    pub(crate) tell: Tell,
    pub(crate) counters: Counters,
}

impl DataPath {
    pub(crate) fn new(
        machine: FrontMachine,
        platform: Arc<dyn Platform>,
        verify: bool,
        tell: Tell,
    ) -> Self {
        DataPath {
            machine,
            now: monotonic(),
            pending: Slab::new(),
            done: VecDeque::new(),
            actions: Vec::new(),
            platform,
            verify,
            used: HashSet::new(),
            fatal: None,
            tell,
            counters: Counters::default(),
        }
    }

    pub(crate) fn machine(&self) -> &FrontMachine {
        &self.machine
    }

    /// One step of the machine, and what comes of it.
    fn step(&mut self, input: Input, link: Option<&mut Link>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.step(self.now, input, &mut actions);
        self.perform(&mut actions, link);
        self.actions = actions;
    }

    pub(crate) fn submit(&mut self, io: Io, tag: u64) -> Result<(), Refused> {
        let request = match io.request() {
            Ok(request) => request,
            Err(error) => return Err(Refused { error, io }),
        };
        let Io { op, offset, data } = io;
        self.now = monotonic();
        let key = self.pending.insert(Pending { tag, data });
        let io = IoKey(key);
        let input = Input::Submit { io, request };
        self.machine.step(self.now, input, &mut self.actions);
        // Nothing else comes of a submission.
        match self.actions.pop() {
            Some(Action::Refuse { error, .. }) => {
                let data = self.pending.remove(key).data;
                let io = Io { op, offset, data };
                Err(Refused { error, io })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    pub(crate) fn has_completions(&self) -> bool {
        !self.done.is_empty()
    }

    /// A protocol error that closed the device, once.
    pub(crate) fn take_fatal(&mut self) -> Option<ProtocolError> {
        self.fatal.take()
    }

    pub(crate) fn connected(&mut self, link: &mut Link, disk: DiskInfo, handle: u16) {
        self.used.clear();
        self.now = monotonic();
        let session = Session {
            disk,
            ring_slots: link.ring.size(),
            handle,
            read_pages: link.pool.read_grants(),
            write_pages: link.pool.write_grants(),
        };
        self.step(Input::Connected(Box::new(session)), Some(link));
    }

    pub(crate) fn resized(&mut self, sectors: u64) {
        self.step(Input::Resized { sectors }, None);
    }

    pub(crate) fn back_gone(&mut self) {
        self.step(Input::BackGone, None);
    }

    pub(crate) fn give_up(&mut self, error: DeviceError) {
        self.step(Input::GiveUp(error), None);
    }

    /// Ends what is overdue. Returns when to look again.
    pub(crate) fn tick(&mut self) -> Option<Duration> {
        let next = self.machine.next_deadline()?;
        self.now = monotonic();
        if next > self.now {
            return Some(next - self.now);
        }
        self.step(Input::Tick, None);
        Some(Duration::ZERO)
    }

    /// Puts what fits on the ring, and notifies the back end if it must be.
    pub(crate) fn push(&mut self, link: &mut Link) {
        let pushed_before = self.counters.requests;
        self.step(Input::Push, Some(&mut *link));
        if self.counters.requests > pushed_before && link.ring.publish() {
            self.counters.notifies += 1;
            // A lost event would only delay: the request's deadline bounds the wait.
            if let Err(error) = link.channel.notify() {
                tracing::warn!(%error, "notify");
            }
        }
    }

    /// Takes every response that is there. Returns how many.
    pub(crate) fn pop(&mut self, link: &mut Link) -> u32 {
        let mut count = 0;
        // No more than a ring's worth at a time, whatever the peer does (XSA-391).
        while count < link.ring.size() {
            match link.ring.pop() {
                Ok(Some(response)) => {
                    count += 1;
                    self.answer(link, response);
                    if self.machine.failed().is_some() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.step(Input::RingBroken(error), Some(link));
                    count += 1;
                    break;
                }
            }
        }
        count
    }

    fn answer(&mut self, link: &mut Link, response: Response) {
        self.counters.responses += 1;
        let still_mapped = match self.verify && !link.persistent {
            true => self.verify(&self.machine.grants_of(response.id)),
            false => None,
        };
        let input = Input::Response {
            response,
            still_mapped,
        };
        self.step(input, Some(link));
    }

    /// The first of these grants that the hypervisor shows as still in use.
    fn verify(&mut self, grants: &[GrantRef]) -> Option<GrantRef> {
        if grants.is_empty() {
            return None;
        }
        self.counters.verifications += 1;
        match self.platform.grants_in_use(grants) {
            Ok(in_use) => in_use.and_then(|grants| grants.first().copied()),
            Err(error) => {
                tracing::warn!(%error, "cannot see whether grants are in use");
                None
            }
        }
    }

    fn perform(&mut self, actions: &mut Vec<Action>, mut link: Option<&mut Link>) {
        for action in actions.drain(..) {
            match (action, link.as_deref_mut()) {
                (
                    Action::Push {
                        io,
                        request,
                        pages,
                        start,
                        len,
                    },
                    Some(link),
                ) => {
                    let Some(pending) = self.pending.get(io.0) else {
                        continue;
                    };
                    if request.operation == blkif::Operation::Write {
                        link.pool.copy_in(&pages, &pending.data[start..start + len]);
                    }
                    // The machine never has more in flight than the ring has slots.
                    if let Err(error) = link.ring.push(&request) {
                        tracing::error!(%error, "request lost");
                    }
                    self.counters.requests += 1;
                    if self.tell.is_each_wanted() {
                        let tag = pending.tag;
                        self.tell_pushed(link, &request, &pages, tag);
                    }
                }
                (
                    Action::CopyOut {
                        io,
                        pages,
                        start,
                        len,
                    },
                    Some(link),
                ) => {
                    if let Some(pending) = self.pending.get_mut(io.0) {
                        link.pool
                            .copy_out(&pages, &mut pending.data[start..start + len]);
                    }
                }
                (Action::Released { id, pages }, Some(link)) => self.tell.tell_each(|| {
                    let grants = pages.iter().map(|&page| link.pool.grant(page)).collect();
                    FrontEventKind::Answered { id, grants }
                }),
                (Action::Complete { io, result }, _) => {
                    let Some(pending) = self.pending.try_remove(io.0) else {
                        continue;
                    };
                    let tag = pending.tag;
                    self.tell.tell_each(|| {
                        let error = result.as_ref().err().map(ToString::to_string);
                        FrontEventKind::Completed { tag, error }
                    });
                    self.done.push_back(Completion {
                        tag,
                        result,
                        data: pending.data,
                    });
                }
                (Action::Fatal(error), _) => self.fatal = Some(error),
                // Without a connection the machine pushes, copies and releases nothing; and it
                // refuses only in `submit`.
                (Action::Push { .. } | Action::CopyOut { .. } | Action::Released { .. }, None)
                | (Action::Refuse { .. }, _) => {}
            }
        }
    }

    fn tell_pushed(&mut self, link: &Link, request: &blkif::Request, pages: &[PageNo], tag: u64) {
        let id = request.id;
        for &page in pages {
            if !self.used.insert(page) {
                let grant = link.pool.grant(page);
                self.tell
                    .tell_each(|| FrontEventKind::PageReused { grant, id });
            }
        }
        let operation = request.operation.number();
        let sector = request.sector;
        self.tell.tell_each(|| FrontEventKind::Submitted {
            id,
            tag,
            operation,
            sector,
            grants: request.segments.iter().map(blkif::Segment::grant).collect(),
        });
    }
}

#[cfg(test)]
mod tests;
