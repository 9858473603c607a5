//! The thread that writes the state to its file, while the service goes on.

use super::super::state::{BadState, Snapshot, State, can_save};
use super::error::ServiceError;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use libgnt::machine::Now;
use mio::Waker;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// From the end of a write to the next one, at least. That much may be lost with the power.
const PAUSE: Duration = Duration::from_millis(200);

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
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
    saved: Option<(u64, u64)>,
    not_before: Now,
}

impl Saver {
    pub(super) fn start(path: PathBuf, waker: Arc<Waker>) -> std::io::Result<Saver> {
        let (orders, work) = bounded::<Snapshot>(1);
        let (tell, done) = bounded(1);
        let file = path.clone();
        let thread = std::thread::Builder::new()
            .name("xenstore-state".into())
            .spawn(move || {
                for snapshot in work {
                    save(&file, &snapshot);
                    drop(snapshot);
                    let _ = tell.send(());
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
        })
    }

    /// Has it to be asked again, and when?
    pub(super) fn turn(
        &mut self,
        now: Now,
        version: (u64, u64),
        snapshot: impl FnOnce() -> Snapshot,
    ) -> Option<Duration> {
        if self.is_busy && self.done.try_recv() != Err(TryRecvError::Empty) {
            self.is_busy = false;
            self.not_before = now + PAUSE;
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

    /// The last state, at the end. Waits for what is being written.
    pub(super) fn finish(&mut self, snapshot: &Snapshot) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        save(&self.path, snapshot);
    }
}

fn save(path: &Path, snapshot: &Snapshot) {
    if let Err(error) = State::of(snapshot).save(path) {
        // The old file is there still. The next change tries again.
        tracing::error!(path = %path.display(), %error, "the store's state cannot be written");
    }
}
