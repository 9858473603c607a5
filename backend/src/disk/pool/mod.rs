//! Threads that do the disk's I/O, so that a slow disk never stops the event loop.

use crate::disk::piece::Piece;
use crate::machine::DiskOp;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads, unless the configuration says otherwise: enough for a disk with a queue, few enough
/// for one device of many.
pub const DEFAULT_THREADS: usize = 4;

/// Work for the disk.
#[derive(Debug)]
pub struct Work {
    /// Comes back with the result.
    pub token: u64,
    /// What.
    pub op: DiskOp,
    /// Where; empty for a flush.
    pub pieces: Vec<Piece>,
}

/// Work that is over.
#[derive(Debug)]
pub struct Done {
    /// The work's.
    pub token: u64,
    /// How it went.
    pub result: Result<(), Fault>,
}

/// A failed disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of {len} bytes at byte {at}: {}", verb(.op), self.reason())]
pub struct Fault {
    /// What was tried.
    pub op: DiskOp,
    /// Byte on the disk.
    pub at: u64,
    /// How many bytes were left to do.
    pub len: usize,
    /// Why.
    pub cause: Cause,
}

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// What the kernel said.
    System(Errno),
    /// The image ends early.
    Cut,
    /// A flush failed before this one, or before this write, which was not tried.
    FlushFailed,
}

fn verb(op: &DiskOp) -> &'static str {
    match op {
        DiskOp::Read => "read",
        DiskOp::Write => "write",
        DiskOp::Flush => "flush",
    }
}

impl Fault {
    fn reason(&self) -> String {
        match self.cause {
            Cause::System(errno) if self.op == DiskOp::Flush => format!(
                "{errno}; what was written may be lost, so every write and flush fails from now on; \
                 see what is wrong with the image's disk, then detach and attach the device"
            ),
            Cause::System(Errno::NOSPC | Errno::DQUOT) => {
                "no space left on its file system; free some, and the device works again".into()
            }
            Cause::System(errno) => errno.to_string(),
            Cause::Cut => "the image ends there; somebody has cut it".into(),
            Cause::FlushFailed => "an earlier flush failed; see what is wrong with the image's disk, then detach and attach the device".into(),
        }
    }
}

/// Where it stands that a flush failed: as long as this says so, no write and no flush succeeds.
pub trait FailedFlush: Send + Sync {
    /// Did one?
    fn is_noted(&self) -> bool;
    /// One did. What this notes is visible to whoever learns of the flush's end.
    fn note(&self);
}

/// Wakes the event loop.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    file: Arc<File>,
    /// A flush failed. The kernel says so once, and forgets what it could not write: the next flush
    /// would succeed, and the front would take for safe what is lost.
    flush_failed: Arc<dyn FailedFlush>,
    /// Held by a flush: of several at once the kernel would tell only one that it failed.
    flushing: Mutex<()>,
    /// A wake-up is under way that has not been answered by [`Pool::drain`].
    signalled: AtomicBool,
    wake: Wake,
}

/// The threads. Dropped, they finish what they do, and what is queued, without being waited for.
pub struct Pool {
    work: Sender<Work>,
    done: Receiver<Done>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts threads on a file, with a queue of `depth` (a ring's slots: it never fills).
    ///
    /// # Errors
    /// What starting a thread says.
    pub fn start(
        file: Arc<File>,
        threads: usize,
        depth: usize,
        flush_failed: Arc<dyn FailedFlush>,
        wake: Wake,
    ) -> std::io::Result<Self> {
        let (work, queue) = bounded::<Work>(depth.max(1));
        // As many results as pieces of work can be queued or under way: it never fills either.
        let threads = threads.max(1);
        let (finished, done) = bounded(depth.max(1) + threads);
        let shared = Arc::new(Shared {
            file,
            flush_failed,
            flushing: Mutex::new(()),
            signalled: AtomicBool::new(false),
            wake,
        });
        let threads = (0..threads)
            .map(|n| {
                let (queue, finished) = (queue.clone(), finished.clone());
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("disk-{n}"))
                    .spawn(move || serve(&queue, finished, &shared))
            })
            .collect::<Result<_, _>>()?;
        Ok(Pool {
            work,
            done,
            shared,
            threads,
        })
    }

    /// Queues work. Never waits.
    ///
    /// # Errors
    /// Gives the work back if the queue is full, or the threads are gone.
    pub fn submit(&self, work: Work) -> Result<(), Work> {
        self.work.try_send(work).map_err(|error| match error {
            TrySendError::Full(work) | TrySendError::Disconnected(work) => work,
        })
    }

    /// What is over by now. To be called after each wake-up until it is empty.
    pub fn drain(&self) -> impl Iterator<Item = Done> + '_ {
        // Partner: the swap in `serve`. Cleared before looking: what is sent after it wakes again.
        self.shared.signalled.swap(false, Ordering::AcqRel);
        self.done.try_iter()
    }

    /// Ends the threads and waits for them: nobody writes to the image any more. False: the time is
    /// over, and some still do.
    pub fn join(self, patience: Duration) -> bool {
        drop(self.work);
        let until = Instant::now() + patience;
        // Each thread holds an end of the channel until it is over.
        loop {
            match self.done.recv_deadline(until) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
        true
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pool({} threads, {} queued)",
            self.threads.len(),
            self.work.len()
        )
    }
}

fn serve(queue: &Receiver<Work>, finished: Sender<Done>, shared: &Shared) {
    for Work { token, op, pieces } in queue {
        let result = perform(shared, op, &pieces);
        // The pages first: the loop may unmap them as soon as it hears of the end.
        drop(pieces);
        if finished.send(Done { token, result }).is_err() {
            return;
        }
        // Partner: the swap in `drain`. Many completions, one wake-up.
        if !shared.signalled.swap(true, Ordering::AcqRel) {
            (shared.wake)();
        }
    }
}

/// Does all of it, or says where it stopped.
fn perform(shared: &Shared, op: DiskOp, pieces: &[Piece]) -> Result<(), Fault> {
    let file = &shared.file;
    if op == DiskOp::Flush {
        return flush(shared).map_err(|cause| Fault {
            op,
            at: 0,
            len: 0,
            cause,
        });
    }
    if op == DiskOp::Write && shared.flush_failed.is_noted() {
        return Err(Fault {
            op,
            at: pieces.first().map_or(0, |piece| piece.at),
            len: pieces.iter().map(|piece| piece.len).sum(),
            cause: Cause::FlushFailed,
        });
    }
    for piece in pieces {
        let mut done = 0;
        while done < piece.len {
            let (offset, len, at) = (
                piece.offset + done,
                piece.len - done,
                piece.at + done as u64,
            );
            let moved = retry_interrupted(|| match op {
                DiskOp::Read => piece.pages.read_from_file(offset, len, file.as_fd(), at),
                _ => piece.pages.write_to_file(offset, len, file.as_fd(), at),
            });
            match moved {
                Ok(0) => {
                    return Err(Fault {
                        op,
                        at,
                        len,
                        cause: Cause::Cut,
                    });
                }
                Ok(n) => done += n,
                Err(errno) => {
                    return Err(Fault {
                        op,
                        at,
                        len,
                        cause: Cause::System(errno),
                    });
                }
            }
        }
    }
    Ok(())
}

/// Makes durable what was written, unless that failed once.
fn flush(shared: &Shared) -> Result<(), Cause> {
    let _alone = shared
        .flushing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if shared.flush_failed.is_noted() {
        return Err(Cause::FlushFailed);
    }
    retry_interrupted(|| rustix::fs::fdatasync(&shared.file)).map_err(|errno| {
        shared.flush_failed.note();
        Cause::System(errno)
    })
}

fn retry_interrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
