//! Who tells that an unmap is over: gntdev sends an event when the hypervisor has really unmapped
//! (`UNMAP_NOTIFY_SEND_EVENT`), to a pair of ports that is this unmap's alone.

use super::ledger::{EntryId, Ledger};
use super::pairs::{Pair, Pairs};
use super::unmap::{Action, Input, UnmapMachine};
use crate::error::Result;
use crate::event::Events;
use crate::machine::{Machine, Now};
use crate::platform::Platform;
use crate::types::EvtchnPort;
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names one unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnmapId(u64);

/// An unmap's machine, which its owner and its release share.
pub(super) fn lock_machine(machine: &Mutex<UnmapMachine>) -> MutexGuard<'_, UnmapMachine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An unmap waits for nothing but events: its machine knows no time.
pub(super) const NO_TIME: Now = Now::ZERO;

/// Releases that are kept for a collector who never came.
const UNCOLLECTED: usize = 1024;

struct Waiting {
    id: UnmapId,
    pair: Pair,
    machine: Arc<Mutex<UnmapMachine>>,
    entry: EntryId,
}

struct Inner {
    pairs: Pairs,
    /// By the port that tells.
    waiting: BTreeMap<EvtchnPort, Waiting>,
    finished: VecDeque<UnmapId>,
    /// Somebody collects what is finished, and takes in events for it.
    collected: bool,
    /// Ports were closed, and an event of theirs may still be in the file's queue. A new pair may
    /// get their numbers, so it is read empty before one is bound.
    stale: bool,
    /// It could not be looked at all that wait: look again.
    unsure: bool,
    next_id: u64,
    /// Kept, so that an event allocates nothing.
    actions: Vec<Action>,
}

pub(super) struct Releases {
    events: Events,
    ledger: Ledger,
    inner: Mutex<Inner>,
}

impl Releases {
    pub fn open(platform: &dyn Platform, ledger: Ledger) -> Result<Self> {
        let events = Events::open(platform)?;
        let pairs = Pairs::open(&events)?;
        Ok(Releases {
            events,
            ledger,
            inner: Mutex::new(Inner {
                pairs,
                waiting: BTreeMap::new(),
                finished: VecDeque::new(),
                collected: false,
                stale: false,
                unsure: false,
                next_id: 0,
                actions: Vec::new(),
            }),
        })
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn limit(&self, pairs: usize) {
        self.lock().pairs.limit(pairs);
    }

    /// From now on somebody collects.
    pub fn collect(&self) {
        self.lock().collected = true;
    }

    /// A free pair, or `None` at the limit.
    pub fn take_pair(&self) -> Result<Option<Pair>> {
        let mut inner = self.lock();
        if let Some(pair) = inner.pairs.take() {
            return Ok(Some(pair));
        }
        if !inner.stale
            && let Some(pair) = inner.pairs.bind(&self.events)?
        {
            return Ok(Some(pair));
        }
        // Where somebody collects, to take events in here would take them from the loop that sleeps
        // until they come.
        if inner.collected {
            return Ok(None);
        }
        self.take_in(&mut inner)?;
        match inner.pairs.take() {
            Some(pair) => Ok(Some(pair)),
            None => inner.pairs.bind(&self.events),
        }
    }

    /// No event will come to this pair after all.
    pub fn put_back(&self, pair: Pair) {
        let mut inner = self.lock();
        inner.stale |= inner.pairs.put_back(pair);
    }

    /// From now on, the pair's event finishes this unmap.
    pub fn expect(
        &self,
        pair: Pair,
        machine: &Arc<Mutex<UnmapMachine>>,
        entry: EntryId,
    ) -> UnmapId {
        let mut inner = self.lock();
        let id = inner.fresh_id();
        let waiting = Waiting {
            id,
            machine: Arc::clone(machine),
            entry,
            pair,
        };
        inner.waiting.insert(waiting.pair.listens_at(), waiting);
        id
    }

    /// The event of this unmap will never come.
    pub fn give_up(&self, id: UnmapId) {
        let mut inner = self.lock();
        let port = inner.waiting.iter().find(|(_, w)| w.id == id);
        if let Some(port) = port.map(|(port, _)| *port)
            && let Some(waiting) = inner.waiting.remove(&port)
        {
            // Not to be used again: gntdev may have kept its port.
            inner.stale |= inner.pairs.close(waiting.pair);
        }
    }

    /// An id for an unmap whose release nobody will tell.
    pub fn untold(&self) -> UnmapId {
        self.lock().fresh_id()
    }

    /// Takes in what has come.
    pub fn process(&self) -> Result<()> {
        self.take_in(&mut self.lock())
    }

    /// Nothing is bound meanwhile, and no other thread has a port in hand that it read before: the
    /// lock is held throughout.
    fn take_in(&self, inner: &mut Inner) -> Result<()> {
        if inner.unsure {
            self.look_at_all(inner);
        }
        loop {
            let mut ports = Vec::new();
            let read = self.read_all(&mut ports);
            inner.stale &= read.is_err();
            for port in &ports {
                self.take_event(inner, *port);
            }
            self.events.unmask(&ports)?;
            if let Err(error) = read {
                if error.errno() != Some(Errno::FBIG) {
                    return Err(error);
                }
                // An overflow. Nobody knows whose events were lost.
                self.events.reset()?;
                let all: Vec<EvtchnPort> = inner.waiting.keys().copied().collect();
                // Those that were in the queue are masked.
                self.events.unmask(&all)?;
                self.look_at_all(inner);
                inner.stale = true;
            }
            inner.stale |= inner.pairs.trim();
            if !inner.stale {
                return Ok(());
            }
        }
    }

    fn read_all(&self, ports: &mut Vec<EvtchnPort>) -> Result<()> {
        while self.events.read(ports)? > 0 {}
        Ok(())
    }

    fn take_event(&self, inner: &mut Inner, port: EvtchnPort) {
        let Some(waiting) = inner.waiting.remove(&port) else {
            return;
        };
        if inner.hears(&waiting.machine) {
            self.finish(inner, waiting.id, waiting.entry);
            inner.stale |= inner.pairs.put_back(waiting.pair);
        } else {
            inner.waiting.insert(port, waiting);
        }
    }

    fn finish(&self, inner: &mut Inner, id: UnmapId, entry: EntryId) {
        self.ledger.remove(entry);
        if !inner.collected && inner.finished.len() == UNCOLLECTED {
            inner.finished.pop_front();
        }
        inner.finished.push_back(id);
    }

    /// Finds out which are over without their events.
    fn look_at_all(&self, inner: &mut Inner) {
        inner.unsure = false;
        for (port, mut waiting) in std::mem::take(&mut inner.waiting) {
            match waiting.pair.look(&self.events) {
                Ok(true) => {
                    inner.hears(&waiting.machine);
                    self.finish(inner, waiting.id, waiting.entry);
                    // Its event may come yet, and must not be another unmap's.
                    inner.stale |= inner.pairs.close(waiting.pair);
                    continue;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot look whether an unmap is over; its event was lost, perhaps");
                    inner.unsure = true;
                }
            }
            inner.waiting.insert(port, waiting);
        }
    }

    pub fn finished(&self) -> Result<Vec<UnmapId>> {
        let mut inner = self.lock();
        inner.collected = true;
        self.take_in(&mut inner)?;
        Ok(inner.finished.drain(..).collect())
    }

    /// Whoever waited for this one knows.
    pub fn known(&self, id: UnmapId) {
        self.lock().finished.retain(|finished| *finished != id);
    }

    pub fn in_progress(&self) -> usize {
        self.lock().waiting.len()
    }
}

impl Inner {
    /// Tells an unmap's machine of its event. True: it is over with that.
    fn hears(&mut self, machine: &Mutex<UnmapMachine>) -> bool {
        self.actions.clear();
        lock_machine(machine).step(NO_TIME, Input::Event, &mut self.actions);
        self.actions.contains(&Action::Released)
    }

    fn fresh_id(&mut self) -> UnmapId {
        self.next_id += 1;
        UnmapId(self.next_id - 1)
    }
}

impl fmt::Debug for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(f, "Releases({} wait", inner.waiting.len())?;
        for port in inner.waiting.keys().take(4) {
            write!(f, " {port:?}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests;
