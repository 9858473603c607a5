//! A disk's thread: takes commands, drives the front end, answers, and closes in time.

use super::mailbox::{Command, Flags, Reply};
use crate::counters::Counters;
use crate::error::FrontError;
use crate::run::Frontend;
use crossbeam::channel::{Receiver, TryRecvError};
use slab::Slab;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The thread sleeps at most this long; commands wake it.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The thread.
pub(super) struct Worker {
    front: Frontend,
    inbox: Receiver<Command>,
    flags: Arc<Flags>,
    queue: usize,
    replies: Slab<Reply>,
}

/// Marks the thread's end, a panic included.
pub(super) struct AtEnd(pub(super) Arc<Flags>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.dead.store(true, Ordering::Release);
    }
}

impl Worker {
    pub(super) fn new(
        front: Frontend,
        inbox: Receiver<Command>,
        flags: Arc<Flags>,
        queue: usize,
    ) -> Self {
        Worker {
            front,
            inbox,
            flags,
            queue,
            replies: Slab::new(),
        }
    }

    pub(super) fn run(mut self) -> Result<Counters, FrontError> {
        let (close_by, unfinished) = loop {
            self.flags.woken.swap(false, Ordering::AcqRel);
            // Looked at before the inbox: what was sent before the close is taken then.
            let close_by = match self.front.is_stop_asked() {
                true => Some(self.flags.close(self.front.close_time())),
                false => self.flags.close_by.get().copied(),
            };
            let has_taken_all = self.take_commands();
            let mut sleep = LONGEST_SLEEP;
            if let Some(close_by) = close_by {
                if has_taken_all && self.replies.is_empty() {
                    break (close_by, None);
                }
                sleep = close_by.finish.saturating_duration_since(Instant::now());
                if sleep.is_zero() {
                    break (close_by, Some(self.give_up()));
                }
            }
            if let Err(error) = self.front.poll(sleep.min(LONGEST_SLEEP)) {
                // Dropped replies tell the callers.
                tracing::error!(%error, "front end");
                return Err(error);
            }
            self.reply();
        };
        let closed = self.front.close_by(close_by.end);
        match unfinished {
            None => closed,
            // What was lost is the worse news.
            Some(lost) => {
                if let Err(error) = closed {
                    tracing::warn!(%error, "close");
                }
                Err(lost)
            }
        }
    }

    fn reply(&mut self) {
        while let Some(done) = self.front.next_completion() {
            if let Some(reply) = self.replies.try_remove(done.tag as usize) {
                reply.send(done.result, done.data);
            }
        }
    }

    /// Ends what was submitted before the close and has not finished in time.
    fn give_up(&mut self) -> FrontError {
        let error = self.front.unfinished(self.replies.len() + self.inbox.len());
        self.front.give_up();
        self.reply();
        // A closed front end refuses the rest.
        self.take_commands();
        error
    }

    /// Takes what is there, and no more: others may go on sending. False if the front end has no
    /// room for all of it.
    fn take_commands(&mut self) -> bool {
        for _ in 0..self.inbox.len() {
            if self.front.pending() >= self.queue {
                return false;
            }
            match self.inbox.try_recv() {
                Ok(Command::Io(io, reply)) => {
                    let tag = self.replies.insert(reply);
                    if let Err(refused) = self.front.submit(io, tag as u64) {
                        self.replies
                            .remove(tag)
                            .send(Err(refused.error), refused.io.into_buffer());
                    }
                }
                Ok(Command::Info(sender)) => {
                    // The asker may have gone.
                    let _ = sender.try_send((self.front.info(), self.front.counters()));
                }
                Err(TryRecvError::Disconnected | TryRecvError::Empty) => break,
            }
        }
        true
    }
}
