//! The device's event channels as one thing that rings: what came is masked until it was worked on.

use crate::counters::Counters;
use crate::pace::Storm;
use libgnt::event::{Channel, Events};
use libgnt::{DomId, EvtchnPort, Result};
use mio::event::Source;
use rustix::io::Errno;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Bell {
    events: Events,
    /// What came, and is masked.
    ports: Vec<EvtchnPort>,
    storm: Storm,
}

impl Bell {
    pub(crate) fn new(events: Events) -> Self {
        Bell {
            events,
            ports: Vec::new(),
            storm: Storm::default(),
        }
    }

    /// Readable when an event came.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        &mut self.events
    }

    /// A channel that `back` may bind to.
    pub(super) fn new_channel(&self, back: DomId) -> Result<Channel> {
        self.events.bind_unbound(back)
    }

    /// Reads which ports' events came; they are masked now. `ours` is the connection's.
    pub(crate) fn take(&mut self, ours: Option<EvtchnPort>, counters: &mut Counters) -> Result<()> {
        loop {
            counters.event_reads += 1;
            match self.events.read(&mut self.ports) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.errno() == Some(Errno::FBIG) => {
                    tracing::warn!(%error, "events were lost: looking at the ring without one");
                    self.events.reset()?;
                    // Nobody knows which ports came, and those are masked: ours may be one.
                    self.ports.extend(ours);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Events came: whether they bring work is not known yet.
    pub(crate) fn rang(&mut self) {
        self.storm.in_vain();
    }

    /// There was work.
    pub(crate) fn worked(&mut self) {
        self.storm.worked();
    }

    /// Lets events come again, after the work. A peer that sends them for nothing is muted for a
    /// while, so that it cannot keep this thread busy (XSA-332, XSA-391).
    pub(crate) fn unmask(&mut self, now: Instant, counters: &mut Counters) -> Result<()> {
        if self.ports.is_empty() || self.storm.pause(now).is_some() {
            return Ok(());
        }
        counters.event_unmasks += 1;
        self.events.unmask(&self.ports)?;
        self.ports.clear();
        Ok(())
    }

    /// When [`Bell::unmask`] is to be called again, if a storm keeps events masked.
    pub(crate) fn masked_until(&self) -> Option<Instant> {
        self.storm.masked_until()
    }

    /// The channel is gone, and what came on it means nothing any more.
    pub(crate) fn forget(&mut self) {
        self.ports.clear();
        self.storm.forget_pause();
    }
}
