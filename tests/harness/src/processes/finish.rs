//! The end of all processes: everybody stopped, or described and killed; everything gathered.

use super::{Aftermath, Autopsy, ChildId, Exit, MAX_BACKLOG, Order, Processes, Stopped, describe};
use crate::timeline;
use rustix::process::Signal;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

impl Processes {
    /// Tells one child to stop and waits for its end.
    ///
    /// # Errors
    /// As [`Processes::await_that`].
    pub fn stop(&mut self, id: ChildId) -> Result<ExitStatus, Stopped> {
        if self.children[id.0].exit().is_none() {
            // It may be ending by itself; its end is what counts.
            if let Err(error) = self.order(id, &Order::Stop) {
                tracing::debug!(%error, "stop");
            }
        }
        self.await_exit(id)
    }

    /// All children, in order of their start.
    pub fn children(&self) -> impl Iterator<Item = ChildId> + use<> {
        (0..self.children.len()).map(ChildId)
    }

    /// Ends one child: told to stop, and described and killed if it does not in good time.
    pub fn end(&mut self, id: ChildId) {
        if let Some(autopsy) = self.end_child(id.0) {
            self.hung.push(autopsy);
        }
        let child = &mut self.children[id.0];
        if let Err(error) = child.kill_and_reap() {
            tracing::error!(child = child.name, %error, "cannot end it");
        }
    }

    /// SIGKILL to one child that hangs, wherever its process is: how long that took to end. `None`: it
    /// did not within the limit, because its kernel keeps it.
    pub fn kill_hung(&mut self, id: ChildId, limit: Duration) -> Option<Duration> {
        let killed = Instant::now();
        let until = killed + limit;
        let child = &mut self.children[id.0];
        child.killed_by_us = true;
        let name = child.name.clone();
        if let Err(error) = child.signal_group(Signal::KILL) {
            tracing::error!(child = name, %error, "killing");
        }
        while self.children[id.0].exit().is_none() {
            let happenings = self.next("the end", until).ok()?;
            let room = MAX_BACKLOG.saturating_sub(self.backlog.len());
            self.backlog.extend(happenings.into_iter().take(room));
        }
        let there = self.elsewhere.as_ref();
        let ended = there.is_none_or(|there| there.await_end(&name, until));
        ended.then(|| killed.elapsed())
    }

    /// Lets time pass while listening. For what tells nobody that it is over.
    pub fn idle(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(happenings) = self.next("time to pass", until) {
            let room = MAX_BACKLOG.saturating_sub(self.backlog.len());
            self.backlog.extend(happenings.into_iter().take(room));
        }
    }

    /// Ends everybody, the youngest first (the host last), and gathers what they left.
    pub fn finish(mut self) -> Aftermath {
        let mut aftermath = Aftermath {
            hung: std::mem::take(&mut self.hung),
            blocked: std::mem::take(&mut self.blocked),
            ..Aftermath::default()
        };
        for index in (0..self.children.len()).rev() {
            if let Some(autopsy) = self.end_child(index) {
                aftermath.hung.push(autopsy);
            }
        }
        aftermath.blocked.append(&mut self.blocked);
        for child in &mut self.children {
            let exit = match child.kill_and_reap() {
                Ok(exit) => exit,
                Err(error) => {
                    aftermath.left_over.push(format!("{}: {error}", child.name));
                    continue;
                }
            };
            if !child.killed_by_us && !child.stragglers.is_empty() {
                aftermath.left_over.push(format!(
                    "processes that {} forked: {:?}",
                    child.name, child.stragglers
                ));
            }
            aftermath.exits.push(Exit {
                process: child.name.clone(),
                how: describe(exit),
                expected: exit.success() || child.killed_by_us,
            });
            match timeline::read_file(&child.timeline) {
                Ok(records) => aftermath.records.extend(records),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => aftermath
                    .left_over
                    .push(format!("an unreadable timeline: {error}")),
            }
        }
        aftermath.records = timeline::merge(vec![std::mem::take(&mut aftermath.records)]);
        aftermath
            .left_over
            .extend(sockets_below(self.meeting.path()));
        if let Err(error) = self.meeting.close() {
            aftermath
                .left_over
                .push(format!("the temporary directory: {error}"));
        }
        aftermath
    }

    /// Stops a child in good time, or describes what kept it and leaves it to be killed.
    fn end_child(&mut self, index: usize) -> Option<Autopsy> {
        let id = ChildId(index);
        if self.children[index].exit().is_some() {
            return None;
        }
        let sent = self.order(id, &Order::Stop).is_ok();
        let until = Instant::now()
            + if sent {
                self.stop_grace
            } else {
                Duration::ZERO
            };
        while self.children[index].exit().is_none() {
            match self.next("the end", until) {
                Ok(_) => {}
                Err(Stopped::Deadline { .. }) => {
                    if self.blocked.is_empty() {
                        self.blocked = self.blocked();
                    }
                    return Some(self.look_at(&self.children[index]));
                }
                // A signal or a failing poll: no more patience.
                Err(_) => return None,
            }
        }
        None
    }
}

/// Sockets that should have been removed by whoever bound them.
pub fn sockets_below(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                Ok(kind) if kind.is_socket() => {
                    found.push(format!("the socket {}", entry.file_name().display()));
                }
                _ => {}
            }
        }
    }
    found
}
