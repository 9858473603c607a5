//! What a connection knows, behind its lock.

use super::events::{EventQueue, ROUTED, WatchEvent};
use super::lead::Lead;
use super::protocol::{Action, Answer, IN_FLIGHT_MAX, Input, Protocol};
use crate::error::{Error, Result};
use crate::transport::Outbox;
use crate::wire::Kind;
use libgnt::machine::{Machine, Now};
use std::collections::{HashMap, VecDeque};
use std::thread::Thread;
use std::time::Duration;

/// Unsent bytes from which on a request is not taken: it waits, or is refused.
const UNSENT_MAX_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct State {
    pub(super) protocol: Protocol,
    pub(super) outbox: Outbox,
    pub(super) events: EventQueue,
    /// Queues of the watches that have one of their own, by token.
    pub(super) routes: HashMap<String, EventQueue>,
    /// Answers that nobody has taken yet.
    pub(super) answers: HashMap<u32, Answer>,
    /// What must be said at an end, and found no room: no more than was begun before.
    pub(super) farewells: VecDeque<Farewell>,
    pub(super) lead: Lead<Waiter>,
    pub(super) deadline: Duration,
}

/// Kind, transaction and payload of a request that nobody waits for.
pub(super) type Farewell = (Kind, u32, Vec<u8>);

/// A thread that waits.
#[derive(Debug)]
pub(super) struct Waiter(pub(super) Thread);

impl PartialEq for Waiter {
    fn eq(&self, other: &Waiter) -> bool {
        self.0.id() == other.0.id()
    }
}

impl State {
    pub(super) fn new(deadline: Duration) -> State {
        State {
            protocol: Protocol::default(),
            outbox: Outbox::default(),
            events: EventQueue::default(),
            routes: HashMap::new(),
            answers: HashMap::new(),
            farewells: VecDeque::new(),
            lead: Lead::new(),
            deadline,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.protocol.over().is_some()
            || (self.protocol.in_flight() + self.answers.len() < IN_FLIGHT_MAX
                && self.outbox.bytes() < UNSENT_MAX_BYTES)
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.protocol.over() {
            Some(cause) => Err(Error::Disconnected {
                cause: cause.to_owned(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        self.feed(Input::Ended(match error {
            Error::Disconnected { cause } => cause.clone(),
            other => other.to_string(),
        }));
    }

    pub(super) fn pop(&mut self, of: Option<&str>) -> Result<Option<WatchEvent>> {
        match of {
            None => self.events.pop(),
            Some(token) => self.routes.get_mut(token).map_or(Ok(None), EventQueue::pop),
        }
    }

    /// One step of the protocol, and what it asks for.
    pub(super) fn feed(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.protocol.step(Now::ZERO, input, &mut actions);
        for action in actions {
            match action {
                Action::Send { id, message } => self.outbox.push(id, message),
                Action::Answer { id, answer } => {
                    self.answers.insert(id, answer);
                    self.wake(Some(id));
                }
                Action::Event(event) => {
                    self.sort(event);
                    self.wake(None);
                }
                Action::End(cause) => {
                    tracing::debug!(cause, "xenstore connection over");
                    self.outbox.clear();
                    self.wake(None);
                }
            }
        }
    }

    fn sort(&mut self, event: WatchEvent) {
        match self.routes.get_mut(&event.token) {
            Some(queue) => queue.push(event),
            // Its watch is gone, and nobody would ever read it.
            None if event.token.starts_with(ROUTED) => {}
            None => self.events.push(event),
        }
    }

    /// Wakes who waits for this answer, or everybody who does not wait for an answer.
    fn wake(&mut self, id: Option<u32>) {
        self.lead.came(id).for_each(|waiter| waiter.0.unpark());
    }
}
