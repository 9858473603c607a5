//! The front end as one object that its caller drives: [`Frontend::submit`], then
//! [`Frontend::poll`]. No thread of its own; [`Disk`](crate::Disk) puts one around it.

pub(crate) mod close;
mod lifecycle;
mod pace;
mod set_aside;
mod work;

use crate::agent::{Agent, DiskInfo, Limits};
use crate::bus::{Bus, name};
use crate::config::FrontConfig;
use crate::counters::Counters;
use crate::datapath::{DataPath, Tell};
use crate::error::FrontError;
use crate::io::{Completion, Io, Refused};
use crate::live::Live;
use crate::observe::Observer;
use libgnt::EvtchnPort;
use libgnt::event::Events;
use libgnt::grant::Granter;
use lifecycle::Wanted;
use mio::{Interest, Poll, Token, Waker};
use pace::Pace;
use set_aside::SetAside;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVENTS: Token = Token(0);
const XENSTORE: Token = Token(1);
const WAKER: Token = Token(2);

/// A longer poll ends early: any clock can count to this.
const LONGEST_POLL: Duration = Duration::from_secs(24 * 60 * 60);

/// What the ring is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// Requests and responses.
    Running,
    /// Responses only: the device is being closed in order.
    Draining,
    /// Nothing: not connected yet, or not any more.
    Stopped,
}

#[derive(Debug)]
enum State {
    /// No back end is connected, or the one that was is gone.
    Waiting {
        since: Instant,
        why: String,
    },
    Connected,
    Closed,
}

/// A block front end.
#[derive(Debug)]
pub struct Frontend {
    // Fields drop in this order: grants before the events that their end may send.
    live: Option<Live>,
    set_aside: SetAside,
    granter: Granter,
    path: DataPath,
    bus: Bus,
    poll: Poll,
    happened: mio::Events,
    waker: Arc<Waker>,
    woken: bool,
    events: Events,
    ports: Vec<EvtchnPort>,
    unmask_at: Option<Instant>,
    spurious: u32,
    spin: Duration,
    state: State,
    service: Service,
    /// The back end's process died with the ring in service: another one may take it over.
    silent: bool,
    /// Since then.
    foreign_answers: u32,
    disk: Option<DiskInfo>,
    /// A back end waits for a ring that could not be granted yet.
    wanted: Option<Wanted>,
    pace: Pace,
    connections: u64,
    next_housekeeping: Instant,
    config: FrontConfig,
}

impl Frontend {
    /// Opens the device and waits until a back end is connected.
    ///
    /// # Errors
    /// No such platform or device, no grants, or no back end within `config.reconnect`.
    pub fn open(config: FrontConfig) -> Result<Self, FrontError> {
        Self::open_observed(config, None)
    }

    /// The same, with somebody who is told what happens.
    ///
    /// # Errors
    /// As [`Frontend::open`].
    pub fn open_observed(
        config: FrontConfig,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<Self, FrontError> {
        let config = config.with_times_in_bounds();
        let poll = Poll::new().map_err(|e| FrontError::System("epoll", e))?;
        let waker =
            Waker::new(poll.registry(), WAKER).map_err(|e| FrontError::System("eventfd", e))?;
        let waker = Arc::new(waker);
        config.stop.wakes(&waker);
        let mut events = Events::open(&*config.platform)?;
        let granter = Granter::open(Arc::clone(&config.platform), config.ledger.clone())?;
        let mut bus = Bus::open(&config)?;
        let register = |source: &mut dyn mio::event::Source, token, what| {
            let done = poll.registry().register(source, token, Interest::READABLE);
            done.map_err(|e| FrontError::System(what, e))
        };
        register(&mut events, EVENTS, "epoll on the event channels")?;
        register(bus.source(), XENSTORE, "epoll on xenstore's news")?;
        let limits = Limits {
            queue: config.queue,
            deadline: config.deadline,
        };
        let platform = Arc::clone(&config.platform);
        let tell = Tell::new(observer);
        let now = Instant::now();
        let mut front = Frontend {
            live: None,
            set_aside: SetAside::new(config.pool_pages.saturating_add(1)),
            granter,
            path: DataPath::new(Agent::new(limits), platform, config.verify_release, tell),
            bus,
            poll,
            happened: mio::Events::with_capacity(16),
            waker,
            woken: false,
            events,
            ports: Vec::new(),
            unmask_at: None,
            spurious: 0,
            spin: config.spin,
            state: State::Waiting {
                since: now,
                why: "it has not connected yet".into(),
            },
            service: Service::Stopped,
            silent: false,
            foreign_answers: 0,
            disk: None,
            wanted: None,
            pace: Pace::new(config.reconnect),
            connections: 0,
            next_housekeeping: now,
            config,
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
        while !matches!(self.state, State::Connected) {
            if self.config.stop.is_asked() {
                let what = format!("{} ({})", name(self.config.device), self.bus.situation());
                return Err(FrontError::Interrupted(what));
            }
            self.round(None)?;
            if let Some(error) = self.path.agent().failed() {
                return Err(FrontError::Device(error.clone()));
            }
        }
        Ok(())
    }

    /// The disk, as the last back end that was connected announced it.
    pub fn info(&self) -> DiskInfo {
        // `open` returns only with a disk.
        self.disk.unwrap_or(DiskInfo {
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
        self.path.counters
    }

    /// I/Os accepted and not completed.
    pub fn pending(&self) -> usize {
        self.path.agent().pending()
    }

    /// Accepts an I/O; [`Frontend::poll`] performs it. `tag` comes back in its completion.
    ///
    /// # Errors
    /// [`Refused`] gives the I/O back.
    pub fn submit(&mut self, io: Io, tag: u64) -> Result<(), Refused> {
        self.path.submit(io, tag)
    }

    /// The next I/O that is over.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.path.next_completion()
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
            if self.path.has_completions() || std::mem::take(&mut self.woken) {
                return Ok(());
            }
            let until = *until.get_or_insert_with(|| Instant::now() + timeout);
            self.round(Some(until))?;
            if !self.path.has_completions() && !self.woken && Instant::now() >= until {
                return Ok(());
            }
        }
    }
}
