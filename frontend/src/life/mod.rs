//! How connections begin and end: a front end gets a back end, loses it, and fails.

mod set_aside;

pub(crate) use set_aside::SetAside;

use crate::bus::{Bus, BusEvent};
use crate::config::{FrontConfig, name};
use crate::data::DataPath;
use crate::error::FrontError;
use crate::link::{Bell, Link};
use crate::machine::{DeviceError, DiskInfo};
use crate::observe::FrontEventKind;
use crate::pace::Rings;
use libgnt::DomId;
use libgnt::grant::Granter;
use libgnt::proto::blkif::nodes::BackNodes;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How often to see whether there is room for a ring by now.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// What the ring is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Requests and responses.
    Running,
    /// Responses only: the device is being closed in order.
    Draining,
    /// Nothing: not connected yet, or not any more.
    Stopped,
}

#[derive(Debug)]
pub(crate) enum State {
    /// No back end is connected, or the one that was is gone.
    Waiting {
        since: Instant,
        why: String,
    },
    Connected,
    Closed,
}

/// A back end that waits for a ring.
#[derive(Debug)]
pub(crate) struct Wanted {
    back: DomId,
    pub(crate) not_before: Instant,
    /// It was told that there is no room.
    told: bool,
}

/// The device with all its connections, one after the other.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    // Fields drop in this order: grants before the events that their end may send.
    pub(crate) link: Option<Link>,
    pub(crate) set_aside: SetAside,
    granter: Granter,
    pub(crate) data: DataPath,
    pub(crate) bus: Bus,
    pub(crate) bell: Bell,
    pub(crate) state: State,
    pub(crate) service: Service,
    /// The back end's process died with the ring in service: another one may take it over.
    pub(crate) silent: bool,
    /// Since then.
    foreign_answers: u32,
    pub(crate) disk: Option<DiskInfo>,
    /// A back end waits for a ring that could not be granted yet.
    pub(crate) wanted: Option<Wanted>,
    rings: Rings,
    connections: u64,
    pub(crate) config: FrontConfig,
}

impl Lifecycle {
    /// No back end yet.
    pub(crate) fn new(
        config: FrontConfig,
        granter: Granter,
        data: DataPath,
        bus: Bus,
        bell: Bell,
    ) -> Self {
        Lifecycle {
            link: None,
            set_aside: SetAside::new(config.pool_pages.saturating_add(1)),
            granter,
            data,
            bus,
            bell,
            state: State::Waiting {
                since: Instant::now(),
                why: "it has not connected yet".into(),
            },
            service: Service::Stopped,
            silent: false,
            foreign_answers: 0,
            disk: None,
            wanted: None,
            rings: Rings::new(config.reconnect),
            connections: 0,
            config,
        }
    }

    /// Does what xenstore's news ask for, until there are no more.
    pub(crate) fn settle_bus(&mut self) -> Result<(), FrontError> {
        loop {
            while let Some(event) = self.bus.next_news()? {
                self.on_bus(event)?;
            }
            if self.service != Service::Draining || self.data.machine().in_flight() > 0 {
                return Ok(());
            }
            self.service = Service::Stopped;
            self.bus.quiet();
        }
    }

    fn on_bus(&mut self, event: BusEvent) -> Result<(), FrontError> {
        match event {
            BusEvent::Share { back } => {
                let now = Instant::now();
                self.wanted = Some(Wanted {
                    back,
                    not_before: now + self.rings.pause(),
                    told: false,
                });
                self.share(now)?;
            }
            BusEvent::Connected(BackNodes { disk, liveness, .. }) => {
                let Some(link) = &mut self.link else {
                    return Ok(());
                };
                if liveness {
                    link.watch_back();
                }
                let again = self.connections > 0;
                self.connections += 1;
                self.rings.connected(Instant::now());
                link.agree(disk.persistent);
                let disk = DiskInfo {
                    persistent: link.persistent,
                    ..disk
                };
                self.disk = Some(disk);
                self.state = State::Connected;
                self.service = Service::Running;
                self.data.tell.tell(|| connected(link, again));
                // The slot's field has 16 bits, as Linux's `blkif_vdev_t`.
                let handle = self.config.device.0 as u16;
                self.data.connected(link, disk, handle);
            }
            BusEvent::Changed(sectors) => {
                if let Some(disk) = &mut self.disk {
                    let from = std::mem::replace(&mut disk.sectors, sectors);
                    let device = name(self.config.device);
                    tracing::info!(device, from, to = sectors, "the disk has another size");
                    let to = sectors;
                    self.data.tell.tell(|| FrontEventKind::Resized { from, to });
                    self.data.resized(sectors);
                }
            }
            BusEvent::Stop { why, drain } => self.stop(why, drain)?,
            BusEvent::Free => {
                self.service = Service::Stopped;
                self.data.back_gone();
                if let Some(link) = self.link.take() {
                    self.retire(link);
                }
                self.bus.freed();
            }
            BusEvent::Taken(driver) => {
                self.wanted = None;
                return Err(driver.into());
            }
            BusEvent::Removed { why } => {
                self.wanted = None;
                if !matches!(self.state, State::Closed) {
                    self.state = State::Closed;
                    self.data
                        .tell
                        .tell(|| FrontEventKind::Failed { why: why.clone() });
                    self.data.give_up(DeviceError::Gone(why));
                }
            }
        }
        Ok(())
    }

    /// The back end's mapping of the ring is gone: its process died, whatever xenstore says. Another
    /// one may take the ring over as it is, so it is kept, with all that is on it; if that one cannot,
    /// xenstore will say so.
    pub(crate) fn peer_died(&mut self) -> Result<(), FrontError> {
        match self.service {
            Service::Running => {
                self.silent = true;
                self.foreign_answers = 0;
                let why = "its process died";
                self.tell_gone(why);
                self.state = State::Waiting {
                    since: Instant::now(),
                    why: why.into(),
                };
                Ok(())
            }
            // No answer will come.
            Service::Draining => {
                self.service = Service::Stopped;
                self.data.back_gone();
                self.bus.peer_died();
                self.settle_bus()
            }
            Service::Stopped => {
                self.bus.peer_died();
                self.settle_bus()
            }
        }
    }

    /// Answers have come from somebody who keeps no liveness byte. So many times in a row; the wait
    /// for another back end begins anew.
    pub(crate) fn foreign_answers(&mut self) -> u32 {
        if let State::Waiting { since, .. } = &mut self.state {
            *since = Instant::now();
        }
        self.foreign_answers += 1;
        self.foreign_answers
    }

    /// Somebody works on the ring again.
    pub(crate) fn taken_over(&mut self) {
        self.silent = false;
        self.foreign_answers = 0;
        let Some(link) = &mut self.link else { return };
        link.watch_back();
        self.state = State::Connected;
        let device = name(self.config.device);
        tracing::info!(device, "another back end has taken the ring over");
        self.data.tell.tell(|| connected(link, true));
    }

    fn tell_gone(&mut self, why: &str) {
        let unanswered = self.data.machine().in_flight();
        let device = name(self.config.device);
        tracing::warn!(device, unanswered, why, "back end gone");
        self.data.tell.tell(|| FrontEventKind::BackendGone {
            why: why.into(),
            unanswered,
        });
    }

    /// The connection ends. What was answered counts; the rest waits for another back end.
    fn stop(&mut self, why: String, drain: bool) -> Result<(), FrontError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        self.data.pop(link);
        let dead = !link.back_alive();
        if drain {
            self.service = Service::Draining;
            if dead {
                self.silent = false;
                return self.peer_died();
            }
        } else {
            self.service = Service::Stopped;
            if !std::mem::take(&mut self.silent) {
                self.tell_gone(&why);
            }
            self.data.back_gone();
        }
        if matches!(self.state, State::Connected) {
            self.state = State::Waiting {
                since: Instant::now(),
                why,
            };
        }
        match self.data.take_fatal() {
            Some(error) => self.fail(&DeviceError::Protocol(error)),
            None => Ok(()),
        }
    }

    /// Grants a fresh ring to a back end that waits for one, when it is time. There may be no room
    /// for one: then again later, until `reconnect` is over.
    pub(crate) fn share(&mut self, now: Instant) -> Result<(), FrontError> {
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        if now < wanted.not_before {
            return Ok(());
        }
        let room = match self.set_aside.room() {
            Ok(room) => room,
            Err(why) => {
                self.no_room(why, now);
                return Ok(());
            }
        };
        let (config, granter) = (&self.config, &self.granter);
        match Link::prepare(config, granter, &self.bell, wanted.back, room) {
            Ok(link) => {
                self.wanted = None;
                self.bus.ring_ready(link.nodes().write());
                self.link = Some(link);
            }
            Err(error) if matches!(error.errno(), Some(Errno::NOSPC | Errno::NOMEM)) => {
                self.no_room(format!("no room for a new ring: {error}"), now);
            }
            Err(error) => {
                self.wanted = None;
                self.bus.ring_failed(error.to_string());
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// No back end gets a ring any more: the handshake goes on only when one that waits knows.
    pub(crate) fn make_no_ring(&mut self, why: &str) {
        if self.wanted.take().is_some() {
            self.bus.ring_failed(why.into());
        }
    }

    fn no_room(&mut self, reason: String, now: Instant) {
        if let Some(wanted) = &mut self.wanted {
            wanted.not_before = now + ROOM_LOOK;
            if !std::mem::replace(&mut wanted.told, true) {
                tracing::warn!(device = name(self.config.device), reason, "no ring");
                self.data.tell.tell(|| FrontEventKind::NoRoom {
                    why: reason.clone(),
                });
            }
        }
        if let State::Waiting { why, .. } = &mut self.state {
            *why = reason;
        }
    }

    /// Ends an old connection's grants. What its back end still maps is set aside, never reused.
    fn retire(&mut self, link: Link) {
        let left = link.end();
        if !left.is_empty() {
            self.data.tell.tell(|| {
                let grants = left.iter().flat_map(|share| share.grefs().iter().copied());
                FrontEventKind::StillInUse {
                    grants: grants.collect(),
                }
            });
            self.set_aside.add(left);
        }
        self.rings.ended(Instant::now());
        self.bell.forget();
    }

    /// The device is over, for a reason that goes to xenstore's `error` node.
    pub(crate) fn fail(&mut self, error: &DeviceError) -> Result<(), FrontError> {
        tracing::error!(device = name(self.config.device), %error, "device failed");
        self.data.tell.tell(|| FrontEventKind::Failed {
            why: error.to_string(),
        });
        self.data.give_up(error.clone());
        self.state = State::Closed;
        self.service = Service::Stopped;
        self.make_no_ring(&error.to_string());
        self.bus.fail(error.to_string());
        Ok(())
    }
}

/// The news that a back end works on a ring.
fn connected(link: &Link, again: bool) -> FrontEventKind {
    FrontEventKind::Connected {
        back: link.back,
        ring: link.ring_grant(),
        pages: link.pool.pages(),
        persistent: link.persistent,
        again,
    }
}
