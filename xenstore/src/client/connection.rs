//! One connection: its stream, the protocol on it, and the threads that wait.
//!
//! Any number of threads may have requests in flight. One of those that wait, the leader, polls the
//! descriptor for all and hands over what comes; the others sleep until theirs is there, or until they
//! are to lead.

use super::about::{About, busy};
use super::events::{EventQueue, WatchEvent};
use super::lead::Next;
use super::protocol::{Answer, Input};
use super::state::{State, Waiter};
use crate::error::{Error, Result};
use crate::transport::{Received, Sent, Stream};
use crate::wire::Kind;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// Wakes the leader when somebody else has taken in what it waits for, or has something to send.
    bell: OwnedFd,
    state: Mutex<State>,
}

impl Connection {
    pub(super) fn new(stream: Stream, deadline: Duration) -> Result<Connection> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let operation = "eventfd";
        let bell = eventfd(0, flags).map_err(|errno| Error::Io { operation, errno })?;
        Ok(Connection {
            stream,
            bell,
            state: Mutex::new(State::new(deadline)),
        })
    }

    pub(super) fn set_deadline(&self, deadline: Duration) {
        self.state().deadline = deadline;
    }

    pub(super) fn deadline(&self) -> Duration {
        self.state().deadline
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, one answer.
    pub(super) fn call(
        &self,
        about: About<'_>,
        kind: Kind,
        tx_id: u32,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>> {
        self.check(about, &payload)?;
        let mut state = self.state();
        let waited = state.deadline;
        let deadline = Instant::now() + waited;
        if !state.has_room() {
            let (again, room) = self.wait_for(state, None, deadline, |state| {
                state.has_room().then_some(())
            });
            if room.is_none() {
                return Err(about.timeout(waited));
            }
            state = again;
        }
        let id = self.ask(&mut state, kind, tx_id, payload);
        let (mut state, answer) =
            self.wait_for(state, Some(id), deadline, |state| state.answers.remove(&id));
        match answer {
            Some(answer) => about.result(answer),
            None => {
                self.forget_in(&mut state, id);
                Err(about.timeout(waited))
            }
        }
    }

    /// Asks, and does not wait.
    pub(super) fn submit(
        &self,
        about: About<'_>,
        kind: Kind,
        tx_id: u32,
        payload: Vec<u8>,
    ) -> Result<u32> {
        self.check(about, &payload)?;
        let mut state = self.state();
        state.check()?;
        if !state.has_room() {
            // Perhaps there is by now.
            self.turn(&mut state);
            self.leave(&mut state);
            if !state.has_room() {
                return Err(busy());
            }
        }
        Ok(self.ask(&mut state, kind, tx_id, payload))
    }

    /// Asks for something that nobody waits for, as soon as there is room: for what must be said at an
    /// end, once for each thing that was begun.
    pub(super) fn tell(&self, kind: Kind, tx_id: u32, payload: Vec<u8>) {
        let mut state = self.state();
        state.farewells.push_back((kind, tx_id, payload));
        self.say_farewells(&mut state);
    }

    fn say_farewells(&self, state: &mut State) {
        while state.has_room()
            && let Some((kind, tx_id, payload)) = state.farewells.pop_front()
        {
            let id = self.ask(state, kind, tx_id, payload);
            self.forget_in(state, id);
        }
    }

    /// The answer to what was submitted, if it has come.
    pub(super) fn answer(&self, id: u32) -> Option<Answer> {
        let mut state = self.state();
        if !state.answers.contains_key(&id) {
            self.turn(&mut state);
            self.leave(&mut state);
        }
        state.answers.remove(&id)
    }

    pub(super) fn is_answered(&self, id: u32) -> bool {
        self.state().answers.contains_key(&id)
    }

    /// Waits for the answer to what was submitted.
    pub(super) fn wait_answer(&self, id: u32, deadline: Instant) -> Option<Answer> {
        let state = self.state();
        let (_state, answer) =
            self.wait_for(state, Some(id), deadline, |state| state.answers.remove(&id));
        answer
    }

    pub(super) fn forget(&self, id: u32) {
        self.forget_in(&mut self.state(), id);
    }

    fn forget_in(&self, state: &mut State, id: u32) {
        state.answers.remove(&id);
        state.feed(Input::Forget(id));
    }

    /// Sends and takes in what can be without waiting.
    pub(super) fn drive(&self) -> Result<()> {
        let mut state = self.state();
        self.turn(&mut state);
        self.leave(&mut state);
        state.check()
    }

    /// Is there something that waits for room in the stream?
    pub(super) fn wants_room(&self) -> bool {
        self.may_send(&self.state())
    }

    /// Is there something to send, and not an answer to wait for before that?
    fn may_send(&self, state: &State) -> bool {
        let on_the_way = state.protocol.in_flight() > state.outbox.len();
        let must_wait = on_the_way && self.stream.is_one_at_a_time();
        !state.outbox.is_empty() && !must_wait
    }

    /// May there be more to take in, although no descriptor says so?
    pub(super) fn has_more(&self) -> bool {
        self.state().lead.has_more()
    }

    /// The next watch event, without waiting: of the common queue, or of a watch's own.
    pub(super) fn next_event(&self, of: Option<&str>) -> Result<Option<WatchEvent>> {
        let mut state = self.state();
        if let Some(event) = state.pop(of)? {
            return Ok(Some(event));
        }
        state.check()?;
        loop {
            self.turn(&mut state);
            self.leave(&mut state);
            // What came before the end of the stream still counts.
            if let Some(event) = state.pop(of)? {
                return Ok(Some(event));
            }
            state.check()?;
            if !state.lead.has_more() {
                return Ok(None);
            }
        }
    }

    /// The next watch event; waits for it. `None`: the deadline has passed.
    pub(super) fn wait_event(
        &self,
        of: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<WatchEvent>> {
        if let Some(event) = self.next_event(of)? {
            return Ok(Some(event));
        }
        let (_state, event) =
            self.wait_for(self.state(), None, deadline, |state| match state.pop(of) {
                Ok(None) => state.check().err().map(Err),
                other => other.transpose(),
            });
        event.transpose()
    }

    /// From now on the events of this token have a queue of their own.
    pub(super) fn open_route(&self, token: &str) {
        let queue = EventQueue::default();
        self.state().routes.insert(token.to_owned(), queue);
    }

    /// And from now on they are dropped.
    pub(super) fn close_route(&self, token: &str) {
        self.state().routes.remove(token);
    }

    /// Are there events that have been taken in already?
    pub(super) fn has_events(&self, of: Option<&str>) -> bool {
        let state = self.state();
        match of {
            None => !state.events.is_empty(),
            Some(token) => state
                .routes
                .get(token)
                .is_some_and(|queue| !queue.is_empty()),
        }
    }

    fn check(&self, about: About<'_>, payload: &[u8]) -> Result<()> {
        let About { operation, path } = about;
        let limit = self.stream.payload_max();
        if payload.len() > limit {
            return Err(Error::Invalid(format!(
                "xenstore {operation} {path}: {} bytes do not fit in one message of {limit}; write less, or in several nodes",
                payload.len()
            )));
        }
        if path.contains('\0') {
            return Err(Error::Invalid(format!(
                "xenstore {operation} {path:?}: a NUL in the path"
            )));
        }
        Ok(())
    }

    fn ask(&self, state: &mut State, kind: Kind, tx_id: u32, payload: Vec<u8>) -> u32 {
        let id = state.protocol.next_id();
        state.feed(Input::Ask {
            id,
            kind,
            tx_id,
            payload,
        });
        self.send(state);
        self.ring_leader(state);
        id
    }

    /// Waits until `check` says something, or the deadline has passed.
    fn wait_for<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        id: Option<u32>,
        deadline: Instant,
        mut check: impl FnMut(&mut State) -> Option<T>,
    ) -> (MutexGuard<'a, State>, Option<T>) {
        loop {
            let found = check(&mut state);
            let now = Instant::now();
            if found.is_some() || now >= deadline {
                self.leave(&mut state);
                return (state, found);
            }
            let thread = std::thread::current();
            match state.lead.next(id, Waiter(thread.clone())) {
                Next::TakeIn => {
                    self.turn(&mut state);
                    state.lead.is_known();
                }
                Next::Poll => {
                    let to_send = self.may_send(&state);
                    drop(state);
                    let polled = self.stream.wait(to_send, &self.bell, deadline);
                    state = self.state();
                    state.lead.polled();
                    if let Err(error) = polled {
                        state.fail(&error);
                    }
                    self.turn(&mut state);
                    state.lead.is_known();
                }
                Next::Sleep => {
                    drop(state);
                    std::thread::park_timeout(deadline - now);
                    state = self.state();
                    state.lead.woken(&Waiter(thread));
                }
            }
        }
    }

    /// Who waits no more lets another one lead, and tells the leader what it does not know.
    fn leave(&self, state: &mut State) {
        self.ring_leader(state);
        if let Some(next) = state.lead.heir() {
            next.0.unpark();
        }
    }

    fn ring_leader(&self, state: &mut State) {
        let unsent = self.may_send(state);
        if state.lead.must_ring(unsent) {
            // Full means that it rings already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Sends and takes in what can be without waiting.
    fn turn(&self, state: &mut State) {
        if state.protocol.over().is_some() {
            return state.lead.read(false);
        }
        let mut bytes = Vec::new();
        let received = self.stream.receive(&mut bytes);
        if !bytes.is_empty() {
            state.feed(Input::Received(bytes));
        }
        match received {
            Ok(received) => state.lead.read(received == Received::Some),
            Err(error) => state.fail(&error),
        }
        self.send(state);
        self.say_farewells(state);
    }

    fn send(&self, state: &mut State) {
        while self.may_send(state) {
            match self.stream.send(&mut state.outbox) {
                Ok(Sent::All | Sent::NoRoom) => return,
                Ok(Sent::Refused(id, errno)) => state.feed(Input::Refused(id, errno)),
                Err(error) => {
                    // What it said before it closed is still to be read.
                    let mut bytes = Vec::new();
                    let _ = self.stream.receive(&mut bytes);
                    if !bytes.is_empty() {
                        state.feed(Input::Received(bytes));
                    }
                    state.fail(&error);
                }
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
