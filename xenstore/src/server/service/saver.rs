//! The thread that writes the state to its file, while the service goes on.

use super::super::state::{BadState, Snapshot, State, can_save};
use super::error::ServiceError;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use libgnt::machine::Now;
use mio::Waker;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// From the end of a write to the next one, at least. That much may be lost with the power.
const PAUSE: Duration = Duration::from_millis(200);
/// The same, after a write that failed: a full disk is not asked five times a second.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Reads the state that a server has left, if there is one, and sees that the next can be written.
pub(super) fn read(path: &Path) -> Result<Option<State>, ServiceError> {
    let io = |operation| {
        move |source| ServiceError::Io {
            operation,
            path: Some(path.to_owned()),
            source,
        }
    };
    can_save(path).map_err(io("write"))?;
    let bad = |cause: BadState| ServiceError::BadState {
        path: path.to_owned(),
        cause,
    };
    match std::fs::read(path) {
        Ok(bytes) => State::decode(&bytes).map(Some).map_err(bad),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io("read")(source)),
    }
}

pub(super) struct Saver {
    path: PathBuf,
    /// One at a time.
    orders: Option<Sender<Snapshot>>,
    done: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
    saved: Option<(u64, u64)>,
    not_before: Now,
    /// The last write failed, and that has been said.
    fails: bool,
}

impl Saver {
    pub(super) fn start(path: PathBuf, waker: Arc<Waker>) -> io::Result<Saver> {
        let (orders, work) = bounded::<Snapshot>(1);
        let (tell, done) = bounded(1);
        let file = path.clone();
        let thread = std::thread::Builder::new()
            .name("xenstore-state".into())
            .spawn(move || {
                for snapshot in work {
                    let result = State::of(&snapshot).save(&file);
                    drop(snapshot);
                    let _ = tell.send(result);
                    let _ = waker.wake();
                }
            })?;
        Ok(Saver {
            path,
            orders: Some(orders),
            done,
            thread: Some(thread),
            is_busy: false,
            saved: None,
            not_before: Now::ZERO,
            fails: false,
        })
    }

    /// Has it to be asked again, and when?
    pub(super) fn turn(
        &mut self,
        now: Now,
        version: (u64, u64),
        snapshot: impl FnOnce() -> Snapshot,
    ) -> Option<Duration> {
        if self.is_busy {
            match self.done.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Err(error)) => self.failed(now, &error),
                Ok(Ok(())) | Err(TryRecvError::Disconnected) => {
                    self.is_busy = false;
                    self.not_before = now + PAUSE;
                    if std::mem::take(&mut self.fails) {
                        tracing::info!(path = %self.path.display(), "the store's state is written again");
                    }
                }
            }
        }
        // Its end wakes the service.
        if self.is_busy || self.saved == Some(version) {
            return None;
        }
        if now < self.not_before {
            return Some(self.not_before - now);
        }
        if let Some(orders) = &self.orders {
            self.is_busy = orders.try_send(snapshot()).is_ok();
            self.saved = Some(version);
        }
        None
    }

    /// What is in memory is served as before, the old file is there still, and all is written again soon.
    fn failed(&mut self, now: Now, error: &io::Error) {
        self.is_busy = false;
        self.saved = None;
        self.not_before = now + PAUSE_AFTER_FAILURE;
        if !std::mem::replace(&mut self.fails, true) {
            tracing::error!(
                path = %self.path.display(), %error,
                "the store's state cannot be written; it is tried again every second, make room or give the directory back"
            );
        }
    }

    /// The last state, at the end. Waits for what is being written.
    ///
    /// # Errors
    /// The state as it was written last is all that the next server will find.
    pub(super) fn finish(&mut self, snapshot: &Snapshot) -> Result<(), ServiceError> {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        State::of(snapshot)
            .save(&self.path)
            .map_err(|source| ServiceError::Io {
                operation: "write the last state",
                path: Some(self.path.clone()),
                source,
            })
    }
}
