//! A front end on a thread of its own, for any number of callers.

mod mailbox;
mod worker;

use crate::config::FrontConfig;
use crate::counters::Counters;
use crate::error::{FrontError, system};
use crate::io::{Completion, Io, Refused};
use crate::machine::{DeviceError, DiskInfo, IoError};
use crate::run::Frontend;
use crate::run::close::{self, Closing};
use crossbeam::channel::{Receiver, Sender, bounded};
use mailbox::{Command, Flags, Mailbox, Reply};
use pv_xenstore::toolstack::DeviceId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use worker::{AtEnd, Worker};

/// `read_at` and `write_at` of more than this are done in steps, to bound the bounce buffer.
const STEP_BYTES: usize = 1 << 20;

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
        let config = config.with_times_in_bounds();
        let (device, queue) = (config.device, config.queue.max(1));
        let (deadline, close) = (config.deadline, config.close);
        let (commands, inbox) = bounded(queue);
        let front = Frontend::open(config)?;
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
            .name(format!("front {}", crate::config::name(device)))
            .spawn(move || {
                let at_end = AtEnd(Arc::clone(&shared));
                let result = Worker::new(front, inbox, shared, queue).run();
                drop(at_end);
                // Nobody may wait any more.
                let _ = sender.try_send(result);
            })
            .map_err(system("thread for the front end"))?;
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
