//! How a front end gets a back end, loses it, and closes.

use super::{Frontend, Service, State};
use crate::agent::{DeviceError, DiskInfo};
use crate::bus::{BusEvent, name};
use crate::error::FrontError;
use crate::live::Live;
use crate::observe::FrontEventKind;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long the first connection waits for somebody else's quota to come free.
const QUOTA_PATIENCE: Duration = Duration::from_secs(3);

impl Frontend {
    /// Does what xenstore's news ask for, until there are no more.
    pub(super) fn settle_bus(&mut self) -> Result<(), FrontError> {
        loop {
            while let Some(event) = self.bus.next_event() {
                self.on_bus(event)?;
            }
            if self.service != Service::Draining || self.path.agent().in_flight() > 0 {
                return Ok(());
            }
            self.service = Service::Stopped;
            self.bus.quiet()?;
        }
    }

    fn on_bus(&mut self, event: BusEvent) -> Result<(), FrontError> {
        match event {
            BusEvent::Share { back } => {
                self.wanted = Some(back);
                self.share()?;
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
                live.agree(disk.persistent);
                let disk = DiskInfo {
                    persistent: live.persistent,
                    ..disk
                };
                self.disk = Some(disk);
                self.state = State::Connected;
                self.service = Service::Running;
                let (back, ring) = (live.back, live.ring_grant());
                let (pages, persistent) = (live.pool.pages(), live.persistent);
                self.path.tell.tell(|| FrontEventKind::Connected {
                    back,
                    ring,
                    pages,
                    persistent,
                    again,
                });
                self.path.connected(live, disk, handle);
            }
            BusEvent::Stop { why, drain } => self.stop(why, drain)?,
            BusEvent::Free => {
                self.service = Service::Stopped;
                self.path.backend_gone();
                if let Some(live) = self.live.take() {
                    self.retire(live);
                }
                self.bus.freed()?;
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

    /// The back end's mapping of the ring is gone: its process died, whatever xenstore says.
    pub(super) fn peer_died(&mut self) -> Result<(), FrontError> {
        if self.service == Service::Draining {
            // No answer will come.
            self.service = Service::Stopped;
            self.path.backend_gone();
        }
        self.bus.peer_died()?;
        self.settle_bus()
    }

    /// The connection ends. What was answered counts; the rest waits for another back end.
    fn stop(&mut self, why: String, drain: bool) -> Result<(), FrontError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        self.path.pop(live);
        if drain {
            self.service = Service::Draining;
        } else {
            self.service = Service::Stopped;
            let unanswered = self.path.agent().in_flight();
            let device = name(self.config.device);
            tracing::warn!(device, unanswered, why, "back end gone");
            self.path.tell.tell(|| FrontEventKind::BackendGone {
                why: why.clone(),
                unanswered,
            });
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

    /// Grants a fresh ring to a back end that waits for one. What an old back end still holds may
    /// use up the quota: then again later, until `reconnect` is over.
    pub(super) fn share(&mut self) -> Result<(), FrontError> {
        let Some(back) = self.wanted else {
            return Ok(());
        };
        let patience = if self.connections == 0 {
            QUOTA_PATIENCE
        } else {
            Duration::ZERO
        };
        let (config, granter) = (&self.config, &self.granter);
        match Live::prepare(config, granter, &self.events, back, patience) {
            Ok(live) => {
                self.wanted = None;
                self.bus.ring_ready(&live)?;
                self.live = Some(live);
            }
            Err(error) if error.errno() == Some(Errno::NOSPC) && self.connections > 0 => {
                if let State::Waiting { why, .. } = &mut self.state {
                    *why = format!("no room for a new ring: {error}");
                }
            }
            Err(error) => {
                self.wanted = None;
                self.bus.ring_failed(error.to_string())?;
                return Err(error.into());
            }
        }
        Ok(())
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
            self.set_aside.extend(left);
        }
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
        self.bus.fail(error.to_string())
    }

    /// Closes in order, or after a while without the back end.
    pub(super) fn close_bus(&mut self) -> Result<(), FrontError> {
        self.state = State::Closed;
        self.wanted = None;
        let began = Instant::now();
        let mut late = None;
        self.bus.close()?;
        loop {
            self.settle_bus()?;
            if self.bus.is_removed() {
                return late.map_or(Ok(()), Err);
            }
            if self.live.as_ref().is_some_and(|live| !live.back_alive()) {
                self.peer_died()?;
            }
            let left = self.config.close.saturating_sub(began.elapsed());
            if left.is_zero() {
                if late.is_some() {
                    return late.map_or(Ok(()), Err);
                }
                late = Some(FrontError::Timeout {
                    what: format!("close of {}", name(self.config.device)),
                    waited: began.elapsed(),
                    waits_for: self.bus.situation(),
                });
                self.bus.abandon()?;
                continue;
            }
            let wake = self.bus.next_deadline();
            let wake = wake.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = wake.map_or(left, |wake| wake.min(left));
            match self.poll.poll(&mut self.happened, Some(timeout)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => other.map_err(|e| FrontError::System("epoll", e))?,
            }
            self.bus.service()?;
        }
    }
}
