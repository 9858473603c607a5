//! The event loop: the ring, the disk's threads, released mappings, xenstore, and the request to stop.

use crate::bus::{Bus, Found};
use crate::claim::{Claim, RunDir};
use crate::config::{BackConfig, Mode};
use crate::data::DataPath;
use crate::disk::{Disk, Store, pool::Pool};
use crate::error::BackError;
use crate::link::{DIED, Link, Nobody};
use crate::machine::{BackMachine, Input, Limits, RING_SIZE};
use crate::observe::{BackEventKind, Tell};
use crate::pace::{Spin, Storm};
use crate::record::Record;
use libgnt::event::Events;
use libgnt::grant::{Ledger, Mapper};
use libgnt::proto::blkif::Request;
use libgnt::stop::Stop;
use libgnt::{DomId, EvtchnPort, Platform};
use mio::{Interest, Token, Waker};
use pv_xenstore::keeper::Keeper;
use pv_xenstore::toolstack::DeviceKey;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVENTS: Token = Token(0);
const XENSTORE: Token = Token(1);
const RELEASES: Token = Token(2);
const WAKER: Token = Token(3);

/// Requests taken in one turn, before everything else gets its turn (XSA-391).
const TURN: usize = 2 * RING_SIZE;
/// Busy turns before the other sources are looked at, whatever the front keeps sending.
const TURNS_BETWEEN_POLLS: u32 = 16;
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
    pub(crate) events: Events,
    pub(crate) mapper: Mapper,
    pub(crate) front: DomId,
    /// xenstore's side, on a thread of its own.
    pub(crate) bus: Keeper<Bus>,
    pub(crate) data: DataPath,
    pub(crate) link: Option<Link>,
    /// While there is no link, which has it else.
    pub(crate) record: Option<Record>,
    /// What an earlier back end took off the link's ring and did not answer.
    pub(crate) left: Vec<Request>,
    /// Both sides know of the link: requests are taken from it.
    pub(crate) serving: bool,
    /// The link's front may only read.
    pub(crate) read_only: bool,
    pub(crate) mode: Mode,
    pub(crate) stop: Stop,
    pub(crate) close: Duration,
    pub(crate) hand_over: bool,
    /// The link is left to the next back end when this has passed.
    pub(crate) handing_over_until: Option<Instant>,
    /// The link is cut when this has passed.
    pub(crate) draining_until: Option<Instant>,
    /// xenstore's machine waits for the end of the disk's work on a front's pages.
    pub(crate) freeing: bool,
    /// When to say why that takes so long, and whether that was said.
    pub(crate) explain_at: Option<Instant>,
    pub(crate) explained: bool,
    /// The device closes for a reason that stands in xenstore.
    pub(crate) failed: bool,
    pub(crate) stopping: bool,
    /// When the end does not wait for xenstore any more.
    pub(crate) give_up_at: Option<Instant>,
    /// xenstore's side has ended, or was given up.
    pub(crate) over: bool,
    spin: Spin,
    pub(crate) storm: Storm,
    /// The ring's port was delivered, and is masked until we write it back.
    pub(crate) masked: bool,
    /// An event came since the last turn.
    pub(crate) notified: bool,
    pressed: bool,
    ports: Vec<EvtchnPort>,
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
        let Found {
            bus,
            client,
            is_new,
        } = Bus::open(&*platform, &device, sysfs.as_deref())?;
        let mut record = Record::open(&claim.file, front, device.devid)
            .map_err(|error| claim.cannot("make room in", &error))?;
        if is_new {
            record.forget();
        }
        let read_only = read_only || bus.toolstack_forbids_writes(&client)?;
        let disk = Disk::open(&backing, read_only)?;
        let poll = mio::Poll::new().map_err(system("epoll_create"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("eventfd"))?;
        let waker = Arc::new(waker);
        config.stop.wakes(&waker);
        let mut events = Events::open(&*platform)?;
        restrict(&events, front)?;
        let mut mapper = Mapper::open(Arc::clone(&platform), Ledger::new())?;
        mapper.refuse_grants_of(bus.own());
        let registry = poll.registry();
        let register = system("epoll_ctl");
        registry
            .register(&mut events, EVENTS, Interest::READABLE)
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
        let mut bus = bus
            .start(client, Arc::clone(&platform), (&disk, mode))
            .map_err(system("starting xenstore's thread"))?;
        registry
            .register(&mut bus, XENSTORE, Interest::READABLE)
            .map_err(&register)?;
        let store = (disk.backing().clone(), disk.store().clone(), pool);
        Ok(Backend {
            data: DataPath::new(
                machine,
                (Tell::new(observer), lender),
                front,
                mapper.clone(),
                store,
            ),
            poll,
            happened: mio::Events::with_capacity(8),
            _waker: waker,
            platform,
            events,
            mapper,
            front,
            bus,
            link: None,
            record: Some(record),
            left: Vec::new(),
            serving: false,
            read_only: false,
            mode,
            stop: config.stop,
            close: config.close,
            hand_over: config.hand_over,
            handing_over_until: None,
            draining_until: None,
            freeing: false,
            explain_at: None,
            explained: false,
            failed: false,
            stopping: false,
            give_up_at: None,
            over: false,
            spin: Spin::new(config.spin),
            storm: Storm::default(),
            masked: false,
            notified: false,
            pressed: false,
            ports: Vec::new(),
            _claim: claim,
        })
    }

    /// What is mapped and unmapping: a handle that stays good while the back end runs.
    pub fn ledger(&self) -> &Ledger {
        self.mapper.ledger()
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
        self.cut_link();
        self.data.finish(END_OF_DISK);
        result
    }

    fn serve(&mut self) -> Result<(), BackError> {
        let mut busy_turns = 0;
        loop {
            if self.stop.is_asked() && !self.stopping {
                self.begin_to_stop();
            }
            self.proceed_with_closing();
            self.mind_the_time();
            if self.over || self.has_handed_over() {
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
            self.obey_xenstore()?;
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
    pub(crate) fn nap(&mut self, timeout: Duration) -> std::io::Result<()> {
        self.poll(Some(timeout))?;
        self.take_releases();
        Ok(())
    }

    /// A bounded piece of the data path's work. True if there was any.
    fn turn(&mut self) -> Result<bool, BackError> {
        let Some(link) = &mut self.link else {
            return Ok(self.data.disk_completions(&mut Nobody));
        };
        let mut any = self.data.disk_completions(link);
        let mut broken = None;
        let takes = self.serving && self.handing_over_until.is_none();
        for _ in 0..TURN {
            if !takes || !self.data.machine.can_take() {
                break;
            }
            match link.pop() {
                Ok(Some(request)) => self.data.feed(Input::Request(request), link),
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            any = true;
        }
        if any && self.data.awaits_release() {
            // Most unmaps are over at once, and their event is there already.
            self.data.releases(link);
        }
        link.publish();
        if std::mem::take(&mut self.notified) {
            if any {
                self.storm.worked()
            } else {
                self.storm.in_vain(Instant::now())
            }
        }
        self.tell_back_pressure();
        if let Some(error) = broken {
            self.fatal(error.to_string());
            return Ok(true);
        }
        Ok(any)
    }

    fn tell_back_pressure(&mut self) {
        let machine = &self.data.machine;
        let zombies = machine.zombies();
        let pressed = self.draining_until.is_none() && machine.is_pressed();
        if pressed != std::mem::replace(&mut self.pressed, pressed) {
            self.data.tell.tell_each(|| BackEventKind::BackPressure {
                on: pressed,
                zombies,
            });
        }
    }

    /// Polls for a short while. True if that brought work.
    fn spin(&mut self) -> Result<bool, BackError> {
        const HINTS: u32 = 16;
        let budget = self.spin.budget();
        if !self.serving || budget.is_zero() || !self.data.machine.can_take() {
            return Ok(false);
        }
        let until = Instant::now() + budget;
        while Instant::now() < until {
            for _ in 0..HINTS {
                std::hint::spin_loop();
            }
            if self.turn()? {
                self.spin.paid();
                return Ok(true);
            }
        }
        self.spin.wasted();
        Ok(false)
    }

    /// Tries again what is due of what the devices refused. Returns when to come back.
    fn retry(&mut self) -> Option<Duration> {
        if !self.data.has_to_retry() {
            return None;
        }
        let Some(link) = &mut self.link else {
            return self.data.retry(&mut Nobody);
        };
        let pause = self.data.retry(link);
        link.publish();
        pause
    }

    /// Arms what must wake us.
    fn before_sleep(&mut self) -> Result<Sleep, BackError> {
        let now = Instant::now();
        let mut timeout = None;
        let sooner = |timeout: &mut Option<Duration>, other: Duration| {
            *timeout = Some(timeout.map_or(other, |t| t.min(other)));
        };
        if let Some(pause) = self.retry() {
            sooner(&mut timeout, pause);
        }
        for deadline in [
            self.draining_until,
            self.handing_over_until,
            self.give_up_at,
            self.explain_at.filter(|_| !self.explained),
        ]
        .into_iter()
        .flatten()
        {
            sooner(&mut timeout, deadline.saturating_duration_since(now));
        }
        let Some(link) = &mut self.link else {
            return Ok(Sleep::AtMost(timeout));
        };
        // Under back-pressure the ring does not matter: a release or the disk wakes us.
        if self.serving && self.handing_over_until.is_none() && self.data.machine.can_take() {
            match link.final_check() {
                Ok(false) => {}
                Ok(true) => return Ok(Sleep::NotYet),
                Err(error) => {
                    self.fatal(error.to_string());
                    return Ok(Sleep::NotYet);
                }
            }
        }
        if self.masked {
            match self.storm.pause(now) {
                Some(pause) => sooner(&mut timeout, pause),
                None => {
                    self.masked = false;
                    self.events.unmask(&[link.channel().port()])?;
                }
            }
        }
        Ok(Sleep::AtMost(timeout))
    }

    fn take_events(&mut self) -> Result<(), BackError> {
        loop {
            self.ports.clear();
            match self.events.read(&mut self.ports) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.errno() == Some(Errno::FBIG) => self.events.reset()?,
                Err(error) => return Err(error.into()),
            }
            let Some(link) = &self.link else { continue };
            // After an overflow nobody knows which ports came: ours may have.
            if self.ports.is_empty() || self.ports.contains(&link.channel().port()) {
                (self.masked, self.notified) = (true, true);
                if !link.front_is_alive() {
                    self.front_died(DIED);
                }
            }
        }
    }

    fn take_releases(&mut self) {
        match &mut self.link {
            Some(link) => {
                self.data.releases(link);
                link.publish();
            }
            None => {
                self.data.releases(&mut Nobody);
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
