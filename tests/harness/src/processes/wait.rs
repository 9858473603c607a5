//! Waiting for the children, all at once, in one mio loop.

use super::{
    Autopsy, Blocked, ChildId, Happening, MAX_BACKLOG, News, Processes, SIGNALS, Stopped, describe,
    from_token,
};
use mio::unix::SourceFd;
use mio::{Events, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitStatus;
use std::time::Instant;

impl Processes {
    /// Waits for something that `pick` recognises. What it does not is kept for later waits.
    ///
    /// # Errors
    /// All of [`Stopped`]; a child that ends badly, or before its time, unless `pick` takes it.
    pub fn await_that<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Happening) -> Option<T>,
    ) -> Result<T, Stopped> {
        if let Some(got) = self.take_from_backlog(&mut pick) {
            return Ok(got);
        }
        loop {
            let fresh = self.next_or_standstill(what)?;
            let mut found = None;
            let mut bad_end = None;
            for happening in fresh {
                if found.is_none()
                    && let Some(got) = pick(&happening)
                {
                    found = Some(got);
                    continue;
                }
                if let Happening::Exited(id, exit) = &happening
                    && !exit.success()
                    && !self.children[id.0].killed_by_us
                {
                    bad_end.get_or_insert(*id);
                }
                if self.backlog.len() < MAX_BACKLOG {
                    self.backlog.push_back(happening);
                }
            }
            match (found, bad_end) {
                (Some(got), _) => return Ok(got),
                (None, Some(id)) => return Err(self.died(id)),
                (None, None) if self.all_ended() => {
                    return Err(Stopped::Io {
                        doing: format!("waiting for {what}"),
                        error: io::Error::other("every process has ended"),
                    });
                }
                (None, None) => {}
            }
        }
    }

    /// Waits for a child's news that `pick` recognises.
    ///
    /// # Errors
    /// As [`Processes::await_that`].
    pub fn await_news<T>(
        &mut self,
        id: ChildId,
        what: &str,
        mut pick: impl FnMut(&News) -> Option<T>,
    ) -> Result<T, Stopped> {
        let mut of_child = |happening: &Happening| match happening {
            Happening::News(from, news) if *from == id => pick(news),
            _ => None,
        };
        if let Some(got) = self.take_from_backlog(&mut of_child) {
            return Ok(got);
        }
        if self.children[id.0].exit().is_some() {
            // All it ever said has been read.
            return Err(self.died(id));
        }
        let got = self.await_that(what, |happening| match happening {
            Happening::Exited(from, _) if *from == id => Some(None),
            other => of_child(other).map(Some),
        })?;
        got.ok_or_else(|| self.died(id))
    }

    fn take_from_backlog<T>(
        &mut self,
        pick: &mut impl FnMut(&Happening) -> Option<T>,
    ) -> Option<T> {
        let (at, got) = self
            .backlog
            .iter()
            .enumerate()
            .find_map(|(at, h)| pick(h).map(|got| (at, got)))?;
        self.backlog.remove(at);
        Some(got)
    }

    /// Waits for a child to be ready.
    ///
    /// # Errors
    /// As [`Processes::await_that`].
    pub fn await_ready(&mut self, id: ChildId) -> Result<(), Stopped> {
        let what = format!("{} to be ready", self.children[id.0].name);
        self.await_news(id, &what, |news| (*news == News::Ready).then_some(()))
    }

    /// Waits for a child's end, whatever it is.
    ///
    /// # Errors
    /// As [`Processes::await_that`].
    pub fn await_exit(&mut self, id: ChildId) -> Result<ExitStatus, Stopped> {
        if let Some(exit) = self.children[id.0].exit() {
            return Ok(exit);
        }
        let what = format!("{} to end", self.children[id.0].name);
        self.await_that(&what, |happening| match happening {
            Happening::Exited(from, exit) if *from == id => Some(*exit),
            _ => None,
        })
    }

    pub(super) fn died(&self, id: ChildId) -> Stopped {
        let child = &self.children[id.0];
        Stopped::Died {
            process: child.name.clone(),
            exit: child.exit().map_or_else(|| "ended".into(), describe),
            stderr: child.stderr_tail(),
        }
    }

    fn all_ended(&self) -> bool {
        self.children.iter().all(|child| child.exit().is_some())
    }

    /// Waits for the next happenings until the deadline, and looks at the kernels while there are none.
    fn next_or_standstill(&mut self, what: &str) -> Result<Vec<Happening>, Stopped> {
        let Some((step, _)) = self.standstill else {
            return self.next(what, self.deadline);
        };
        let began = Instant::now();
        let mut before = None;
        loop {
            let look = Instant::now() + step;
            if look >= self.deadline {
                return self.next(what, self.deadline);
            }
            match self.next(what, look) {
                Err(Stopped::Deadline {
                    what,
                    hung,
                    blocked,
                }) => {
                    let is = self.standstill.as_ref();
                    let seen = is.and_then(|(_, is)| is(&hung, &blocked));
                    if seen.is_some() && seen == before {
                        return Err(Stopped::Standstill {
                            what,
                            quiet: began.elapsed(),
                            hung,
                            blocked,
                        });
                    }
                    before = seen;
                }
                other => return other,
            }
        }
    }

    /// Waits for the next happenings; at least one, or an error.
    pub(super) fn next(&mut self, what: &str, until: Instant) -> Result<Vec<Happening>, Stopped> {
        let failed = |error| Stopped::Io {
            doing: format!("waiting for {what}"),
            error,
        };
        let mut events = Events::with_capacity(64);
        loop {
            if let Some(signal) = self.signals.caught() {
                return Err(Stopped::Interrupted(signal));
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Err(Stopped::Deadline {
                    what: what.to_owned(),
                    hung: self.autopsies(),
                    blocked: self.blocked(),
                });
            };
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(failed(error));
                }
                _ => {}
            }
            let mut happenings = Vec::new();
            for event in &events {
                if event.token() == SIGNALS {
                    self.signals.drain();
                } else {
                    self.gather(event.token(), &mut happenings)
                        .map_err(failed)?;
                }
            }
            if !happenings.is_empty() {
                return Ok(happenings);
            }
        }
    }

    fn gather(&mut self, token: Token, into: &mut Vec<Happening>) -> io::Result<()> {
        let (index, is_news) = from_token(token);
        let id = ChildId(index);
        let child = &mut self.children[index];
        // News before the end, even if the end was seen first.
        while let Some(control) = &child.control {
            match control.try_recv::<News>() {
                Ok(Some(News::Progress { done, total })) => {
                    (self.on_progress)(&child.name, done, total);
                    into.push(Happening::News(id, News::Progress { done, total }));
                }
                Ok(Some(news)) => into.push(Happening::News(id, news)),
                Ok(None) => break,
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        tracing::debug!(child = child.name, %error, "control socket");
                    }
                    self.poll
                        .registry()
                        .deregister(&mut SourceFd(&control.as_fd().as_raw_fd()))?;
                    child.control = None;
                }
            }
        }
        if !is_news && child.exit().is_none() {
            let exit = child.reap()?;
            self.poll
                .registry()
                .deregister(&mut SourceFd(&child.pidfd.as_raw_fd()))?;
            into.push(Happening::Exited(id, exit));
        }
        Ok(())
    }

    /// What each kernel keeps below processes that have not ended: this machine's, if one of them is
    /// on it, and those of other domains.
    pub fn blocked(&self) -> Vec<Blocked> {
        let living = self.children.iter().filter(|child| child.exit().is_none());
        let ours: Vec<_> = living
            .map(|child| (child.name.clone(), child.pid()))
            .collect();
        let here = Blocked::here(&ours);
        let is_ours = here.tasks.iter().any(|task| task.of.is_some());
        let there = self.elsewhere.iter().flat_map(|there| there.blocked());
        is_ours.then_some(here).into_iter().chain(there).collect()
    }

    fn autopsies(&self) -> Vec<Autopsy> {
        self.children
            .iter()
            .filter(|child| child.exit().is_none())
            .map(|child| self.look_at(child))
            .collect()
    }
}
