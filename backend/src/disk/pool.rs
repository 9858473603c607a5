//! Threads that do the disk's I/O, so that a slow disk never stops the event loop.

use super::Piece;
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
mod tests {
    use super::*;
    use libgnt::SharedPages;

    const PATIENCE: Duration = Duration::from_secs(20);

    impl FailedFlush for AtomicBool {
        fn is_noted(&self) -> bool {
            self.load(Ordering::Acquire)
        }

        fn note(&self) {
            // Partner: the load in `is_noted`.
            self.store(true, Ordering::Release);
        }
    }

    fn pages() -> Arc<SharedPages> {
        Arc::new(SharedPages::anonymous(1).expect("memory"))
    }

    struct Rig {
        pool: Pool,
        woken: Receiver<()>,
    }

    impl Rig {
        fn on(file: File) -> Self {
            // Wake-ups are merged: as in the loop, one that is not looked at yet is enough.
            let (wake, woken) = bounded(1);
            let wake: Wake = Arc::new(move || {
                let _ = wake.try_send(());
            });
            Rig {
                pool: Pool::start(
                    Arc::new(file),
                    2,
                    32,
                    Arc::new(AtomicBool::new(false)),
                    wake,
                )
                .expect("threads"),
                woken,
            }
        }

        /// Waits as the loop does: for wake-ups.
        fn collect(&self, count: usize) -> Vec<Done> {
            let mut all: Vec<Done> = self.pool.drain().collect();
            while all.len() < count {
                self.woken.recv_timeout(PATIENCE).expect("no wake-up");
                all.extend(self.pool.drain());
            }
            all
        }

        fn one(&self, op: DiskOp, pieces: Vec<Piece>) -> Result<(), Fault> {
            self.pool
                .submit(Work {
                    token: 1,
                    op,
                    pieces,
                })
                .expect("room");
            self.collect(1).pop().expect("one").result
        }
    }

    fn piece(pages: &Arc<SharedPages>, len: usize, at: u64) -> Vec<Piece> {
        vec![Piece {
            pages: Arc::clone(pages),
            offset: 0,
            len,
            at,
        }]
    }

    #[test]
    fn every_completion_is_seen_although_wake_ups_are_merged() {
        let file = tempfile::tempfile().expect("file");
        file.set_len(1 << 20).expect("size");
        let rig = Rig::on(file);
        let pages = pages();
        for round in 0..200 {
            for token in 0..32 {
                let pieces = piece(&pages, 512, (round * 32 + token) % 2048 * 512);
                let work = Work {
                    token,
                    op: DiskOp::Write,
                    pieces,
                };
                rig.pool.submit(work).expect("a full ring fits");
            }
            let done = rig.collect(32);
            assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
        }
        // Nobody holds the pages when the last completion is seen.
        assert_eq!(Arc::strong_count(&pages), 1);
        assert_eq!(rig.one(DiskOp::Flush, Vec::new()), Ok(()));
        assert!(rig.pool.join(PATIENCE));
    }

    #[test]
    fn a_full_disk_is_an_error_with_a_name() {
        let rig = Rig::on(
            File::options()
                .write(true)
                .open("/dev/full")
                .expect("/dev/full"),
        );
        let fault = rig
            .one(DiskOp::Write, piece(&pages(), 4096, 8192))
            .expect_err("full");
        assert_eq!(
            (fault.cause, fault.at, fault.len),
            (Cause::System(Errno::NOSPC), 8192, 4096)
        );
        assert!(fault.to_string().contains("no space left"), "{fault}");
    }

    #[test]
    fn an_image_that_was_cut_is_an_error_after_what_is_left() {
        let file = tempfile::tempfile().expect("file");
        file.set_len(1000).expect("size");
        let fault = Rig::on(file)
            .one(DiskOp::Read, piece(&pages(), 4096, 0))
            .expect_err("cut");
        assert_eq!((fault.cause, fault.at, fault.len), (Cause::Cut, 1000, 3096));
    }

    /// Reads and writes work, a flush does not.
    fn unflushable() -> File {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/zero")
            .expect("/dev/zero")
    }

    #[test]
    fn after_a_failed_flush_nothing_is_written_or_called_safe() {
        let rig = Rig::on(unflushable());
        let pages = pages();
        let write = || rig.one(DiskOp::Write, piece(&pages, 4096, 8192));
        let flush = || rig.one(DiskOp::Flush, Vec::new());
        let read = || rig.one(DiskOp::Read, piece(&pages, 4096, 8192));
        assert_eq!(write(), Ok(()));
        let first = flush().expect_err("it cannot be flushed");
        assert!(matches!(first.cause, Cause::System(_)), "{first}");
        assert!(first.to_string().contains("may be lost"), "{first}");
        for _ in 0..2 {
            let refused = write().expect_err("a flush failed");
            let expected = Fault {
                op: DiskOp::Write,
                at: 8192,
                len: 4096,
                cause: Cause::FlushFailed,
            };
            assert_eq!(refused, expected);
            let refused = flush().expect_err("a flush failed");
            assert_eq!(refused.cause, Cause::FlushFailed);
            assert_eq!(read(), Ok(()), "reads go on");
        }
        // Another device knows nothing of it.
        let again = Rig::on(unflushable());
        assert_eq!(again.one(DiskOp::Write, piece(&pages, 4096, 8192)), Ok(()));
    }

    #[test]
    fn a_flush_waits_for_the_one_before_it_and_fails_with_it() {
        let rig = Rig::on(unflushable());
        // As the one before it does while the kernel is at work.
        let first = rig.pool.shared.flushing.lock().expect("nobody panicked");
        let second = Work {
            token: 1,
            op: DiskOp::Flush,
            pieces: Vec::new(),
        };
        rig.pool.submit(second).expect("room");
        while !rig.pool.work.is_empty() {
            std::thread::yield_now();
        }
        rig.pool.shared.flush_failed.note();
        drop(first);
        let fault = rig.collect(1)[0].result.expect_err("the first failed");
        // The kernel would have told it that all is well.
        assert_eq!(fault.cause, Cause::FlushFailed);
    }

    #[test]
    fn join_waits_for_what_was_queued() {
        let file = tempfile::tempfile().expect("file");
        let check = file.try_clone().expect("clone");
        let rig = Rig::on(file);
        let pages = pages();
        pages.fill(0, 4096, 0x5a);
        for token in 0..32 {
            let work = Work {
                token,
                op: DiskOp::Write,
                pieces: piece(&pages, 512, token * 512),
            };
            rig.pool.submit(work).expect("room");
        }
        assert!(rig.pool.join(PATIENCE));
        assert_eq!(check.metadata().expect("stat").len(), 32 * 512);
    }
}
