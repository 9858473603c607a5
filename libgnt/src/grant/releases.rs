//! Who tells that an unmap is over.
//!
//! gntdev sends an event when the hypervisor has really unmapped (`UNMAP_NOTIFY_SEND_EVENT`), to
//! the other end of a port. To hear it ourselves, the other end must be ours too: a *loopback*
//! pair of ports of our own domain, one pair for each unmap in progress, taken from a pool. The
//! listening end is the unbound one: binding raises the binder's port once (Xen,
//! `evtchn_bind_interdomain`), and nobody listens there.

use super::ledger::{EntryId, Ledger};
use super::unmap::{UnmapMachine, UnmapState};
use crate::error::{Error, Result};
use crate::event::{Channel, Events, wait_readable};
use crate::platform::Platform;
use crate::types::{DomId, EvtchnPort, ForeignGrant};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Unmaps in progress at once, for one mapper: each needs two event channels, and a domain has
/// 4096 with the two-level ABI. Beyond it, [`UnmapRefused::TooMany`](super::UnmapRefused).
pub const MAX_UNMAPPING: usize = 1024;

/// Names one unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnmapId(u64);

struct Pair {
    listen: Channel,
    notify: Channel,
    pending: Option<Pending>,
}

struct Pending {
    id: UnmapId,
    machine: Arc<Mutex<UnmapMachine>>,
    entry: EntryId,
}

#[derive(Default)]
struct Inner {
    pairs: Vec<Pair>,
    idle: Vec<usize>,
    by_port: BTreeMap<EvtchnPort, usize>,
    finished: VecDeque<UnmapId>,
    next_id: u64,
}

pub(super) struct Releases {
    events: Events,
    ledger: Ledger,
    inner: Mutex<Inner>,
}

/// A pair of ports that an unmap may use.
#[derive(Clone, Copy)]
pub(super) struct PairIndex(usize);

impl Releases {
    pub fn open(platform: &dyn Platform, ledger: Ledger) -> Result<Self> {
        Ok(Releases {
            events: Events::open(platform)?,
            ledger,
            inner: Mutex::default(),
        })
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free pair and the port that gntdev must notify, or `None` at the limit.
    pub fn take_pair(&self) -> Result<Option<(PairIndex, EvtchnPort)>> {
        let mut inner = self.lock();
        if inner.idle.is_empty() {
            if inner.pairs.len() == MAX_UNMAPPING {
                return Ok(None);
            }
            let listen = self.events.bind_unbound(DomId::SELF)?;
            let notify = self.events.bind_interdomain(DomId::SELF, listen.port())?;
            let index = inner.pairs.len();
            inner.by_port.insert(listen.port(), index);
            inner.pairs.push(Pair {
                listen,
                notify,
                pending: None,
            });
            inner.idle.push(index);
        }
        let index = inner.idle.pop();
        Ok(index.map(|index| (PairIndex(index), inner.pairs[index].notify.port())))
    }

    /// No event will come to this pair after all.
    pub fn forget(&self, pair: PairIndex) {
        let mut inner = self.lock();
        inner.pairs[pair.0].pending = None;
        inner.idle.push(pair.0);
    }

    /// From now on, the pair's event finishes this unmap.
    pub fn expect(
        &self,
        pair: PairIndex,
        machine: &Arc<Mutex<UnmapMachine>>,
        entry: EntryId,
    ) -> UnmapId {
        let mut inner = self.lock();
        let id = UnmapId(inner.next_id);
        inner.next_id += 1;
        let machine = Arc::clone(machine);
        inner.pairs[pair.0].pending = Some(Pending { id, machine, entry });
        id
    }

    /// An id for an unmap whose release nobody will tell.
    pub fn untold(&self) -> UnmapId {
        let mut inner = self.lock();
        inner.next_id += 1;
        UnmapId(inner.next_id - 1)
    }

    /// Takes in what has come.
    fn process(&self) -> Result<()> {
        let mut ports = Vec::new();
        while self.events.read(&mut ports)? > 0 {}
        let mut inner = self.lock();
        for port in &ports {
            let Some(&index) = inner.by_port.get(port) else {
                continue;
            };
            let Some(pending) = inner.pairs[index].pending.take() else {
                continue;
            };
            let state = {
                let mut machine = lock_machine(&pending.machine);
                machine.event();
                machine.state()
            };
            if state != UnmapState::Released {
                inner.pairs[index].pending = Some(pending);
                continue;
            }
            self.ledger.remove(pending.entry);
            inner.idle.push(index);
            if inner.finished.len() == MAX_UNMAPPING {
                inner.finished.pop_front();
            }
            inner.finished.push_back(pending.id);
        }
        drop(inner);
        self.events.unmask(&ports)
    }

    pub fn finished(&self) -> Result<Vec<UnmapId>> {
        self.process()?;
        Ok(self.lock().finished.drain(..).collect())
    }

    pub fn in_progress(&self) -> usize {
        self.lock()
            .pairs
            .iter()
            .filter(|pair| pair.pending.is_some())
            .count()
    }
}

impl fmt::Debug for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        let busy = inner.pairs.iter().filter(|pair| pair.pending.is_some());
        write!(
            f,
            "Releases({} of {} ports wait",
            busy.count(),
            inner.pairs.len()
        )?;
        for pair in inner
            .pairs
            .iter()
            .filter(|pair| pair.pending.is_some())
            .take(4)
        {
            write!(f, " {:?}", pair.listen.port())?;
        }
        f.write_str(")")
    }
}

pub(super) fn lock_machine(machine: &Mutex<UnmapMachine>) -> MutexGuard<'_, UnmapMachine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mapping that is on its way out. Dropping it changes nothing: the unmap goes on, and the
/// ledger keeps naming it until it is over.
pub struct Unmapping {
    pub(super) id: UnmapId,
    pub(super) machine: Arc<Mutex<UnmapMachine>>,
    pub(super) releases: Arc<Releases>,
    pub(super) grants: Arc<[ForeignGrant]>,
}

impl Unmapping {
    /// Its name in [`Mapper::process_releases`](super::Mapper::process_releases).
    pub fn id(&self) -> UnmapId {
        self.id
    }

    /// What was mapped.
    pub fn grants(&self) -> &[ForeignGrant] {
        &self.grants
    }

    /// Where it stands, as far as events were processed.
    pub fn state(&self) -> UnmapState {
        lock_machine(&self.machine).state()
    }

    /// Looks whether it is over, without waiting.
    ///
    /// # Errors
    /// What the event channel's device says.
    pub fn poll(&self) -> Result<UnmapState> {
        self.releases.process()?;
        Ok(self.state())
    }

    /// Waits until the hypervisor has unmapped. For programs without an event loop: a loop
    /// registers the mapper instead, and one thread does not wait here while another has it
    /// registered, for each event is delivered once.
    ///
    /// # Errors
    /// [`Error::Timeout`] names the grants that are still held. [`Error::NotAvailable`] if the
    /// mapping's notice was used for something else, so that nobody can tell.
    pub fn wait(&self, deadline: Duration) -> Result<()> {
        if !lock_machine(&self.machine).is_noticed() {
            return Err(Error::NotAvailable {
                what: format!("the news of the release of {}", Grants(&self.grants)),
                cause: "the mapping's unmap notify sends its event elsewhere".into(),
                cure: "ask the granter, who got the event".into(),
            });
        }
        let began = Instant::now();
        loop {
            if self.poll()? == UnmapState::Released {
                // Whoever waited knows; only the others are news to the loop.
                self.releases.lock().finished.retain(|id| *id != self.id);
                return Ok(());
            }
            let left = deadline.saturating_sub(began.elapsed());
            if left.is_zero() {
                let what = format!(
                    "the release of {}, which somebody still holds",
                    Grants(&self.grants)
                );
                return Err(Error::Timeout {
                    what,
                    waited: began.elapsed(),
                });
            }
            wait_readable(self.releases.events.as_fd(), left)?;
        }
    }
}

impl fmt::Debug for Unmapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Unmapping({:?}, {}, {:?})",
            self.id,
            Grants(&self.grants),
            self.state()
        )
    }
}

/// A few of them, for a message.
pub(super) struct Grants<'a>(pub &'a [ForeignGrant]);

impl fmt::Display for Grants<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no grants"),
            [one] => write!(f, "{one}"),
            [first, rest @ ..] => write!(f, "{first} and {} more", rest.len()),
        }
    }
}
