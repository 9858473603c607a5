//! The processes of a run: started, listened to, killed on purpose, reaped without exception.
//!
//! Nothing here waits without end: every wait ends by an event, the run's deadline, a signal, or
//! the unexpected death of a child. A child that will not end is described (what it waits for)
//! and killed with all it forked. Should the run itself be killed, its children get SIGKILL from
//! the kernel and see their control socket close ([`die_with_parent`]).

mod autopsy;
mod blocked;
mod child;
mod control;
mod fact;
mod finish;
mod outcome;
mod signals;
mod start;
mod thread;
mod wait;

pub use autopsy::{Autopsy, HoldState, Holding};
pub use blocked::{Blocked, Task};
pub use child::Files;
pub use child::{Child, describe};
pub use control::{Control, News, Order};
pub use fact::{Fact, Point};
pub use finish::sockets_below;
pub use outcome::{Aftermath, Exit, Stopped};
pub use signals::Signals;
pub use start::Start;
pub use thread::Thread;

use crate::error::Error;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::Serialize;
use std::collections::VecDeque;
use std::ffi::OsString;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
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

/// Told of progress: the child's name, bytes done, bytes in all.
type OnProgress = Box<dyn FnMut(&str, u64, u64)>;
/// Names a cycle of waits in the kernels, if there is one.
type Standstill = Box<dyn Fn(&[Autopsy], &[Blocked]) -> Option<String>>;

/// Other machines, where some children have the processes that they stand for.
pub trait Elsewhere {
    /// What the process of this name is waiting for; `None` if it is not there.
    fn autopsy(&self, process: &str) -> Option<Autopsy>;

    /// What the kernels keep below processes that have not ended.
    fn blocked(&self) -> Vec<Blocked>;

    /// Waits until the process of this name, whose stand-in was killed, has ended, too. False if it has
    /// not in time.
    fn await_end(&self, process: &str, until: Instant) -> bool;

    /// Waits until the processes whose stand-ins have ended have ended, too, and what they recorded
    /// is here. What did not end, or should not have been left.
    fn settle(&self) -> Vec<String>;
}

/// All processes of one scenario, and the directory they meet in.
pub struct Processes {
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
    blocked: Vec<Blocked>,
    on_progress: OnProgress,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    standstill: Option<(Duration, Standstill)>,
}

impl Processes {
    /// No processes yet; their logs will go to `logs`.
    ///
    /// # Errors
    /// If the machine has no room for a temporary directory, or its path is too long for sockets.
    pub fn new(logs: &Path, deadline: Instant) -> Result<Processes, Error> {
        let cannot = |what: &str, error: io::Error| {
            Error::environment(what, error, "free the resource and run again")
        };
        let program = std::env::current_exe()
            .map_err(|e| cannot("the path of pv-stress's own executable", e))?
            .into_os_string();
        Self::with_program(logs, deadline, program)
    }

    fn with_program(logs: &Path, deadline: Instant, program: OsString) -> Result<Processes, Error> {
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
        Ok(Processes {
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
            blocked: Vec::new(),
            standstill: None,
            on_progress: Box::new(|_, _, _| {}),
            elsewhere: None,
        })
    }

    /// Whom to tell about progress: the child's name, bytes done, bytes in all.
    pub fn on_progress(&mut self, tell: impl FnMut(&str, u64, u64) + 'static) {
        self.on_progress = Box::new(tell);
    }

    /// While nothing happens for so long, has what hangs looked at. `is` names a cycle among tasks that
    /// wait in a kernel, if there is one; seen twice with the same name it ends the run, since nobody
    /// will wake them before the deadline.
    pub fn end_at_standstill(
        &mut self,
        quiet: Duration,
        is: impl Fn(&[Autopsy], &[Blocked]) -> Option<String> + 'static,
    ) {
        self.standstill = Some((quiet, Box::new(is)));
    }

    /// Has a signal asked the run to end?
    pub fn interrupted(&self) -> Option<i32> {
        self.signals.caught()
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

    /// Starts this program again as a process with this name and this assignment ([`Start`]).
    ///
    /// # Errors
    /// [`Stopped::Io`].
    pub fn spawn<A: Serialize>(&mut self, name: &str, assignment: A) -> Result<ChildId, Stopped> {
        let timeline = self.timeline_path(name);
        let start = Start {
            name: name.to_owned(),
            parent: std::process::id(),
            timeline: timeline.clone(),
            assignment,
        };
        let args = start.args().map_err(|error| Stopped::Io {
            doing: format!("starting {name}"),
            error,
        })?;
        self.start(name, args, timeline)
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

    /// What a process is waiting for, wherever it is. `None`: it has ended.
    pub fn autopsy(&self, id: ChildId) -> Option<Autopsy> {
        let child = &self.children[id.0];
        let there = self.elsewhere.as_ref();
        let is_here = child.exit().is_none();
        there
            .and_then(|there| there.autopsy(&child.name))
            .or_else(|| is_here.then(|| self.look_at(child)))
    }

    fn look_at(&self, child: &Child) -> Autopsy {
        let elsewhere = self.elsewhere.as_ref();
        elsewhere
            .and_then(|elsewhere| elsewhere.autopsy(&child.name))
            .unwrap_or_else(|| Autopsy::of(&child.name, child.pid(), &child.timeline))
    }

    /// Where the processes really are that some children stand for.
    pub fn set_elsewhere(&mut self, elsewhere: Arc<dyn Elsewhere>) {
        self.elsewhere = Some(elsewhere);
    }
}

fn tokens(index: usize) -> (Token, Token) {
    (Token(1 + index * 2), Token(2 + index * 2))
}

fn from_token(token: Token) -> (usize, bool) {
    ((token.0 - 1) / 2, (token.0 - 1) % 2 == 1)
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
