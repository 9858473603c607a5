//! The loop, and the front end as one object that its caller drives: [`Frontend::submit`], then
//! [`Frontend::poll`]. No thread of its own; [`Disk`](crate::Disk) puts one around it.

pub(crate) mod close;
mod turn;

use crate::bus;
use crate::config::{FrontConfig, name};
use crate::counters::Counters;
use crate::data::DataPath;
use crate::error::{FrontError, system};
use crate::io::{Completion, Io, Refused};
use crate::life::{Lifecycle, State};
use crate::link::Bell;
use crate::machine::{DiskInfo, FrontMachine, Limits};
use crate::observe::Tell;
use crate::pace::Spin;
use libgnt::event::Events;
use libgnt::grant::Granter;
use mio::{Interest, Poll, Token, Waker};
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVENTS: Token = Token(0);
const XENSTORE: Token = Token(1);
const WAKER: Token = Token(2);

/// A longer poll ends early: any clock can count to this.
const LONGEST_POLL: Duration = Duration::from_secs(24 * 60 * 60);

/// A block front end.
#[derive(Debug)]
pub struct Frontend {
    life: Lifecycle,
    poll: Poll,
    happened: mio::Events,
    waker: Arc<Waker>,
    woken: bool,
    spin: Spin,
    next_housekeeping: Instant,
}

impl Frontend {
    /// Opens the device and waits until a back end is connected.
    ///
    /// # Errors
    /// No such platform or device, no grants, or no back end within [`FrontConfig::reconnect`].
    pub fn open(config: FrontConfig) -> Result<Self, FrontError> {
        let mut config = config.with_times_in_bounds();
        let poll = Poll::new().map_err(system("epoll"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("eventfd"))?;
        let waker = Arc::new(waker);
        config.stop.wakes(&waker);
        let mut bell = Bell::new(Events::open(&*config.platform)?);
        let granter = Granter::open(Arc::clone(&config.platform), config.ledger.clone())?;
        let mut bus = bus::open(&config)?;
        let register = |source: &mut dyn mio::event::Source, token, what| {
            let done = poll.registry().register(source, token, Interest::READABLE);
            done.map_err(system(what))
        };
        register(bell.source(), EVENTS, "epoll on the event channels")?;
        register(bus.source(), XENSTORE, "epoll on xenstore's news")?;
        let machine = FrontMachine::new(Limits {
            queue: config.queue,
            deadline: config.deadline,
        });
        let platform = Arc::clone(&config.platform);
        let tell = Tell::new(config.observer.take());
        let data = DataPath::new(machine, platform, config.verify_release, tell);
        let mut front = Frontend {
            poll,
            happened: mio::Events::with_capacity(16),
            waker,
            woken: false,
            spin: Spin::new(config.spin),
            next_housekeeping: Instant::now(),
            life: Lifecycle::new(config, granter, data, bus, bell),
        };
        match front.wait_for_back_end() {
            Ok(()) => Ok(front),
            Err(error) => {
                if let Err(late) = front.close() {
                    tracing::debug!(error = %late, "close after a failed open");
                }
                Err(error)
            }
        }
    }

    fn wait_for_back_end(&mut self) -> Result<(), FrontError> {
        while !matches!(self.life.state, State::Connected) {
            if self.life.config.stop.is_asked() {
                let what = format!(
                    "{} ({})",
                    name(self.life.config.device),
                    self.life.bus.situation()
                );
                return Err(FrontError::Interrupted(what));
            }
            self.round(None)?;
            if let Some(error) = self.life.data.machine().failed() {
                return Err(FrontError::Device(error.clone()));
            }
        }
        Ok(())
    }

    /// The disk, as the last back end that was connected announced it.
    pub fn info(&self) -> DiskInfo {
        // `open` returns only with a disk.
        self.life.disk.unwrap_or(DiskInfo {
            sectors: 0,
            sector_size: 512,
            physical_sector_size: 512,
            read_only: true,
            flush: false,
            persistent: false,
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.life.data.counters
    }

    /// I/Os accepted and not completed.
    pub fn pending(&self) -> usize {
        self.life.data.machine().pending()
    }

    /// Accepts an I/O; [`Frontend::poll`] performs it. `tag` comes back in its completion.
    ///
    /// # Errors
    /// [`Refused`] gives the I/O back.
    pub fn submit(&mut self, io: Io, tag: u64) -> Result<(), Refused> {
        self.life.data.submit(io, tag)
    }

    /// The next I/O that is over.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.life.data.next_completion()
    }

    /// Ends a [`Frontend::poll`] from another thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Works until a completion is there, the waker was used, or `timeout` has passed.
    ///
    /// # Errors
    /// The platform or xenstore failed. A failed *device* is no error here: its I/Os complete
    /// with one.
    pub fn poll(&mut self, timeout: Duration) -> Result<(), FrontError> {
        let timeout = timeout.min(LONGEST_POLL);
        // The clock is read only when there is nothing to do.
        let mut until = None;
        loop {
            if self.life.data.has_completions() || std::mem::take(&mut self.woken) {
                return Ok(());
            }
            let until = *until.get_or_insert_with(|| Instant::now() + timeout);
            self.round(Some(until))?;
            if !self.life.data.has_completions() && !self.woken && Instant::now() >= until {
                return Ok(());
            }
        }
    }
}
