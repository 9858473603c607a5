//! The event loop: the ring, the disk's threads, released mappings, xenstore, and the request to stop.

mod turn;

use crate::bus::Found;
use crate::claim::{Claim, RunDir};
use crate::config::BackConfig;
use crate::data::DataPath;
use crate::disk::{Disk, Store, pool::Pool};
use crate::error::BackError;
use crate::life::{Course, Lifecycle};
use crate::link::{Bell, Nobody};
use crate::machine::{BackMachine, Limits, RING_SIZE};
use crate::observe::Tell;
use crate::pace::Spin;
use crate::record::Record;
use libgnt::event::Events;
use libgnt::grant::{Ledger, Mapper};
use libgnt::{DomId, Platform};
use mio::{Interest, Token, Waker};
use pv_xenstore::toolstack::DeviceKey;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVENTS: Token = Token(0);
const XENSTORE: Token = Token(1);
const RELEASES: Token = Token(2);
const WAKER: Token = Token(3);

/// Busy turns before the other sources are looked at, whatever the front keeps sending.
const TURNS_BETWEEN_POLLS: u32 = 16;
/// How long a back end that cannot go on tries to say so.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the disk may take for what it is at when we end.
const END_OF_DISK: Duration = Duration::from_millis(200);

/// One device's back end.
#[derive(Debug)]
pub struct Backend {
    poll: mio::Poll,
    happened: mio::Events,
    /// Kept for those who wake us: they know it as long as it lives.
    _waker: Arc<Waker>,
    platform: Arc<dyn Platform>,
    life: Lifecycle,
    spin: Spin,
    pressed: bool,
    /// Given back last.
    _claim: Claim,
}

impl Backend {
    /// Opens everything that can fail: the device's claim, the image, the Xen devices, xenstore.
    ///
    /// # Errors
    /// [`BackError`]; nothing is left behind.
    pub fn open(config: BackConfig) -> Result<Self, BackError> {
        let BackConfig {
            platform,
            front,
            device,
            class,
            sysfs,
            backing,
            read_only,
            mode,
            observer,
            lender,
            ..
        } = config;
        let run_dir = config.run_dir.map(RunDir::Users);
        let run_dir = run_dir.unwrap_or_else(|| RunDir::Platforms(platform.run_dir()));
        let device = DeviceKey::new(front, class, device);
        let claim = Claim::take(run_dir, &device)?;
        let found = Found::find(&*platform, &device, sysfs.as_deref())?;
        let mut record = Record::open(&claim.file, front, device.devid)
            .map_err(|error| claim.cannot("make room in", &error))?;
        if found.is_new {
            record.forget();
        }
        let read_only = read_only || found.toolstack_forbids_writes()?;
        let disk = Disk::open(&backing, read_only)?;
        let poll = mio::Poll::new().map_err(system("epoll_create"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("eventfd"))?;
        let waker = Arc::new(waker);
        config.stop.wakes(&waker);
        let events = Events::open(&*platform)?;
        restrict(&events, front)?;
        let mut bell = Bell::new(events);
        let mut mapper = Mapper::open(Arc::clone(&platform), Ledger::new())?;
        mapper.refuse_grants_of(found.own);
        let registry = poll.registry();
        let register = system("epoll_ctl");
        registry
            .register(bell.source(), EVENTS, Interest::READABLE)
            .map_err(&register)?;
        registry
            .register(&mut mapper, RELEASES, Interest::READABLE)
            .map_err(&register)?;
        let machine = BackMachine::new(Limits {
            sectors: disk.sectors(),
            ring_size: RING_SIZE,
            max_zombies: config.max_zombies,
            cache: config.cache,
            sabotage: config.sabotage,
        });
        let pool = match disk.store() {
            Store::Memory(_) => None,
            Store::File(file) => {
                let (file, failed) = (Arc::clone(file), record.failed_flush());
                let waker = Arc::clone(&waker);
                let wake = Arc::new(move || {
                    if let Err(error) = waker.wake() {
                        tracing::error!(%error, "cannot wake the event loop");
                    }
                });
                let started = Pool::start(file, config.disk_threads, RING_SIZE, failed, wake);
                Some(started.map_err(system("starting the disk's threads"))?)
            }
        };
        let mut bus = found
            .start(Arc::clone(&platform), (&disk, mode))
            .map_err(system("starting xenstore's thread"))?;
        registry
            .register(&mut bus, XENSTORE, Interest::READABLE)
            .map_err(&register)?;
        let store = (disk.backing().clone(), disk.store().clone(), pool);
        let told = (Tell::new(observer), lender);
        let data = DataPath::new(machine, told, front, mapper.clone(), store);
        let course = Course {
            mode,
            stop: config.stop,
            close: config.close,
            hand_over: config.hand_over,
        };
        Ok(Backend {
            poll,
            happened: mio::Events::with_capacity(8),
            _waker: waker,
            platform,
            life: Lifecycle::new(course, front, (bell, mapper), bus, data, record),
            spin: Spin::new(config.spin),
            pressed: false,
            _claim: claim,
        })
    }

    /// What is mapped and unmapping: a handle that stays good while the back end runs.
    pub fn ledger(&self) -> &Ledger {
        self.life.mapper.ledger()
    }

    /// The platform it runs on.
    pub fn platform(&self) -> &Arc<dyn Platform> {
        &self.platform
    }

    /// Serves fronts until the device is removed, or until [`BackConfig::stop`] is asked.
    ///
    /// # Errors
    /// What the platform or xenstore says: the simulator's host went away, say. A front's
    /// misbehaviour closes the device and is never an error here.
    pub fn run(mut self) -> Result<(), BackError> {
        let result = self.serve();
        match &result {
            Ok(()) | Err(BackError::Served(_)) => {}
            Err(reason) => self.say_farewell(reason),
        }
        // However it ended: nothing that the disk still does may outlive the maps.
        self.life.cut_link();
        self.life.data.finish(END_OF_DISK);
        result
    }

    fn serve(&mut self) -> Result<(), BackError> {
        let mut busy_turns = 0;
        loop {
            if self.life.is_to_stop() {
                self.life.begin_to_stop();
            }
            self.life.proceed_with_closing();
            self.life.mind_the_time();
            if self.life.over || self.life.has_handed_over() {
                return Ok(());
            }
            let busy = self.turn()? || self.spin()?;
            let timeout = if busy {
                busy_turns += 1;
                if busy_turns < TURNS_BETWEEN_POLLS {
                    continue;
                }
                self.retry();
                Some(Duration::ZERO)
            } else {
                match self.before_sleep()? {
                    Sleep::NotYet => continue,
                    Sleep::AtMost(timeout) => timeout,
                }
            };
            busy_turns = 0;
            self.wait(timeout)?;
            self.life.obey_xenstore()?;
        }
    }

    /// Waits for anything to happen. xenstore's news and the disk's are looked at in any case.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), BackError> {
        self.poll(timeout).map_err(system("epoll_wait"))?;
        if self.has_happened(EVENTS) {
            self.take_events()?;
        }
        if self.has_happened(RELEASES) {
            self.take_releases();
        }
        Ok(())
    }

    fn poll(&mut self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self.poll.poll(&mut self.happened, timeout) {
            // What happened before is no news.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.happened.clear(),
            other => other?,
        }
        Ok(())
    }

    fn has_happened(&self, token: Token) -> bool {
        self.happened.iter().any(|event| event.token() == token)
    }

    /// Waits for what the end of a device may still need: the disk, unmaps, xenstore.
    fn nap(&mut self, timeout: Duration) -> std::io::Result<()> {
        self.poll(Some(timeout))?;
        self.take_releases();
        Ok(())
    }

    /// We cannot go on. The front is told, if anybody can be told: a state 4 with nobody behind it
    /// lets a guest hang.
    fn say_farewell(&mut self, reason: &BackError) {
        if self.life.over {
            return;
        }
        let until = Instant::now() + FAREWELL;
        self.life.stopping = true;
        self.life.bus.stop_at(until);
        self.life.bus.fatal(reason.to_string());
        self.life.bus.stop(Duration::ZERO);
        while !self.life.over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(front = %self.life.front, "the front end could not be told of the end");
                return;
            }
            self.life.data.disk_completions(&mut Nobody);
            if self.life.obey_xenstore().is_err() {
                return;
            }
            self.life.proceed_with_closing();
            if self.life.over || self.nap(left).is_err() {
                return;
            }
        }
    }
}

/// What [`Backend::before_sleep`] found.
enum Sleep {
    /// There is work after all.
    NotYet,
    /// For ever, if nothing happens.
    AtMost(Option<Duration>),
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> BackError {
    move |source| BackError::System { what, source }
}

/// A defence in depth: this descriptor talks to the front's domain only. Kernels without it serve too.
fn restrict(events: &Events, front: libgnt::DomId) -> Result<(), BackError> {
    if front == DomId::DOM0 {
        // The driver takes 0 for a mistake (`evtchn_ioctl_restrict_domid`, drivers/xen/evtchn.c, 6.1).
        return Ok(());
    }
    match events.restrict(front) {
        Err(error) if matches!(error.errno(), Some(Errno::NOTTY | Errno::NOSYS)) => {
            tracing::debug!(%error, "event channels are not restricted");
            Ok(())
        }
        other => Ok(other?),
    }
}
