//! Processes that play a [`Hand`]: this program, started again by itself with a role of its own, and
//! the links to them.
//!
//! Orders and answers go over the control socket that is the process's standard input. It ends
//! when there are no more orders, and with it everything it has: that is how a test sees it die.

use crate::hand::{self, Answer, Hand, Link, Unanswered};
use crate::processes::{ChildId, Control, News, Order, Processes, Start, Stopped, describe};
use crate::timeline::Timeline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Plays a hand until there are no more orders, and says in the timeline what it waits for. Told to
/// stop, the hand gives everything up, and shows what its ledger still has.
///
/// # Errors
/// The socket's.
pub fn play(mut hand: Hand, control: &Control, timeline: &Timeline) -> io::Result<()> {
    loop {
        timeline.waiting("an order");
        match control.recv() {
            Ok(Order::Hand(order)) => {
                timeline.waiting(waits_for(&order));
                control.send(&News::Answer(hand.perform(order)))?;
            }
            Ok(Order::Stop) => {
                hand.forget();
                let (entries, totals) = (hand.ledger(), hand.totals());
                return control.send(&News::Ledger { entries, totals });
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                hand.forget();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// What explains a hand that hangs in an order.
fn waits_for(order: &hand::Order) -> &'static str {
    match order {
        hand::Order::Unmap { .. } => "its unmap to return",
        hand::Order::AwaitRelease { .. } => "its unmap's release",
        hand::Order::Release(_) => "the release of what it holds",
        hand::Order::Hear(_) => "events",
        _ => "an order to be carried out",
    }
}

/// The link to a child of a run that plays a hand, here or in another domain.
pub struct RunLink<'a> {
    /// The processes of the run.
    pub processes: &'a mut Processes,
    /// Which of them.
    pub id: ChildId,
}

impl Link for RunLink<'_> {
    type Lost = Stopped;

    fn send(&mut self, order: &hand::Order) -> Result<(), Stopped> {
        self.processes.order(self.id, &Order::Hand(order.clone()))
    }

    fn receive(&mut self) -> Result<Answer, Stopped> {
        let what = format!("{} to answer", self.processes.child(self.id).name);
        self.processes
            .await_news(self.id, &what, |news| match news {
                News::Answer(answer) => Some(answer.clone()),
                _ => None,
            })
    }
}

impl From<Unanswered<Stopped>> for Stopped {
    fn from(why: Unanswered<Stopped>) -> Stopped {
        match why {
            Unanswered::Lost(stopped) => stopped,
            other => Stopped::Io {
                doing: "ordering a hand".into(),
                error: io::Error::other(other.to_string()),
            },
        }
    }
}

/// A process outside of a run that plays a hand, and the link to it. It ends when this is dropped.
#[derive(Debug)]
pub struct HandProcess {
    name: String,
    process: Child,
    control: Option<Control>,
    patience: Option<Duration>,
}

impl HandProcess {
    /// Starts a program that plays a hand when it is told so.
    ///
    /// # Errors
    /// What fork and exec say; those of [`Start::args`].
    pub fn start<A: Serialize>(program: &Path, start: &Start<A>) -> io::Result<HandProcess> {
        let (ours, theirs) = Control::pair()?;
        let process = Command::new(program)
            .args(start.args()?)
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(HandProcess {
            name: start.name.clone(),
            process,
            control: Some(ours),
            patience: None,
        })
    }

    /// How long to wait for each answer. Without this it is waited for without end.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// SIGKILL; waits until the process is gone.
    ///
    /// # Errors
    /// What `kill` and `wait` say.
    pub fn kill(&mut self) -> io::Result<()> {
        // Not before the kill: the end of its orders would let it tidy up.
        self.process.kill()?;
        self.control = None;
        self.process.wait().map(drop)
    }

    /// Tells it that there is nothing more to do; waits for its end.
    ///
    /// # Errors
    /// What `wait` says; an end that is no good one.
    pub fn end(&mut self) -> io::Result<()> {
        self.control = None;
        let status = self.process.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(describe(status)))
        }
    }

    fn control(&self) -> io::Result<&Control> {
        self.control
            .as_ref()
            .ok_or_else(|| io::Error::other(format!("{} was killed", self.name)))
    }

    fn next(&self) -> io::Result<News> {
        let control = self.control()?;
        let Some(patience) = self.patience else {
            return control.recv();
        };
        let until = Instant::now() + patience;
        loop {
            if let Some(news) = control.try_recv()? {
                return Ok(news);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = format!("{} does not answer for {patience:?}", self.name);
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(control, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The end of the socket is the end of the process: how did it end?
    fn epitaph(&mut self, error: io::Error) -> io::Error {
        match (error.kind(), self.control.is_some()) {
            (
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset,
                true,
            ) => match self.process.wait() {
                Ok(status) => io::Error::other(format!("{} {}", self.name, describe(status))),
                Err(error) => error,
            },
            _ => error,
        }
    }
}

impl Link for HandProcess {
    type Lost = io::Error;

    fn send(&mut self, order: &hand::Order) -> io::Result<()> {
        let sent = self
            .control()
            .and_then(|control| control.send(&Order::Hand(order.clone())));
        sent.map_err(|error| self.epitaph(error))
    }

    fn receive(&mut self) -> io::Result<Answer> {
        match self.next().map_err(|error| self.epitaph(error))? {
            News::Answer(answer) => Ok(answer),
            other => Err(io::Error::other(format!("{} says {other:?}", self.name))),
        }
    }
}

impl Drop for HandProcess {
    fn drop(&mut self) {
        self.control = None;
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, self.name, "a hand");
        }
    }
}
