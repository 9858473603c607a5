//! Performs the agent's actions on a ring and its pages, and feeds the ring's responses to it.
//! No xenstore, no sleeping.

use crate::agent::{Action, Agent, DeviceError, DiskInfo, IoKey, PageNo, ProtocolError, Session};
use crate::counters::Counters;
use crate::io::{Completion, Io, Refused};
use crate::live::Live;
use crate::observe::{FrontEvent, FrontEventKind, Observer, monotonic};
use libgnt::proto::blkif::{self, Response};
use libgnt::{GrantRef, Platform};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tells the observer, if there is one.
pub(crate) struct Tell(Option<Box<dyn Observer>>);

impl Tell {
    pub(crate) fn new(observer: Option<Box<dyn Observer>>) -> Self {
        Tell(observer)
    }

    fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// `what` is built only if somebody listens.
    pub(crate) fn tell(&mut self, what: impl FnOnce() -> FrontEventKind) {
        if let Some(observer) = &mut self.0 {
            observer.event(FrontEvent {
                at: monotonic(),
                what: what(),
            });
        }
    }
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tell({})",
            if self.wanted() { "observed" } else { "nobody" }
        )
    }
}

/// A caller's side of an accepted I/O.
#[derive(Debug)]
struct Pending {
    tag: u64,
    data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct DataPath {
    agent: Agent,
    /// By [`IoKey`].
    pending: Vec<Option<Pending>>,
    done: VecDeque<Completion>,
    actions: Vec<Action>,
    epoch: Instant,
    platform: Arc<dyn Platform>,
    verify: bool,
    /// Pages that have carried a request in this connection; kept only for the observer.
    used: HashSet<PageNo>,
    fatal: Option<ProtocolError>,
    pub(crate) tell: Tell,
    pub(crate) counters: Counters,
}

impl DataPath {
    pub(crate) fn new(agent: Agent, platform: Arc<dyn Platform>, verify: bool, tell: Tell) -> Self {
        DataPath {
            agent,
            pending: Vec::new(),
            done: VecDeque::new(),
            actions: Vec::new(),
            epoch: Instant::now(),
            platform,
            verify,
            used: HashSet::new(),
            fatal: None,
            tell,
            counters: Counters::default(),
        }
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn submit(&mut self, io: Io, tag: u64) -> Result<(), Refused> {
        let accepted = io
            .request()
            .and_then(|request| self.agent.submit(self.now(), request));
        match accepted {
            Ok(IoKey(key)) => {
                if self.pending.len() <= key {
                    self.pending.resize_with(key + 1, || None);
                }
                self.pending[key] = Some(Pending { tag, data: io.data });
                Ok(())
            }
            Err(error) => Err(Refused { error, io }),
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

    pub(crate) fn connected(&mut self, live: &mut Live, disk: DiskInfo, handle: u16) {
        self.used.clear();
        let session = Session {
            disk,
            ring_slots: live.ring.size(),
            handle,
            read_pages: live.pool.read_grants(),
            write_pages: live.pool.write_grants(),
        };
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.connected(self.now(), session, &mut actions);
        self.perform(actions, Some(live));
    }

    pub(crate) fn resized(&mut self, sectors: u64) {
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.resized(sectors, &mut actions);
        self.perform(actions, None);
    }

    pub(crate) fn backend_gone(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.backend_gone(&mut actions);
        self.perform(actions, None);
    }

    pub(crate) fn give_up(&mut self, error: DeviceError) {
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.give_up(error, &mut actions);
        self.perform(actions, None);
    }

    /// Ends what is overdue. Returns when to look again.
    pub(crate) fn tick(&mut self) -> Option<Duration> {
        let now = self.now();
        let next = self.agent.next_deadline()?;
        if next > now {
            return Some(next - now);
        }
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.tick(now, &mut actions);
        self.perform(actions, None);
        Some(Duration::ZERO)
    }

    /// Puts what fits on the ring, and notifies the back end if it must be.
    pub(crate) fn push(&mut self, live: &mut Live) {
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.pump(&mut actions);
        if actions.is_empty() {
            self.actions = actions;
            return;
        }
        self.perform(actions, Some(&mut *live));
        if live.ring.publish() {
            self.counters.notifies += 1;
            // A lost event would only delay: the request's deadline bounds the wait.
            if let Err(error) = live.channel.notify() {
                tracing::warn!(%error, "notify");
            }
        }
    }

    /// Takes every response that is there. Returns how many.
    pub(crate) fn pop(&mut self, live: &mut Live) -> u32 {
        let mut count = 0;
        // No more than a ring's worth at a time, whatever the peer does (XSA-391).
        while count < live.ring.size() {
            match live.ring.pop() {
                Ok(Some(response)) => {
                    count += 1;
                    self.answer(live, &response);
                    if self.agent.failed().is_some() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let mut actions = std::mem::take(&mut self.actions);
                    self.agent.ring_broken(error, &mut actions);
                    self.perform(actions, Some(live));
                    count += 1;
                    break;
                }
            }
        }
        count
    }

    fn answer(&mut self, live: &mut Live, response: &Response) {
        self.counters.responses += 1;
        let still_mapped = match self.verify && !live.persistent {
            true => self.verify(&self.agent.grants_of(response.id)),
            false => None,
        };
        let mut actions = std::mem::take(&mut self.actions);
        self.agent.response(response, still_mapped, &mut actions);
        self.perform(actions, Some(live));
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

    fn perform(&mut self, mut actions: Vec<Action>, mut live: Option<&mut Live>) {
        for action in actions.drain(..) {
            match (action, live.as_deref_mut()) {
                (
                    Action::Push {
                        io,
                        request,
                        pages,
                        start,
                        len,
                    },
                    Some(live),
                ) => {
                    let Some(pending) = self.pending.get(io.0).and_then(Option::as_ref) else {
                        continue;
                    };
                    if request.operation == blkif::Operation::Write {
                        live.pool.copy_in(&pages, &pending.data[start..start + len]);
                    }
                    // The agent never has more in flight than the ring has slots.
                    if let Err(error) = live.ring.push(&request) {
                        tracing::error!(%error, "request lost");
                    }
                    self.counters.requests += 1;
                    if self.tell.wanted() {
                        let tag = pending.tag;
                        self.tell_pushed(live, &request, &pages, tag);
                    }
                }
                (
                    Action::CopyOut {
                        io,
                        pages,
                        start,
                        len,
                    },
                    Some(live),
                ) => {
                    if let Some(pending) = self.pending.get_mut(io.0).and_then(Option::as_mut) {
                        live.pool
                            .copy_out(&pages, &mut pending.data[start..start + len]);
                    }
                }
                (Action::Released { id, pages }, Some(live)) => self.tell.tell(|| {
                    let grants = pages.iter().map(|&page| live.pool.grant(page)).collect();
                    FrontEventKind::Answered { id, grants }
                }),
                (Action::Complete { io, result }, _) => {
                    let Some(pending) = self.pending.get_mut(io.0).and_then(Option::take) else {
                        continue;
                    };
                    let tag = pending.tag;
                    self.tell.tell(|| {
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
                // Without a connection the agent pushes, copies and releases nothing.
                (Action::Push { .. } | Action::CopyOut { .. } | Action::Released { .. }, None) => {}
            }
        }
        self.actions = actions;
    }

    fn tell_pushed(&mut self, live: &Live, request: &blkif::Request, pages: &[PageNo], tag: u64) {
        let id = request.id;
        for &page in pages {
            if !self.used.insert(page) {
                let grant = live.pool.grant(page);
                self.tell.tell(|| FrontEventKind::PageReused { grant, id });
            }
        }
        let operation = request.operation.number();
        let sector = request.sector;
        self.tell.tell(|| FrontEventKind::Submitted {
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
