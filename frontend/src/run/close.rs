//! The end: in order if the back end and xenstore answer in time, and in time in any case.

use super::Frontend;
use crate::config::name;
use crate::counters::Counters;
use crate::error::{FrontError, system};
use crate::life::{Service, State};
use crate::machine::DeviceError;
use crate::observe::FrontEventKind;
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use pv_xenstore::toolstack::DeviceId;
use std::time::{Duration, Instant};

/// The back end is waited for until this part of the time is left, for the end without it.
const LAST_PART: u32 = 6;
/// Whoever waits for a close gives it so much longer than it was given.
const SLACK: Duration = Duration::from_millis(100);

/// A close on another thread.
pub(crate) type Closing = Receiver<Result<Counters, FrontError>>;

/// Waits for a close that is to be over at `until`. What it hangs on then (xenstored, the kernel)
/// may hang for long: it is left to its thread, which ends when that answers.
///
/// # Errors
/// The close's; [`FrontError::Timeout`].
pub(crate) fn wait(
    closing: &Closing,
    device: DeviceId,
    until: Instant,
) -> Result<Counters, FrontError> {
    let began = Instant::now();
    let patience = until.saturating_duration_since(began) + SLACK;
    match closing.recv_timeout(patience) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(FrontError::Timeout {
            what: format!("close of {}", name(device)),
            waited: began.elapsed(),
            waits_for: "xenstored or the kernel does not answer the front end; what is left ends \
                        with this process at the latest"
                .into(),
        }),
        Err(RecvTimeoutError::Disconnected) => Err(FrontError::ThreadGone("it panicked".into())),
    }
}

impl Frontend {
    /// Closes the device, in `config.close` at most: waits for nothing that is pending, but for the
    /// back end to let go.
    ///
    /// # Errors
    /// The back end did not close in time, or xenstore does not answer: what is left ends with
    /// this process.
    pub fn close(self) -> Result<Counters, FrontError> {
        let (device, until) = (self.life.config.device, Instant::now() + self.close_time());
        let (sender, closing) = bounded(1);
        std::thread::Builder::new()
            .name(format!("close {}", name(device)))
            .spawn(move || sender.send(self.close_by(until)))
            .map_err(system("thread for the close"))?;
        wait(&closing, device, until)
    }

    /// The same on this thread, which is held up by what does not answer.
    pub(crate) fn close_by(mut self, until: Instant) -> Result<Counters, FrontError> {
        self.give_up();
        self.close_bus(until)?;
        self.life.data.tell.tell(|| FrontEventKind::Closed);
        Ok(self.life.data.counters)
    }

    /// Ends every I/O that is pending. Their completions are there to be taken.
    pub(crate) fn give_up(&mut self) {
        self.life.data.give_up(DeviceError::Closed);
    }

    pub(crate) fn is_stop_asked(&self) -> bool {
        self.life.config.stop.is_asked()
    }

    /// How long a close may take.
    pub(crate) fn close_time(&self) -> Duration {
        self.life.config.stop.at_most(self.life.config.close)
    }

    /// What a close says that did not wait for so many I/Os.
    pub(crate) fn unfinished(&self, ios: usize) -> FrontError {
        FrontError::Timeout {
            what: format!("close of {}", name(self.life.config.device)),
            waited: self.close_time() / 2,
            waits_for: format!(
                "I/Os that were under way and ended with an error: {ios}; {}",
                self.life.bus.situation()
            ),
        }
    }

    /// Closes in order, or without the back end when `until` has come.
    fn close_bus(&mut self, until: Instant) -> Result<(), FrontError> {
        self.life.state = State::Closed;
        let began = Instant::now();
        let patience = until - self.close_time() / LAST_PART;
        self.life.make_no_ring("the device is being closed");
        let mut dead = self.tell_of_death()?;
        self.life.bus.close(until);
        let mut late = None;
        loop {
            dead = dead || self.tell_of_death()?;
            self.life.settle_bus()?;
            if self.life.bus.is_removed() {
                return late.map_or(Ok(()), Err);
            }
            self.unmask(Instant::now())?;
            let now = Instant::now();
            if now >= patience && late.is_none() {
                late = Some(FrontError::Timeout {
                    what: format!("close of {}", name(self.life.config.device)),
                    waited: began.elapsed(),
                    waits_for: self.life.bus.situation(),
                });
                self.life.bus.abandon();
            }
            let wake = if late.is_none() { patience } else { until };
            let left = wake.saturating_duration_since(now);
            if left.is_zero() {
                return late.map_or(Ok(()), Err);
            }
            match self.poll.poll(&mut self.happened, Some(left)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => other.map_err(system("epoll"))?,
            }
            self.take_events()?;
        }
    }

    /// Tells xenstore's side if nobody is there to close with.
    fn tell_of_death(&mut self) -> Result<bool, FrontError> {
        let dead = self
            .life
            .link
            .as_ref()
            .is_some_and(|link| !link.back_alive());
        match self.life.service {
            _ if !dead => {}
            Service::Running => self.life.bus.peer_died(),
            Service::Draining | Service::Stopped => self.life.peer_died()?,
        }
        Ok(dead)
    }
}
