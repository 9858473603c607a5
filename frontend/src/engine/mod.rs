//! The front end as one object that its caller drives: [`Frontend::submit`], then
//! [`Frontend::poll`]. No thread of its own; [`Disk`](crate::Disk) puts one around it.

mod lifecycle;

use crate::agent::{Agent, DeviceError, DiskInfo, Limits};
use crate::bus::{Bus, name};
use crate::config::FrontConfig;
use crate::counters::Counters;
use crate::datapath::{DataPath, Tell};
use crate::error::FrontError;
use crate::io::{Completion, Io, Refused};
use crate::live::Live;
use crate::observe::{FrontEventKind, Observer};
use crate::pool::end_share;
use libgnt::event::Events;
use libgnt::grant::{Granter, Share};
use libgnt::{DomId, EvtchnPort};
use mio::{Interest, Poll, Token, Waker};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const EVENTS: Token = Token(0);
const XENSTORE: Token = Token(1);
const WAKER: Token = Token(2);

/// While the data path never sleeps, the rest is looked at this often.
const HOUSEKEEPING: Duration = Duration::from_millis(5);
/// How often to see whether an old back end has let go of its grants.
const SET_ASIDE_RETRY: Duration = Duration::from_millis(100);
/// The busy wait shrinks to this while it is in vain.
const SHORTEST_SPIN: Duration = Duration::from_micros(4);
/// So many wake-ups without a response in a row are a storm, not a coincidence.
const SPURIOUS_ALLOWED: u32 = 16;
/// How long a storm of events is ignored at most; responses may be late by this, never lost.
const LONGEST_MUTE: Duration = Duration::from_millis(50);

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
    /// No back end is connected.
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
    set_aside: Vec<Share>,
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
    disk: Option<DiskInfo>,
    /// A back end waits for a ring that could not be granted yet.
    wanted: Option<DomId>,
    connections: u64,
    next_housekeeping: Instant,
    /// When to look at `set_aside` again: each look is a call to the platform for each share.
    next_release: Instant,
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
        let poll = Poll::new().map_err(|e| FrontError::System("epoll", e))?;
        let waker =
            Waker::new(poll.registry(), WAKER).map_err(|e| FrontError::System("eventfd", e))?;
        let mut events = Events::open(&*config.platform)?;
        let granter = Granter::open(Arc::clone(&config.platform), config.ledger.clone())?;
        let mut bus = Bus::open(&config)?;
        let register = |source: &mut dyn mio::event::Source, token, what| {
            let done = poll.registry().register(source, token, Interest::READABLE);
            done.map_err(|e| FrontError::System(what, e))
        };
        register(&mut events, EVENTS, "epoll on the event channels")?;
        register(bus.source(), XENSTORE, "epoll on xenstore")?;
        let limits = Limits {
            queue: config.queue,
            deadline: config.deadline,
        };
        let platform = Arc::clone(&config.platform);
        let tell = Tell::new(observer);
        let now = Instant::now();
        let mut front = Frontend {
            live: None,
            set_aside: Vec::new(),
            granter,
            path: DataPath::new(Agent::new(limits), platform, config.verify_release, tell),
            bus,
            poll,
            happened: mio::Events::with_capacity(16),
            waker: Arc::new(waker),
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
            disk: None,
            wanted: None,
            connections: 0,
            next_housekeeping: now,
            next_release: now,
            config,
        };
        while !matches!(front.state, State::Connected) {
            front.round(Some(Instant::now() + HOUSEKEEPING * 20))?;
            if let Some(error) = front.path.agent().failed() {
                return Err(FrontError::Device(error.clone()));
            }
            if front.config.stop.load(Ordering::Relaxed) {
                let what = format!("{} ({})", name(front.config.device), front.bus.situation());
                front.close()?;
                return Err(FrontError::Interrupted(what));
            }
        }
        Ok(front)
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

    /// One round of work; sleeps, at most until `until`, only if there was none.
    fn round(&mut self, until: Option<Instant>) -> Result<(), FrontError> {
        if self.turn()? {
            return Ok(());
        }
        let now = Instant::now();
        if now >= self.next_housekeeping {
            self.housekeeping(now)?;
            if self.path.has_completions() {
                return Ok(());
            }
        }
        if self.spin() {
            return Ok(());
        }
        self.unmask(Instant::now())?;
        if let Some(live) = &mut self.live
            && self.service != Service::Stopped
            // An error shows again in the next `pop`, which handles it.
            && !matches!(live.ring.final_check(), Ok(false))
        {
            return Ok(());
        }
        self.sleep(until)
    }

    /// Pushes, pops, and looks whether the back end lives. True if there was something to do.
    fn turn(&mut self) -> Result<bool, FrontError> {
        let Some(live) = &mut self.live else {
            return Ok(false);
        };
        if self.service == Service::Stopped {
            return Ok(false);
        }
        if self.service == Service::Running {
            self.path.push(live);
        }
        let popped = self.path.pop(live);
        if let Some(error) = self.path.take_fatal() {
            self.fail(&DeviceError::Protocol(error))?;
            return Ok(true);
        }
        if popped > 0 {
            self.spurious = 0;
            if self.service == Service::Draining {
                self.settle_bus()?;
            }
            return Ok(true);
        }
        if !live.back_alive() {
            self.peer_died()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Waits busily for a response, for as long as the last waits say that it may pay.
    fn spin(&mut self) -> bool {
        let Some(live) = &mut self.live else {
            return false;
        };
        if self.path.agent().in_flight() == 0 || self.config.spin.is_zero() {
            return false;
        }
        let began = Instant::now();
        while began.elapsed() < self.spin {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            if self.path.pop(live) > 0 {
                self.path.counters.spins += 1;
                self.spurious = 0;
                return true;
            }
        }
        false
    }

    /// Lets events come again, after the work. A peer that sends them for nothing is muted for a
    /// while, so that it cannot keep this thread busy (XSA-332, XSA-391).
    fn unmask(&mut self, now: Instant) -> Result<(), FrontError> {
        if self.ports.is_empty() {
            return Ok(());
        }
        if self.spurious > SPURIOUS_ALLOWED {
            let over = (self.spurious - SPURIOUS_ALLOWED).min(6);
            let mute = Duration::from_millis(1 << over).min(LONGEST_MUTE);
            if now < *self.unmask_at.get_or_insert(now + mute) {
                return Ok(());
            }
        }
        self.unmask_at = None;
        self.path.counters.event_unmasks += 1;
        self.events.unmask(&self.ports)?;
        self.ports.clear();
        Ok(())
    }

    fn sleep(&mut self, until: Option<Instant>) -> Result<(), FrontError> {
        let now = Instant::now();
        let mut wake = until;
        let mut sooner = |at: Instant| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        if let Some(unmask) = self.unmask_at {
            sooner(unmask);
        }
        if let Some(left) = self.path.tick() {
            sooner(now + left);
        }
        if let State::Waiting { since, .. } = &self.state {
            sooner(*since + self.config.reconnect);
        }
        if self.wanted.is_some() {
            sooner(now + SET_ASIDE_RETRY);
        }
        if !self.set_aside.is_empty() {
            sooner(self.next_release);
        }
        if let Some(at) = self.bus.next_deadline() {
            sooner(at);
        }
        if self.path.has_completions() {
            return Ok(());
        }
        let timeout = wake.map(|wake| wake.saturating_duration_since(now));
        self.path.counters.polls += 1;
        match self.poll.poll(&mut self.happened, timeout) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                // A signal is somebody's news: let the caller look.
                self.woken = true;
                return Ok(());
            }
            other => other.map_err(|e| FrontError::System("epoll", e))?,
        }
        let mut housekeeping = self.happened.is_empty();
        let mut read = false;
        for event in &self.happened {
            match event.token() {
                EVENTS => read = true,
                WAKER => self.woken = true,
                _ => housekeeping = true,
            }
        }
        if self.path.agent().in_flight() > 0 {
            // A sleep that a longer busy wait would have saved makes the next one longer.
            self.spin = match read && now.elapsed() <= self.config.spin {
                true => (self.spin * 2).min(self.config.spin),
                false => (self.spin / 2).max(SHORTEST_SPIN.min(self.config.spin)),
            };
        }
        if read {
            loop {
                self.path.counters.event_reads += 1;
                if self.events.read(&mut self.ports)? == 0 {
                    break;
                }
            }
            self.spurious = self.spurious.saturating_add(1);
        }
        if housekeeping {
            self.housekeeping(Instant::now())?;
        }
        Ok(())
    }

    /// Ends access to what old back ends have let go of meanwhile.
    fn release_set_aside(&mut self) {
        for share in std::mem::take(&mut self.set_aside) {
            let grants = share.grefs().to_vec();
            match end_share(share) {
                Some(share) => self.set_aside.push(share),
                None => self.path.tell.tell(|| FrontEventKind::LetGo { grants }),
            }
        }
    }

    /// Everything but data: xenstore, deadlines, what was set aside.
    fn housekeeping(&mut self, now: Instant) -> Result<(), FrontError> {
        self.next_housekeeping = now + HOUSEKEEPING;
        self.path.tick();
        if now >= self.next_release {
            self.next_release = now + SET_ASIDE_RETRY;
            self.release_set_aside();
        }
        self.share()?;
        self.bus.service()?;
        self.settle_bus()?;
        if let State::Waiting { since, why } = &self.state
            && now.saturating_duration_since(*since) >= self.config.reconnect
        {
            let error = DeviceError::Gone(format!(
                "no back end for {} within {:?}: {why}; {}",
                name(self.config.device),
                self.config.reconnect,
                self.bus.situation(),
            ));
            self.fail(&error)?;
        }
        Ok(())
    }

    /// Closes the device: waits for nothing that is pending, but for the back end to let go, at
    /// most five seconds.
    ///
    /// # Errors
    /// The back end did not close in time: its grants end with this process.
    pub fn close(mut self) -> Result<Counters, FrontError> {
        self.path.give_up(DeviceError::Closed);
        self.close_bus()?;
        self.path.tell.tell(|| FrontEventKind::Closed);
        Ok(self.path.counters)
    }
}
