//! How a front end gets a back end, loses it, and closes.

use super::{Frontend, Service, State};
use crate::agent::{DeviceError, DiskInfo};
use crate::bus::{BusEvent, name};
use crate::error::FrontError;
use crate::live::Live;
use crate::observe::FrontEventKind;
use libgnt::DomId;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How often to see whether there is room for a ring by now.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// A back end that waits for a ring.
#[derive(Debug)]
pub(super) struct Wanted {
    back: DomId,
    pub(super) not_before: Instant,
    /// It was told that there is no room.
    told: bool,
}

impl Frontend {
    /// Does what xenstore's news ask for, until there are no more.
    pub(super) fn settle_bus(&mut self) -> Result<(), FrontError> {
        loop {
            while let Some(event) = self.bus.next_event()? {
                self.on_bus(event)?;
            }
            if self.service != Service::Draining || self.path.agent().in_flight() > 0 {
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
                    not_before: now + self.pace.pause(),
                    told: false,
                });
                self.share(now)?;
            }
            BusEvent::Connected {
                disk,
                handle,
                liveness,
            } => {
                let Some(live) = &mut self.live else {
                    return Ok(());
                };
                if liveness {
                    live.watch_back();
                }
                let again = self.connections > 0;
                self.connections += 1;
                self.pace.connected(Instant::now());
                live.agree(disk.persistent);
                let disk = DiskInfo {
                    persistent: live.persistent,
                    ..disk
                };
                self.disk = Some(disk);
                self.state = State::Connected;
                self.service = Service::Running;
                self.path.tell.tell(|| connected(live, again));
                self.path.connected(live, disk, handle);
            }
            BusEvent::Resized { sectors } => {
                if let Some(disk) = &mut self.disk {
                    let from = std::mem::replace(&mut disk.sectors, sectors);
                    let device = name(self.config.device);
                    tracing::info!(device, from, to = sectors, "the disk has another size");
                    let to = sectors;
                    self.path.tell.tell(|| FrontEventKind::Resized { from, to });
                    self.path.resized(sectors);
                }
            }
            BusEvent::Stop { why, drain } => self.stop(why, drain)?,
            BusEvent::Free => {
                self.service = Service::Stopped;
                self.path.backend_gone();
                if let Some(live) = self.live.take() {
                    self.retire(live);
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
                    self.path
                        .tell
                        .tell(|| FrontEventKind::Failed { why: why.clone() });
                    self.path.give_up(DeviceError::Gone(why));
                }
            }
        }
        Ok(())
    }

    /// The back end's mapping of the ring is gone: its process died, whatever xenstore says. Another
    /// one may take the ring over as it is, so it is kept, with all that is on it; if that one cannot,
    /// xenstore will say so.
    pub(super) fn peer_died(&mut self) -> Result<(), FrontError> {
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
                self.path.backend_gone();
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
    pub(super) fn foreign_answers(&mut self) -> u32 {
        if let State::Waiting { since, .. } = &mut self.state {
            *since = Instant::now();
        }
        self.foreign_answers += 1;
        self.foreign_answers
    }

    /// Somebody works on the ring again.
    pub(super) fn taken_over(&mut self) {
        self.silent = false;
        self.foreign_answers = 0;
        let Some(live) = &mut self.live else { return };
        live.watch_back();
        self.state = State::Connected;
        let device = name(self.config.device);
        tracing::info!(device, "another back end has taken the ring over");
        self.path.tell.tell(|| connected(live, true));
    }

    fn tell_gone(&mut self, why: &str) {
        let unanswered = self.path.agent().in_flight();
        let device = name(self.config.device);
        tracing::warn!(device, unanswered, why, "back end gone");
        self.path.tell.tell(|| FrontEventKind::BackendGone {
            why: why.into(),
            unanswered,
        });
    }

    /// The connection ends. What was answered counts; the rest waits for another back end.
    fn stop(&mut self, why: String, drain: bool) -> Result<(), FrontError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        self.path.pop(live);
        let dead = !live.back_alive();
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
            self.path.backend_gone();
        }
        if matches!(self.state, State::Connected) {
            self.state = State::Waiting {
                since: Instant::now(),
                why,
            };
        }
        match self.path.take_fatal() {
            Some(error) => self.fail(&DeviceError::Protocol(error)),
            None => Ok(()),
        }
    }

    /// Grants a fresh ring to a back end that waits for one, when it is time. There may be no room
    /// for one: then again later, until `reconnect` is over.
    pub(super) fn share(&mut self, now: Instant) -> Result<(), FrontError> {
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
        match Live::prepare(config, granter, &self.events, wanted.back, room) {
            Ok(live) => {
                self.wanted = None;
                self.bus.ring_ready(&live);
                self.live = Some(live);
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
    pub(super) fn make_no_ring(&mut self, why: &str) {
        if self.wanted.take().is_some() {
            self.bus.ring_failed(why.into());
        }
    }

    fn no_room(&mut self, reason: String, now: Instant) {
        if let Some(wanted) = &mut self.wanted {
            wanted.not_before = now + ROOM_LOOK;
            if !std::mem::replace(&mut wanted.told, true) {
                tracing::warn!(device = name(self.config.device), reason, "no ring");
                self.path.tell.tell(|| FrontEventKind::NoRoom {
                    why: reason.clone(),
                });
            }
        }
        if let State::Waiting { why, .. } = &mut self.state {
            *why = reason;
        }
    }

    /// Ends an old connection's grants. What its back end still maps is set aside, never reused.
    fn retire(&mut self, live: Live) {
        let left = live.end();
        if !left.is_empty() {
            self.path.tell.tell(|| {
                let grants = left.iter().flat_map(|share| share.grefs().iter().copied());
                FrontEventKind::StillInUse {
                    grants: grants.collect(),
                }
            });
            self.set_aside.add(left);
        }
        self.pace.ended(Instant::now());
        self.ports.clear();
        self.unmask_at = None;
    }

    /// The device is over, for a reason that goes to xenstore's `error` node.
    pub(super) fn fail(&mut self, error: &DeviceError) -> Result<(), FrontError> {
        tracing::error!(device = name(self.config.device), %error, "device failed");
        self.path.tell.tell(|| FrontEventKind::Failed {
            why: error.to_string(),
        });
        self.path.give_up(error.clone());
        self.state = State::Closed;
        self.service = Service::Stopped;
        self.make_no_ring(&error.to_string());
        self.bus.fail(error.to_string());
        Ok(())
    }
}

/// The news that a back end works on a ring.
fn connected(live: &Live, again: bool) -> FrontEventKind {
    FrontEventKind::Connected {
        back: live.back,
        ring: live.ring_grant(),
        pages: live.pool.pages(),
        persistent: live.persistent,
        again,
    }
}
