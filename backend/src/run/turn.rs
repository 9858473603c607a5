//! A turn of the loop: requests and responses, a short busy wait, and what must wake us from sleep.

use super::{Backend, Sleep};
use crate::error::BackError;
use crate::life::Lifecycle;
use crate::link::{DIED, Nobody};
use crate::machine::{Input, RING_SIZE};
use crate::observe::BackEventKind;
use std::time::{Duration, Instant};

/// Requests taken in one turn, before everything else gets its turn (XSA-391).
const TURN: usize = 2 * RING_SIZE;
impl Backend {
    /// A bounded piece of the data path's work. True if there was any.
    pub(super) fn turn(&mut self) -> Result<bool, BackError> {
        let life = &mut self.life;
        let takes = life.takes_requests();
        let Some(link) = &mut life.link else {
            return Ok(life.data.disk_completions(&mut Nobody));
        };
        let mut any = life.data.disk_completions(link);
        let mut broken = None;
        for _ in 0..TURN {
            if !takes || !life.data.machine.can_take() {
                break;
            }
            match link.pop() {
                Ok(Some(request)) => life.data.feed(Input::Request(request), link),
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            any = true;
        }
        if any && life.data.awaits_release() {
            // Most unmaps are over at once, and their event is there already.
            life.data.releases(link);
        }
        link.publish();
        life.bell.answered(any);
        self.tell_back_pressure();
        if let Some(error) = broken {
            self.life.fatal(error.to_string());
            return Ok(true);
        }
        Ok(any)
    }

    fn tell_back_pressure(&mut self) {
        let machine = &self.life.data.machine;
        let zombies = machine.zombies();
        let pressed = self.life.draining_until.is_none() && machine.is_pressed();
        if pressed != std::mem::replace(&mut self.pressed, pressed) {
            self.life
                .data
                .tell
                .tell_each(|| BackEventKind::BackPressure {
                    on: pressed,
                    zombies,
                });
        }
    }

    /// Polls for a short while. True if that brought work.
    pub(super) fn spin(&mut self) -> Result<bool, BackError> {
        const HINTS: u32 = 16;
        let budget = self.spin.budget();
        if !self.life.serving || budget.is_zero() || !self.life.data.machine.can_take() {
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
    pub(super) fn retry(&mut self) -> Option<Duration> {
        let Lifecycle { data, link, .. } = &mut self.life;
        if !data.has_to_retry() {
            return None;
        }
        let Some(link) = link else {
            return data.retry(&mut Nobody);
        };
        let pause = data.retry(link);
        link.publish();
        pause
    }

    /// Arms what must wake us.
    pub(super) fn before_sleep(&mut self) -> Result<Sleep, BackError> {
        let now = Instant::now();
        let mut timeout = None;
        let sooner = |timeout: &mut Option<Duration>, other: Duration| {
            *timeout = Some(timeout.map_or(other, |t| t.min(other)));
        };
        if let Some(pause) = self.retry() {
            sooner(&mut timeout, pause);
        }
        for deadline in self.life.deadlines() {
            sooner(&mut timeout, deadline.saturating_duration_since(now));
        }
        let takes = self.life.takes_requests() && self.life.data.machine.can_take();
        let Some(link) = &mut self.life.link else {
            return Ok(Sleep::AtMost(timeout));
        };
        // Under back-pressure the ring does not matter: a release or the disk wakes us.
        if takes {
            match link.final_check() {
                Ok(false) => {}
                Ok(true) => return Ok(Sleep::NotYet),
                Err(error) => {
                    self.life.fatal(error.to_string());
                    return Ok(Sleep::NotYet);
                }
            }
        }
        if let Some(pause) = self.life.bell.unmask(link.channel().port(), now)? {
            sooner(&mut timeout, pause);
        }
        Ok(Sleep::AtMost(timeout))
    }

    pub(super) fn take_events(&mut self) -> Result<(), BackError> {
        let Lifecycle { bell, link, .. } = &mut self.life;
        let port = link.as_ref().map(|link| link.channel().port());
        if bell.take(port)? && link.as_ref().is_some_and(|link| !link.front_is_alive()) {
            self.life.front_died(DIED);
        }
        Ok(())
    }

    pub(super) fn take_releases(&mut self) {
        let Lifecycle { data, link, .. } = &mut self.life;
        match link {
            Some(link) => {
                data.releases(link);
                link.publish();
            }
            None => {
                data.releases(&mut Nobody);
            }
        }
    }
}
