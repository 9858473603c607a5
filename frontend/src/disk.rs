//! A front end on a thread of its own, for any number of callers.

use crate::agent::{DeviceError, DiskInfo, IoError};
use crate::config::FrontConfig;
use crate::counters::Counters;
use crate::engine::Frontend;
use crate::engine::close::{self, Closing};
use crate::error::FrontError;
use crate::io::{Completion, Io, Refused};
use crate::observe::Observer;
use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use mio::Waker;
use pv_xenstore::toolstack::DeviceId;
use slab::Slab;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// `read_at` and `write_at` of more than this are done in steps, to bound the bounce buffer.
const STEP_BYTES: usize = 1 << 20;
/// The thread sleeps at most this long; commands wake it.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

enum Reply {
    One(Sender<Result<Vec<u8>, IoError>>),
    Queue { tag: u64, done: Sender<Completion> },
}

impl Reply {
    /// Nobody listening any more is no error; a queue always has room for what it submitted.
    fn send(self, result: Result<(), IoError>, data: Vec<u8>) {
        match self {
            Reply::One(sender) => drop(sender.try_send(result.map(|()| data))),
            Reply::Queue { tag, done } => drop(done.try_send(Completion { tag, result, data })),
        }
    }
}

enum Command {
    Io(Io, Reply),
    Info(Sender<(DiskInfo, Counters)>),
}

/// What the thread and its callers tell each other.
#[derive(Default)]
struct Flags {
    /// The thread was woken and has not looked yet: one wake-up serves many commands.
    woken: AtomicBool,
    /// The device is to be closed, by this time. Not a command: it must arrive when the inbox is
    /// full and stays so, too.
    close_by: OnceLock<CloseBy>,
    /// The thread has ended.
    dead: AtomicBool,
}

impl Flags {
    /// Begins a close that takes so long at most, if none has begun.
    fn close(&self, time: Duration) -> CloseBy {
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
struct CloseBy {
    /// What was sent before may finish until then.
    finish: Instant,
    /// All is over by then, with a back end and a xenstored that answer or without.
    end: Instant,
}

/// The callers' way to the thread.
struct Mailbox {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    flags: Arc<Flags>,
    deadline: Duration,
    close: Duration,
}

impl Mailbox {
    fn wake(&self) {
        // Pairs with the thread's swap: a command sent before it is found after it.
        if !self.flags.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(%error, "wake the front end");
        }
    }

    /// Asks the thread to finish what was sent, and to close; says by when.
    fn close(&self) -> Instant {
        let close_by = self.flags.close(self.close);
        self.wake();
        close_by.end
    }

    /// Waits for room in the thread's queue, at most an I/O's deadline.
    fn send(&self, command: Command) -> Result<(), Command> {
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

/// A block device.
pub struct Disk {
    mailbox: Arc<Mailbox>,
    device: DeviceId,
    /// What becomes of the thread; none once it was waited for.
    ended: Option<Closing>,
}

impl Disk {
    /// Opens the device on a thread of its own, and waits until a back end is connected.
    ///
    /// # Errors
    /// As [`Frontend::open`].
    pub fn open(config: FrontConfig) -> Result<Self, FrontError> {
        Self::open_observed(config, None)
    }

    /// The same, with somebody who is told what happens, on that thread.
    ///
    /// # Errors
    /// As [`Frontend::open`].
    pub fn open_observed(
        config: FrontConfig,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<Self, FrontError> {
        let config = config.with_times_in_bounds();
        let (device, queue) = (config.device, config.queue.max(1));
        let (deadline, close) = (config.deadline, config.close);
        let (commands, inbox) = bounded(queue);
        let front = Frontend::open_observed(config, observer)?;
        let waker = front.waker();
        let flags = Arc::new(Flags::default());
        let shared = Arc::clone(&flags);
        let mailbox = Arc::new(Mailbox {
            commands,
            waker,
            flags,
            deadline,
            close,
        });
        let (sender, ended) = bounded(1);
        std::thread::Builder::new()
            .name(format!("front {}", crate::bus::name(device)))
            .spawn(move || {
                let _at_end = AtEnd(Arc::clone(&shared));
                let result = Worker::new(front, inbox, shared, queue).run();
                // Nobody may wait any more.
                let _ = sender.try_send(result);
            })
            .map_err(|e| FrontError::System("thread for the front end", e))?;
        Ok(Disk {
            mailbox,
            device,
            ended: Some(ended),
        })
    }

    fn gone(&self) -> FrontError {
        FrontError::ThreadGone("it failed or was closed; its log says why".into())
    }

    fn snapshot(&self) -> Result<(DiskInfo, Counters), FrontError> {
        let (sender, receiver) = bounded(1);
        self.mailbox
            .send(Command::Info(sender))
            .map_err(|_| self.gone())?;
        receiver.recv().map_err(|_| self.gone())
    }

    /// The disk, as the last connected back end announced it.
    ///
    /// # Errors
    /// [`FrontError::ThreadGone`].
    pub fn info(&self) -> Result<DiskInfo, FrontError> {
        Ok(self.snapshot()?.0)
    }

    /// What the front end did so far.
    ///
    /// # Errors
    /// [`FrontError::ThreadGone`].
    pub fn counters(&self) -> Result<Counters, FrontError> {
        Ok(self.snapshot()?.1)
    }

    /// Starts an I/O.
    ///
    /// # Errors
    /// The thread is gone, or took nothing for as long as an I/O may take.
    pub fn submit(&self, io: Io) -> Result<Ticket, FrontError> {
        let (sender, receiver) = bounded(1);
        let command = Command::Io(io, Reply::One(sender));
        self.mailbox.send(command).map_err(|_| self.gone())?;
        Ok(Ticket { receiver })
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// [`FrontError::Io`].
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), FrontError> {
        let mut at = offset;
        for step in into.chunks_mut(STEP_BYTES) {
            step.copy_from_slice(&self.submit(Io::read(at, step.len()))?.wait()?);
            at += step.len() as u64;
        }
        Ok(())
    }

    /// Writes whole sectors. They are durable after the next [`Disk::flush`].
    ///
    /// # Errors
    /// [`FrontError::Io`].
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), FrontError> {
        let mut at = offset;
        for step in from.chunks(STEP_BYTES) {
            self.submit(Io::write(at, step.to_vec()))?.wait()?;
            at += step.len() as u64;
        }
        Ok(())
    }

    /// Makes every write that completed before durable.
    ///
    /// # Errors
    /// [`FrontError::Io`]; [`IoError::FlushNotSupported`] if the back end promises nothing.
    pub fn flush(&self) -> Result<(), FrontError> {
        self.submit(Io::flush())?.wait().map(drop)
    }

    /// A queue of up to `depth` I/Os at once, completed in any order.
    pub fn queue(&self, depth: usize) -> IoQueue {
        let depth = depth.max(1);
        let (sender, done) = bounded(depth);
        let mailbox = Arc::clone(&self.mailbox);
        IoQueue {
            mailbox,
            sender,
            done,
            depth,
            outstanding: AtomicUsize::new(0),
        }
    }

    /// Closes the device, in `FrontConfig::close` at most. What was submitted has half of that to
    /// finish, then it ends with an error.
    ///
    /// # Errors
    /// As [`Frontend::close`]; I/Os did not finish; or what ended the thread before.
    pub fn close(mut self) -> Result<Counters, FrontError> {
        let until = self.mailbox.close();
        match self.ended.take() {
            Some(ended) => close::wait(&ended, self.device, until),
            None => Err(self.gone()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // `close` has waited; without it the thread closes by itself, and the process's end closes
        // it in any case.
        if self.ended.is_some() {
            self.mailbox.close();
        }
    }
}

/// An I/O under way.
#[derive(Debug)]
pub struct Ticket {
    receiver: Receiver<Result<Vec<u8>, IoError>>,
}

impl Ticket {
    /// Waits for its end, and returns its buffer. The front end bounds the wait: by its deadline
    /// while a back end is connected, by `reconnect` while none is.
    ///
    /// # Errors
    /// [`FrontError::Io`], or the thread ended.
    pub fn wait(self) -> Result<Vec<u8>, FrontError> {
        match self.receiver.recv() {
            Ok(result) => Ok(result?),
            Err(_) => Err(FrontError::ThreadGone("with this I/O unanswered".into())),
        }
    }
}

/// A bounded number of I/Os at once.
pub struct IoQueue {
    mailbox: Arc<Mailbox>,
    sender: Sender<Completion>,
    done: Receiver<Completion>,
    depth: usize,
    outstanding: AtomicUsize,
}

impl IoQueue {
    /// I/Os whose completion was not taken yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Starts an I/O; `tag` comes back in its completion.
    ///
    /// # Errors
    /// [`IoError::QueueFull`] at `depth`; [`IoError::Device`] when the thread is gone.
    pub fn submit(&self, io: Io, tag: u64) -> Result<(), Refused> {
        if self.outstanding.fetch_add(1, Ordering::Relaxed) >= self.depth {
            self.outstanding.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused {
                error: IoError::QueueFull { limit: self.depth },
                io,
            });
        }
        let reply = Reply::Queue {
            tag,
            done: self.sender.clone(),
        };
        match self.mailbox.send(Command::Io(io, reply)) {
            Ok(()) => Ok(()),
            Err(Command::Io(io, _)) => {
                self.outstanding.fetch_sub(1, Ordering::Relaxed);
                Err(Refused {
                    error: DeviceError::Closed.into(),
                    io,
                })
            }
            Err(_) => Ok(()),
        }
    }

    /// True if nothing will complete any more: the front end's thread is gone.
    pub fn is_dead(&self) -> bool {
        self.mailbox.flags.dead.load(Ordering::Acquire)
    }

    /// The next completion, waiting for it at most this long.
    pub fn next(&self, timeout: Duration) -> Option<Completion> {
        let completion = self.done.recv_timeout(timeout).ok()?;
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        Some(completion)
    }
}

/// The thread.
struct Worker {
    front: Frontend,
    inbox: Receiver<Command>,
    flags: Arc<Flags>,
    queue: usize,
    replies: Slab<Reply>,
}

/// Marks the thread's end, a panic included.
struct AtEnd(Arc<Flags>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.dead.store(true, Ordering::Release);
    }
}

impl Worker {
    fn new(front: Frontend, inbox: Receiver<Command>, flags: Arc<Flags>, queue: usize) -> Self {
        Worker {
            front,
            inbox,
            flags,
            queue,
            replies: Slab::new(),
        }
    }

    fn run(mut self) -> Result<Counters, FrontError> {
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
