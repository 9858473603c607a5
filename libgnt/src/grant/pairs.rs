//! The event channels that unmaps are told through.
//!
//! gntdev sends its release event to the other end of a port. To hear it ourselves, the other end
//! must be ours too: a *loopback pair* of ports of our own domain, one pair for each unmap in
//! progress. The listening end is the unbound one: binding raises the binder's port once (Xen,
//! `evtchn_bind_interdomain`), and nobody listens there.
//!
//! Why not one pair for many unmaps: an event does not say which of them is over, two events that
//! come together are one, and no call of gntdev tells how far an unmap is. The one thing that can be
//! looked at is whether *anybody* still names the notifying port ([`Pair::look`]), and that tells
//! only of all of them together: a request would wait for the pages of others.
//!
//! A domain has few ports (libxl gives a guest 1023), so a mapper holds those that its unmaps
//! use, a small reserve, and no more; and at least one pair from its opening to its end, so that
//! its unmaps go on, one after the other, however few ports the others leave.

use crate::error::{Error, Result};
use crate::event::{Channel, Events};
use crate::types::{DomId, EvtchnPort};
use rustix::io::Errno;
use std::collections::VecDeque;

/// Unmaps of one mapper in progress at once, unless [`Mapper::limit_unmapping`] says otherwise.
/// Each needs two event channels: a quarter of what libxl gives a guest (1023). Beyond it,
/// [`Refusal::TooMany`].
///
/// [`Mapper::limit_unmapping`]: super::Mapper::limit_unmapping
/// [`Refusal::TooMany`]: super::Refusal::TooMany
pub const MAX_UNMAPPING: usize = 128;

/// Pairs that are kept though nobody uses them: as many as a ring of one page has slots, so that
/// requests that come and go make no system calls for ports.
pub const IDLE_PAIRS: usize = 32;

/// Pairs that a mapper has for certain.
const PROMISED_PAIRS: usize = 1;

/// Two ports of our own domain, connected with each other.
#[derive(Debug)]
pub(super) struct Pair {
    listen: Channel,
    /// `None` once it was given up to look, and gntdev still kept it.
    notify: Option<Channel>,
}

impl Pair {
    fn bind(events: &Events) -> Result<Pair> {
        let listen = events.bind_unbound(DomId::SELF)?;
        let notify = events.bind_interdomain(DomId::SELF, listen.port())?;
        Ok(Pair {
            listen,
            notify: Some(notify),
        })
    }

    /// The port that tells.
    pub fn listens_at(&self) -> EvtchnPort {
        self.listen.port()
    }

    /// The port that gntdev must notify.
    pub fn notify_port(&self) -> Option<EvtchnPort> {
        self.notify.as_ref().map(Channel::port)
    }

    /// Is the unmap over that names this pair, whatever became of its event? gntdev keeps the port
    /// that it must notify until it has done so (`evtchn_get`, `evtchn_put`). Given up by us, the
    /// port closes when gntdev lets go, and the listening end can be bound again.
    ///
    /// # Errors
    /// It could not be looked.
    pub fn look(&mut self, events: &Events) -> Result<bool> {
        drop(self.notify.take());
        match events.bind_interdomain(DomId::SELF, self.listen.port()) {
            Ok(notify) => {
                self.notify = Some(notify);
                Ok(true)
            }
            Err(error) if error.errno() == Some(Errno::INVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn none_left(error: Error) -> Error {
    if error.errno() != Some(Errno::NOSPC) {
        return error;
    }
    Error::not_available(
        "a pair of event channels, to hear when unmaps are over,",
        error,
        "give the domain more (`max_event_channels` in its configuration), or end what uses them",
    )
}

/// The pairs of one mapper.
#[derive(Debug)]
pub(super) struct Pairs {
    idle: VecDeque<Pair>,
    /// Idle and in use.
    bound: usize,
    limit: usize,
    /// The domain had no more ports when we last asked.
    scarce: bool,
}

impl Pairs {
    /// With what every mapper has for certain.
    ///
    /// # Errors
    /// [`Error::NotAvailable`]: the domain has no two ports left.
    pub fn open(events: &Events) -> Result<Pairs> {
        let mut pairs = Pairs {
            idle: VecDeque::new(),
            bound: 0,
            limit: MAX_UNMAPPING,
            scarce: false,
        };
        while pairs.bound < PROMISED_PAIRS {
            pairs.idle.push_back(Pair::bind(events).map_err(none_left)?);
            pairs.bound += 1;
        }
        Ok(pairs)
    }

    pub fn limit(&mut self, pairs: usize) {
        self.limit = pairs.max(PROMISED_PAIRS);
    }

    /// A free pair.
    pub fn take(&mut self) -> Option<Pair> {
        self.idle.pop_front()
    }

    /// A new one; none at the limit, ours or the domain's. No event of a port that was closed may
    /// wait to be read: the new pair may have its number.
    ///
    /// # Errors
    /// What the device says.
    pub fn bind(&mut self, events: &Events) -> Result<Option<Pair>> {
        if self.bound >= self.limit {
            return Ok(None);
        }
        let bound = Pair::bind(events);
        self.scarce = matches!(&bound, Err(error) if error.errno() == Some(Errno::NOSPC));
        if self.scarce {
            return Ok(None);
        }
        let pair = bound?;
        self.bound += 1;
        Ok(Some(pair))
    }

    /// Its unmap is over, and its event was read. Closed if it is of no more use: true.
    pub fn put_back(&mut self, pair: Pair) -> bool {
        if pair.notify.is_none() {
            return self.close(pair);
        }
        self.idle.push_back(pair);
        false
    }

    /// Gives a pair's ports back to the domain.
    pub fn close(&mut self, pair: Pair) -> bool {
        drop(pair);
        self.bound -= 1;
        true
    }

    /// Closes what is idle beyond the reserve. True if there was something.
    pub fn trim(&mut self) -> bool {
        // Where ports are few, others need them more than we need a reserve.
        let keep = if self.scarce {
            PROMISED_PAIRS
        } else {
            IDLE_PAIRS
        };
        let mut any = false;
        while self.idle.len() > keep.min(self.limit)
            && let Some(pair) = self.idle.pop_front()
        {
            any = self.close(pair);
        }
        any
    }
}
