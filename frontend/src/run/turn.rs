//! A round of work: requests and responses, events, sleep, and everything else now and then.

use super::{EVENTS, Frontend, WAKER};
use crate::config::name;
use crate::error::{FrontError, system};
use crate::life::{Service, State};
use crate::machine::DeviceError;
use crate::observe::FrontEventKind;
use std::time::{Duration, Instant};

/// While the data path never sleeps, the rest is looked at this often.
const HOUSEKEEPING: Duration = Duration::from_millis(5);
/// A back end that answers so often, and never sets its liveness byte, does not know of it. Less may
/// come from one that took the ring over and died at once.
const ANSWERS_OF_A_STRANGER: u32 = 16;

impl Frontend {
    /// One round of work; sleeps, at most until `until`, only if there was none.
    pub(super) fn round(&mut self, until: Option<Instant>) -> Result<(), FrontError> {
        if self.life.config.stop.is_asked() {
            self.life.data.give_up(DeviceError::Closed);
        }
        if self.turn()? {
            return Ok(());
        }
        let now = Instant::now();
        if now >= self.next_housekeeping {
            self.housekeeping(now)?;
            if self.life.data.has_completions() {
                return Ok(());
            }
        }
        if self.spin() {
            self.end_if_broken()?;
            return Ok(());
        }
        self.unmask(Instant::now())?;
        if let Some(link) = &mut self.life.link
            && self.life.service != Service::Stopped
            // An error shows again in the next `pop`, which handles it.
            && !matches!(link.ring.final_check(), Ok(false))
        {
            return Ok(());
        }
        self.sleep(until)
    }

    /// Pushes, pops, and looks whether the back end lives. True if there was something to do.
    fn turn(&mut self) -> Result<bool, FrontError> {
        let Some(link) = &mut self.life.link else {
            return Ok(false);
        };
        if self.life.service == Service::Stopped {
            return Ok(false);
        }
        if self.life.service == Service::Running {
            self.life.data.push(link);
        }
        let mut popped = self.life.data.pop(link);
        let dies = !self.life.silent && !link.back_alive();
        if dies && popped == 0 {
            // What it answered before it died is there by now; whatever comes later is another's.
            popped = self.life.data.pop(link);
        }
        let taken_over = self.life.silent
            && (link.back_alive()
                || (popped > 0 && self.life.foreign_answers() > ANSWERS_OF_A_STRANGER));
        if self.end_if_broken()? {
            return Ok(true);
        }
        if taken_over {
            self.life.taken_over();
        }
        if popped > 0 {
            self.life.bell.worked();
            if self.life.service == Service::Draining {
                self.life.settle_bus()?;
            }
        } else if dies {
            self.life.peer_died()?;
        }
        Ok(popped > 0 || dies)
    }

    /// True if the back end has broken the protocol: the device is over.
    fn end_if_broken(&mut self) -> Result<bool, FrontError> {
        let Some(error) = self.life.data.take_fatal() else {
            return Ok(false);
        };
        self.life.fail(&DeviceError::Protocol(error))?;
        Ok(true)
    }

    /// Its process's death is a better reason than what xenstore says of the next one, so it is
    /// looked at before that.
    fn look_at_back_end(&mut self) -> Result<(), FrontError> {
        if let Some(link) = &mut self.life.link
            && self.life.service != Service::Stopped
            && !self.life.silent
            && !link.back_alive()
            && self.life.data.pop(link) == 0
        {
            self.life.peer_died()?;
        }
        Ok(())
    }

    /// Waits busily for a response, for as long as the last waits say that it may pay.
    fn spin(&mut self) -> bool {
        let Some(link) = &mut self.life.link else {
            return false;
        };
        if self.life.data.machine().in_flight() == 0 || self.life.config.spin.is_zero() {
            return false;
        }
        let began = Instant::now();
        while began.elapsed() < self.spin.budget() {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            if self.life.data.pop(link) > 0 {
                self.life.data.counters.spins += 1;
                self.life.bell.worked();
                return true;
            }
        }
        false
    }

    /// Lets events come again, after the work.
    pub(super) fn unmask(&mut self, now: Instant) -> Result<(), FrontError> {
        let life = &mut self.life;
        Ok(life.bell.unmask(now, &mut life.data.counters)?)
    }

    fn sleep(&mut self, until: Option<Instant>) -> Result<(), FrontError> {
        let now = Instant::now();
        let mut wake = until;
        let mut sooner = |at: Instant| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        if let Some(unmask) = self.life.bell.masked_until() {
            sooner(unmask);
        }
        if let Some(left) = self.life.data.tick() {
            sooner(now + left);
        }
        if let State::Waiting { since, .. } = &self.life.state {
            sooner(*since + self.life.config.reconnect);
        }
        if let Some(wanted) = &self.life.wanted {
            sooner(wanted.not_before);
        }
        if let Some(look) = self.life.set_aside.next_look() {
            sooner(look);
        }
        if self.life.data.has_completions() {
            return Ok(());
        }
        let timeout = wake.map(|wake| wake.saturating_duration_since(now));
        self.life.data.counters.polls += 1;
        match self.poll.poll(&mut self.happened, timeout) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                // A signal is somebody's news: let the caller look.
                self.woken = true;
                return Ok(());
            }
            other => other.map_err(system("epoll"))?,
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
        if self.life.data.machine().in_flight() > 0 {
            self.spin.slept(now.elapsed(), read);
        }
        if read {
            self.take_events()?;
            self.life.bell.rang();
        }
        if housekeeping {
            self.housekeeping(Instant::now())?;
        }
        Ok(())
    }

    /// Reads which ports' events came; they are masked now.
    pub(super) fn take_events(&mut self) -> Result<(), FrontError> {
        let life = &mut self.life;
        let ours = life.link.as_ref().map(|link| link.channel.port());
        Ok(life.bell.take(ours, &mut life.data.counters)?)
    }

    /// Everything but data: xenstore, deadlines, what was set aside.
    fn housekeeping(&mut self, now: Instant) -> Result<(), FrontError> {
        self.next_housekeeping = now + HOUSEKEEPING;
        self.life.data.tick();
        for grants in self.life.set_aside.look(now) {
            self.life
                .data
                .tell
                .tell(|| FrontEventKind::LetGo { grants });
        }
        self.life.share(now)?;
        self.look_at_back_end()?;
        self.life.settle_bus()?;
        if let State::Waiting { since, why } = &self.life.state
            && now.saturating_duration_since(*since) >= self.life.config.reconnect
        {
            let error = DeviceError::Gone(format!(
                "no back end for {} within {:?}: {why}; {}",
                name(self.life.config.device),
                self.life.config.reconnect,
                self.life.bus.situation(),
            ));
            self.life.fail(&error)?;
        }
        Ok(())
    }
}
