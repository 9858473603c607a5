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
