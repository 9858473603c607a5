//! The processes of a run: started, listened to, killed on purpose, reaped without exception.
//!
//! Nothing here waits without end: every wait ends by an event, the run's deadline, a signal, or
//! the unexpected death of a child. A child that will not end is described (what it waits for)
//! and killed with all it forked. Should the run itself be killed, its children get SIGKILL from
//! the kernel and see their control socket close ([`die_with_parent`]).

mod autopsy;
mod child;
mod control;
mod signals;

pub use autopsy::{Autopsy, Thread};
pub use child::{Child, describe};
pub use control::{Control, News, Order};
pub use signals::Signals;

use crate::error::Error;
use crate::timeline::{self, Record};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

const SIGNALS: Token = Token(0);
/// How long a child that was told to stop may take.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// News that nobody has asked for yet. Progress is not kept.
const MAX_BACKLOG: usize = 10_000;

/// Names a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildId(usize);

/// What a child did.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// It said something.
    News(ChildId, News),
    /// It ended.
    Exited(ChildId, ExitStatus),
}

/// Why a wait ended without what it waited for.
#[derive(Debug)]
pub enum Stopped {
    /// The deadline passed.
    Deadline {
        /// What was waited for.
        what: String,
        /// What every child was doing.
        hung: Vec<Autopsy>,
    },
    /// A signal asked the run to end.
    Interrupted(i32),
    /// A child ended that should not have.
    Died {
        /// Who.
        process: String,
        /// How.
        exit: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// The machine refused something.
    Io {
        /// Doing what.
        doing: String,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Deadline { what, .. } => write!(f, "the deadline passed, waiting for {what}"),
            Stopped::Interrupted(signal) => write!(f, "interrupted by signal {signal}"),
            Stopped::Died {
                process,
                exit,
                stderr,
            } if stderr.is_empty() => {
                write!(f, "{process}: {exit}")
            }
            Stopped::Died {
                process,
                exit,
                stderr,
            } => write!(f, "{process}: {exit}: {stderr}"),
            Stopped::Io { doing, error } => write!(f, "{doing}: {error}"),
        }
    }
}

/// What is left when everybody is gone.
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    /// How each child ended, in order of their start.
    pub exits: Vec<Exit>,
    /// Everything they recorded, by time.
    pub records: Vec<Record>,
    /// Processes and files that should be gone and are not.
    pub left_over: Vec<String>,
    /// Those that did not stop when told to.
    pub hung: Vec<Autopsy>,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Who.
    pub process: String,
    /// In words.
    pub how: String,
    /// Status 0, or killed by the scenario on purpose.
    pub expected: bool,
}

/// Told of progress: the child's name, bytes done, bytes in all.
type OnProgress = Box<dyn FnMut(&str, u64, u64)>;

/// All processes of one scenario, and the directory they meet in.
pub struct World {
    children: Vec<Child>,
    backlog: VecDeque<Happening>,
    poll: Poll,
    signals: Signals,
    meeting: tempfile::TempDir,
    logs: PathBuf,
    program: OsString,
    deadline: Instant,
    stop_grace: Duration,
    hung: Vec<Autopsy>,
    on_progress: OnProgress,
}

impl World {
    /// An empty world whose children write their logs to `logs`.
    ///
    /// # Errors
    /// If the machine has no room for a temporary directory, or its path is too long for sockets.
    pub fn new(logs: &Path, deadline: Instant) -> Result<World, Error> {
        let cannot = |what: &str, error: io::Error| {
            Error::environment(what, error, "free the resource and run again")
        };
        let program = std::env::current_exe()
            .map_err(|e| cannot("the path of pv-stress's own executable", e))?
            .into_os_string();
        Self::with_program(logs, deadline, program)
    }

    fn with_program(logs: &Path, deadline: Instant, program: OsString) -> Result<World, Error> {
        let temp = std::env::temp_dir();
        let meeting = tempfile::Builder::new()
            .prefix("pv-stress-")
            .tempdir_in(&temp)
            .map_err(|error| {
                Error::file(
                    &temp,
                    error,
                    "set TMPDIR to a directory that can be written",
                )
            })?;
        // sockaddr_un has 108 bytes; the longest name that we put below is well under 40.
        if meeting.path().as_os_str().len() > 68 {
            return Err(Error::file(
                meeting.path(),
                "the path is too long for Unix sockets below it",
                "set TMPDIR to a shorter path, such as /tmp",
            ));
        }
        std::fs::create_dir_all(logs)
            .map_err(|error| Error::file(logs, error, "name another one with --report"))?;
        let io_error = |error| Error::environment("signals and polling", error, "see errno");
        let mut signals = Signals::register().map_err(io_error)?;
        let poll = Poll::new().map_err(io_error)?;
        poll.registry()
            .register(signals.source(), SIGNALS, Interest::READABLE)
            .map_err(io_error)?;
        Ok(World {
            children: Vec::new(),
            backlog: VecDeque::new(),
            poll,
            signals,
            meeting,
            logs: logs.to_owned(),
            program,
            deadline,
            stop_grace: STOP_GRACE,
            hung: Vec::new(),
            on_progress: Box::new(|_, _, _| {}),
        })
    }

    /// Whom to tell about progress: the child's name, bytes done, bytes in all.
    pub fn on_progress(&mut self, tell: impl FnMut(&str, u64, u64) + 'static) {
        self.on_progress = Box::new(tell);
    }

    /// A directory for sockets and images, removed at the end.
    pub fn dir(&self) -> &Path {
        self.meeting.path()
    }

    /// When the run must be over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// One of the children.
    pub fn child(&self, id: ChildId) -> &Child {
        &self.children[id.0]
    }

    /// The timeline that a child of this name writes.
    pub fn timeline_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.jsonl"))
    }

    /// Starts this program again as `agent ROLE ARGS`, told its name and where to record.
    ///
    /// # Errors
    /// [`Stopped::Io`].
    pub fn spawn(
        &mut self,
        name: &str,
        role: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<ChildId, Stopped> {
        let timeline = self.timeline_path(name);
        let parent = std::process::id().to_string();
        let mut all: Vec<OsString> = ["agent", role, "--name", name, "--parent", &parent]
            .into_iter()
            .map(OsString::from)
            .collect();
        all.extend(["--timeline".into(), timeline.clone().into_os_string()]);
        all.extend(args);
        self.start(name, all, timeline)
    }

    fn start(
        &mut self,
        name: &str,
        args: Vec<OsString>,
        timeline: PathBuf,
    ) -> Result<ChildId, Stopped> {
        let failed = |error| Stopped::Io {
            doing: format!("starting {name}"),
            error,
        };
        let files = child::Files {
            stdout: self.logs.join(format!("{name}.out")),
            stderr: self.logs.join(format!("{name}.err")),
            timeline,
        };
        let child = Child::spawn(name, &self.program, &args, files).map_err(failed)?;
        let id = self.children.len();
        self.children.push(child);
        let child = &self.children[id];
        let registry = self.poll.registry();
        let (exit, news) = tokens(id);
        registry
            .register(
                &mut SourceFd(&child.pidfd.as_raw_fd()),
                exit,
                Interest::READABLE,
            )
            .map_err(failed)?;
        if let Some(control) = &child.control {
            let fd = control.as_fd().as_raw_fd();
            registry
                .register(&mut SourceFd(&fd), news, Interest::READABLE)
                .map_err(failed)?;
        }
        Ok(ChildId(id))
    }

    /// Tells a child something.
    ///
    /// # Errors
    /// [`Stopped::Io`], if it no longer listens.
    pub fn order(&mut self, id: ChildId, order: &Order) -> Result<(), Stopped> {
        let child = &self.children[id.0];
        let sent = match &child.control {
            Some(control) => control.send(order),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        sent.map_err(|error| Stopped::Io {
            doing: format!("telling {} {order:?}", child.name),
            error,
        })
    }

    /// SIGKILL to a child and all it forked; waits until it is gone.
    ///
    /// # Errors
    /// [`Stopped::Io`].
    pub fn kill(&mut self, id: ChildId) -> Result<ExitStatus, Stopped> {
        let child = &mut self.children[id.0];
        child.killed_by_us = true;
        child.kill_and_reap().map_err(|error| Stopped::Io {
            doing: format!("killing {}", self.children[id.0].name),
            error,
        })
    }

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
            let fresh = self.next(what, self.deadline)?;
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
    /// As [`World::await_that`].
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
    /// As [`World::await_that`].
    pub fn await_ready(&mut self, id: ChildId) -> Result<(), Stopped> {
        let what = format!("{} to be ready", self.children[id.0].name);
        self.await_news(id, &what, |news| (*news == News::Ready).then_some(()))
    }

    /// Waits for a child's end, whatever it is.
    ///
    /// # Errors
    /// As [`World::await_that`].
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

    fn died(&self, id: ChildId) -> Stopped {
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

    /// Waits for the next happenings; at least one, or an error.
    fn next(&mut self, what: &str, until: Instant) -> Result<Vec<Happening>, Stopped> {
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

    fn autopsies(&self) -> Vec<Autopsy> {
        self.children
            .iter()
            .filter(|child| child.exit().is_none())
            .map(|child| Autopsy::of(&child.name, child.pid(), &child.timeline))
            .collect()
    }

    /// Tells one child to stop and waits for its end.
    ///
    /// # Errors
    /// As [`World::await_that`].
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
            ..Aftermath::default()
        };
        for index in (0..self.children.len()).rev() {
            if let Some(autopsy) = self.end_child(index) {
                aftermath.hung.push(autopsy);
            }
        }
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
                    let child = &self.children[index];
                    return Some(Autopsy::of(&child.name, child.pid(), &child.timeline));
                }
                // A signal or a failing poll: no more patience.
                Err(_) => return None,
            }
        }
        None
    }
}

fn tokens(index: usize) -> (Token, Token) {
    (Token(1 + index * 2), Token(2 + index * 2))
}

fn from_token(token: Token) -> (usize, bool) {
    ((token.0 - 1) / 2, (token.0 - 1) % 2 == 1)
}

/// Sockets that should have been removed by whoever bound them.
fn sockets_below(dir: &Path) -> Vec<String> {
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

/// Called first in every child: the kernel kills it when the run's process dies.
///
/// # Errors
/// If the run is gone already, or the kernel refuses.
pub fn die_with_parent(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The run may have died before the call above.
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if u32::try_from(now) == Ok(parent) {
        Ok(())
    } else {
        Err(io::Error::other(
            "the run that started this process is gone",
        ))
    }
}

#[cfg(test)]
mod tests;
