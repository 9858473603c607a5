//! A ring page with an event channel (`struct xenstore_domain_interface`, `io/xs_wire.h`): how a domain
//! reaches xenstore where no kernel does it for it, a stub domain say.
//!
//! The page is the daemon's as much as ours: its indices are checked before they bound a copy, ours are
//! kept here and never read back, and each byte is copied once.

use super::outbox::Outbox;
use super::outcome::{RECEIVE_MAX_BYTES, Received, Sent};
use crate::error::{Error, Result};
use libgnt::event::{Channel, Events};
use libgnt::{PAGE_SIZE, SharedPages};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// `XENSTORE_RING_SIZE`, bytes, of each direction.
const RING_BYTES: u32 = 1024;
/// `req`, then `rsp`, then the words.
const REQ: usize = 0;
const RSP: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
const SERVER_FEATURES: usize = 2064;
const CONNECTION: usize = 2068;
const ERROR: usize = 2072;
/// `XENSTORE_SERVER_FEATURE_RECONNECTION`.
const FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_SERVER_FEATURE_ERROR`.
const FEATURE_ERROR: u32 = 2;
/// `XENSTORE_CONNECTED` and `XENSTORE_RECONNECT`.
const CONNECTED: u32 = 0;
const RECONNECT: u32 = 1;

/// What a ring is made of. Whoever keeps a clone can begin anew on it after its connection has ended.
#[derive(Clone, Debug)]
pub struct RingParts {
    /// One page, which the daemon has mapped, too.
    pub page: Arc<SharedPages>,
    /// The file that the channel is bound on. It should have no other channel.
    pub events: Events,
    /// Its other end is the daemon's.
    pub channel: Arc<Channel>,
}

#[derive(Debug)]
pub(crate) struct Ring {
    parts: RingParts,
    ours: Mutex<Ours>,
}

/// Our indices: those in the page are for the daemon.
#[derive(Debug, Default)]
struct Ours {
    req_prod: u32,
    rsp_cons: u32,
}

impl Ring {
    /// Begins. A ring that was used before starts anew (`XENSTORE_RECONNECT`) if the daemon can do that
    /// (since Xen 4.8, never oxenstored's of 4.14); else what an earlier user left unread is dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no page. [`Error::Disconnected`]: the daemon does not answer in time, or its
    /// indices make no sense. [`Error::Platform`].
    pub(crate) fn start(parts: RingParts, deadline: Duration) -> Result<Ring> {
        if parts.page.len() < PAGE_SIZE {
            return Err(Error::Invalid("a xenstore ring needs a page".into()));
        }
        let ring = Ring {
            parts,
            ours: Mutex::default(),
        };
        let used = [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD]
            .iter()
            .any(|at| ring.word(*at) != 0);
        let connection = ring.word(CONNECTION);
        if connection != CONNECTED || (used && ring.can(FEATURE_RECONNECTION)) {
            ring.reconnect(Instant::now() + deadline)?;
        }
        let mut ours = ring.ours();
        ours.req_prod = ring.word(REQ_PROD);
        // Nothing of ours is in flight: whatever is there was for somebody else.
        ours.rsp_cons = ring.word(RSP_PROD);
        ring.store(RSP_CONS, ours.rsp_cons);
        ring.distance(ours.req_prod, ring.word(REQ_CONS))?;
        drop(ours);
        Ok(ring)
    }

    fn reconnect(&self, deadline: Instant) -> Result<()> {
        self.store(CONNECTION, RECONNECT);
        self.parts.channel.notify()?;
        while self.word(CONNECTION) != CONNECTED {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.parts.events.wait(left) {
                Ok(ports) => self.parts.events.unmask(&ports)?,
                Err(libgnt::Error::Timeout { .. }) => {
                    return Err(Error::Disconnected {
                        cause: "the server does not take the ring again".into(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        fence(Ordering::Acquire);
        Ok(())
    }

    pub(super) fn send(&self, outbox: &mut Outbox) -> Result<Sent> {
        let mut ours = self.ours();
        let mut any = false;
        let sent = loop {
            let Some((rest, _)) = outbox.first() else {
                break Sent::All;
            };
            let unread = self.distance(ours.req_prod, self.word(REQ_CONS))?;
            // The daemon has read what it says it has: its copies come before ours.
            fence(Ordering::Acquire);
            let bytes = rest.len().min((RING_BYTES - unread) as usize);
            if bytes == 0 {
                break Sent::NoRoom;
            }
            let at = ours.req_prod % RING_BYTES;
            let first = bytes.min((RING_BYTES - at) as usize);
            self.parts.page.write(REQ + at as usize, &rest[..first]);
            self.parts.page.write(REQ, &rest[first..bytes]);
            ours.req_prod = ours.req_prod.wrapping_add(bytes as u32);
            // Bytes before index, for the daemon's read barrier.
            fence(Ordering::Release);
            self.store(REQ_PROD, ours.req_prod);
            outbox.went(bytes);
            any = true;
        };
        if any {
            self.parts.channel.notify()?;
        }
        Ok(sent)
    }

    pub(super) fn receive(&self, into: &mut Vec<u8>) -> Result<Received> {
        // Read before the ring is looked at, and unmasked after: what comes between rings again.
        let mut ports = Vec::new();
        self.parts.events.read(&mut ports)?;
        let received = self.copy_out(into);
        if !ports.is_empty() {
            self.parts.events.unmask(&ports)?;
        }
        received
    }

    fn copy_out(&self, into: &mut Vec<u8>) -> Result<Received> {
        let mut ours = self.ours();
        let mut any = false;
        let received = loop {
            let unread = self.distance(self.word(RSP_PROD), ours.rsp_cons)?;
            // Partner: the daemon's write barrier between bytes and index.
            fence(Ordering::Acquire);
            if unread == 0 {
                break Received::All;
            }
            if into.len() >= RECEIVE_MAX_BYTES {
                break Received::Some;
            }
            let at = ours.rsp_cons % RING_BYTES;
            let bytes = unread.min(RING_BYTES - at) as usize;
            let start = into.len();
            into.resize(start + bytes, 0);
            self.parts.page.read(RSP + at as usize, &mut into[start..]);
            // Copied before it is free.
            fence(Ordering::Release);
            ours.rsp_cons = ours.rsp_cons.wrapping_add(bytes as u32);
            self.store(RSP_CONS, ours.rsp_cons);
            any = true;
        };
        if any {
            self.parts.channel.notify()?;
        }
        if self.can(FEATURE_ERROR) {
            self.check_error()?;
        }
        Ok(received)
    }

    /// Why the daemon has given the connection up, if it says so (Xen 4.17 and later).
    fn check_error(&self) -> Result<()> {
        let what = match self.word(ERROR) {
            0 => return Ok(()),
            1 => "communication problem",
            2 => "invalid ring index",
            3 => "protocol violation",
            _ => "an error of no known number",
        };
        Err(Error::Disconnected {
            cause: format!("the server gave the ring up: {what}"),
        })
    }

    /// How far `ahead` is before `behind`: no more than the ring holds.
    fn distance(&self, ahead: u32, behind: u32) -> Result<u32> {
        let distance = ahead.wrapping_sub(behind);
        if distance <= RING_BYTES {
            return Ok(distance);
        }
        Err(Error::Disconnected {
            cause: format!(
                "the ring's indices {ahead} and {behind} are {distance} bytes apart, and the ring has {RING_BYTES}"
            ),
        })
    }

    fn can(&self, feature: u32) -> bool {
        self.word(SERVER_FEATURES) & feature != 0
    }

    fn word(&self, at: usize) -> u32 {
        self.parts.page.load_u32(at, Ordering::Relaxed)
    }

    fn store(&self, at: usize, value: u32) {
        self.parts.page.store_u32(at, value, Ordering::Relaxed);
    }

    fn ours(&self) -> MutexGuard<'_, Ours> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.parts.events.as_fd()
    }
}
