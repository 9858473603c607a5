//! A round of work: requests and responses, events, sleep, and everything else now and then.

use super::{EVENTS, Frontend, Service, State, WAKER};
use crate::agent::DeviceError;
use crate::bus::name;
use crate::error::FrontError;
use crate::observe::FrontEventKind;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// While the data path never sleeps, the rest is looked at this often.
const HOUSEKEEPING: Duration = Duration::from_millis(5);
/// The busy wait shrinks to this while it is in vain.
const SHORTEST_SPIN: Duration = Duration::from_micros(4);
/// So many wake-ups without a response in a row are a storm, not a coincidence.
const SPURIOUS_ALLOWED: u32 = 16;
/// A back end that answers so often, and never sets its liveness byte, does not know of it. Less may
/// come from one that took the ring over and died at once.
const ANSWERS_OF_A_STRANGER: u32 = 16;
/// How long a storm of events is ignored at most; responses may be late by this, never lost.
const LONGEST_MUTE: Duration = Duration::from_millis(50);

impl Frontend {
    /// One round of work; sleeps, at most until `until`, only if there was none.
    pub(super) fn round(&mut self, until: Option<Instant>) -> Result<(), FrontError> {
        if self.config.stop.is_asked() {
            self.path.give_up(DeviceError::Closed);
        }
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
            self.end_if_broken()?;
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
        let mut popped = self.path.pop(live);
        let dies = !self.silent && !live.back_alive();
        if dies && popped == 0 {
            // What it answered before it died is there by now; whatever comes later is another's.
            popped = self.path.pop(live);
        }
        let taken_over = self.silent
            && (live.back_alive()
                || (popped > 0 && self.foreign_answers() > ANSWERS_OF_A_STRANGER));
        if self.end_if_broken()? {
            return Ok(true);
        }
        if taken_over {
            self.taken_over();
        }
        if popped > 0 {
            self.spurious = 0;
            if self.service == Service::Draining {
                self.settle_bus()?;
            }
        } else if dies {
            self.peer_died()?;
        }
        Ok(popped > 0 || dies)
    }

    /// True if the back end has broken the protocol: the device is over.
    fn end_if_broken(&mut self) -> Result<bool, FrontError> {
        let Some(error) = self.path.take_fatal() else {
            return Ok(false);
        };
        self.fail(&DeviceError::Protocol(error))?;
        Ok(true)
    }

    /// Its process's death is a better reason than what xenstore says of the next one, so it is
    /// looked at before that.
    fn look_at_back_end(&mut self) -> Result<(), FrontError> {
        if let Some(live) = &mut self.live
            && self.service != Service::Stopped
            && !self.silent
            && !live.back_alive()
            && self.path.pop(live) == 0
        {
            self.peer_died()?;
        }
        Ok(())
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
    pub(super) fn unmask(&mut self, now: Instant) -> Result<(), FrontError> {
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
        if let Some(wanted) = &self.wanted {
            sooner(wanted.not_before);
        }
        if let Some(look) = self.set_aside.next_look() {
            sooner(look);
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
            self.take_events()?;
            self.spurious = self.spurious.saturating_add(1);
        }
        if housekeeping {
            self.housekeeping(Instant::now())?;
        }
        Ok(())
    }

    /// Reads which ports' events came; they are masked now.
    pub(super) fn take_events(&mut self) -> Result<(), FrontError> {
        loop {
            self.path.counters.event_reads += 1;
            match self.events.read(&mut self.ports) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.errno() == Some(Errno::FBIG) => {
                    tracing::warn!(%error, "events were lost: looking at the ring without one");
                    self.events.reset()?;
                    // Nobody knows which ports came, and those are masked: ours may be one.
                    self.ports
                        .extend(self.live.iter().map(|live| live.channel.port()));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Everything but data: xenstore, deadlines, what was set aside.
    fn housekeeping(&mut self, now: Instant) -> Result<(), FrontError> {
        self.next_housekeeping = now + HOUSEKEEPING;
        self.path.tick();
        for grants in self.set_aside.look(now) {
            self.path.tell.tell(|| FrontEventKind::LetGo { grants });
        }
        self.share(now)?;
        self.look_at_back_end()?;
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
}
