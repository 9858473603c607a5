//! What a disk's callers and its thread tell each other.

use crate::counters::Counters;
use crate::io::{Completion, Io};
use crate::machine::{DiskInfo, IoError};
use crossbeam::channel::{Sender, TrySendError};
use mio::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub(super) enum Reply {
    One(Sender<Result<Vec<u8>, IoError>>),
    Queue { tag: u64, done: Sender<Completion> },
}

impl Reply {
    /// Nobody listening any more is no error; a queue always has room for what it submitted.
    pub(super) fn send(self, result: Result<(), IoError>, data: Vec<u8>) {
        match self {
            Reply::One(sender) => drop(sender.try_send(result.map(|()| data))),
            Reply::Queue { tag, done } => drop(done.try_send(Completion { tag, result, data })),
        }
    }
}

pub(super) enum Command {
    Io(Io, Reply),
    Info(Sender<(DiskInfo, Counters)>),
}

/// What the thread and its callers tell each other.
#[derive(Default)]
pub(super) struct Flags {
    /// The thread was woken and has not looked yet: one wake-up serves many commands.
    pub(super) woken: AtomicBool,
    /// The device is to be closed, by this time. Not a command: it must arrive when the inbox is
    /// full and stays so, too.
    pub(super) close_by: OnceLock<CloseBy>,
    /// The thread has ended.
    pub(super) dead: AtomicBool,
}

impl Flags {
    /// Begins a close that takes so long at most, if none has begun.
    pub(super) fn close(&self, time: Duration) -> CloseBy {
        let now = Instant::now();
        // Whoever sees this finds what was sent before in the inbox.
        *self.close_by.get_or_init(|| CloseBy {
            finish: now + time / 2,
            end: now + time,
        })
    }
}

/// The times of a close.
#[derive(Clone, Copy, Debug)]
pub(super) struct CloseBy {
    /// What was sent before may finish until then.
    pub(super) finish: Instant,
    /// All is over by then, with a back end and a xenstored that answer or without.
    pub(super) end: Instant,
}

/// The callers' way to the thread.
pub(super) struct Mailbox {
    pub(super) commands: Sender<Command>,
    pub(super) waker: Arc<Waker>,
    pub(super) flags: Arc<Flags>,
    pub(super) deadline: Duration,
    pub(super) close: Duration,
}

impl Mailbox {
    pub(super) fn wake(&self) {
        // Pairs with the thread's swap: a command sent before it is found after it.
        if !self.flags.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(%error, "wake the front end");
        }
    }

    /// Asks the thread to finish what was sent, and to close; says by when.
    pub(super) fn close(&self) -> Instant {
        let close_by = self.flags.close(self.close);
        self.wake();
        close_by.end
    }

    /// Waits for room in the thread's queue, at most an I/O's deadline.
    pub(super) fn send(&self, command: Command) -> Result<(), Command> {
        let sent = match self.commands.try_send(command) {
            Err(TrySendError::Full(command)) => {
                self.wake();
                self.commands
                    .send_timeout(command, self.deadline)
                    .map_err(|e| e.into_inner())
            }
            other => other.map_err(|e| e.into_inner()),
        };
        if sent.is_ok() {
            self.wake();
        }
        sent
    }
}
