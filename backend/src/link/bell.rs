//! The device's event channels as one thing that rings: what came is masked until it was worked on.

use crate::pace::Storm;
use libgnt::event::Events;
use libgnt::{EvtchnPort, Result};
use mio::event::Source;
use rustix::io::Errno;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Bell {
    events: Events,
    /// The ring's port was delivered, and is masked until we write it back.
    masked: bool,
    /// An event came since the last turn.
    rang: bool,
    storm: Storm,
    ports: Vec<EvtchnPort>,
}

impl Bell {
    pub fn new(events: Events) -> Self {
        Bell {
            events,
            masked: false,
            rang: false,
            storm: Storm::default(),
            ports: Vec::new(),
        }
    }

    /// Readable when an event came.
    pub fn source(&mut self) -> &mut dyn Source {
        &mut self.events
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Reads which ports' events came; they are masked now. True if `ours` may be one.
    ///
    /// # Errors
    /// The device's.
    pub fn take(&mut self, ours: Option<EvtchnPort>) -> Result<bool> {
        let mut rang = false;
        loop {
            self.ports.clear();
            match self.events.read(&mut self.ports) {
                Ok(0) => return Ok(rang),
                Ok(_) => {}
                Err(error) if error.errno() == Some(Errno::FBIG) => self.events.reset()?,
                Err(error) => return Err(error),
            }
            let Some(ours) = ours else { continue };
            // After an overflow nobody knows which ports came: ours may have.
            if self.ports.is_empty() || self.ports.contains(&ours) {
                (self.masked, self.rang) = (true, true);
                rang = true;
            }
        }
    }

    /// A turn is over: if an event came before it, it brought work or it did not.
    #[inline]
    pub fn answered(&mut self, worked: bool) {
        if std::mem::take(&mut self.rang) {
            if worked {
                self.storm.worked();
            } else {
                self.storm.in_vain(Instant::now());
            }
        }
    }

    /// Lets events come again, after the work. A peer that sends them for nothing is ignored for a
    /// while: then this is the time to wait before the next call.
    ///
    /// # Errors
    /// The device's.
    pub fn unmask(&mut self, port: EvtchnPort, now: Instant) -> Result<Option<Duration>> {
        if !self.masked {
            return Ok(None);
        }
        if let Some(pause) = self.storm.pause(now) {
            return Ok(Some(pause));
        }
        self.masked = false;
        self.events.unmask(&[port])?;
        Ok(None)
    }

    /// The channel is another one now.
    pub fn forget(&mut self) {
        (self.masked, self.rang, self.storm) = (false, false, Storm::default());
    }
}
