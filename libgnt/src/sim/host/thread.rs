//! A host in a thread, for tests and for programs that bring their own Xen.

use super::{Host, Services, Stats, StopHandle};
use crate::error::{Error, Result};
use crate::sim::core::Config;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A running host. Stopped, and its directory's socket and lock removed, when dropped.
#[derive(Debug)]
pub struct HostThread {
    dir: PathBuf,
    stop: StopHandle,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl HostThread {
    /// Binds, and runs in a new thread. Clients can connect when this returns.
    ///
    /// # Errors
    /// As [`Host::bind`]; EAGAIN if no thread can be made.
    pub fn start(dir: &Path, config: Config, services: Box<dyn Services>) -> Result<Self> {
        let host = Host::bind(dir, config, services)?;
        let (stop, stats) = (host.stop_handle(), host.stats());
        let thread = std::thread::Builder::new()
            .name("sim-host".into())
            .spawn(move || host.run())
            .map_err(|e| {
                let errno = crate::shm::errno_of(&e);
                Error::device("simulated Xen", "start a thread", errno, "")
            })?;
        Ok(HostThread {
            dir: dir.to_owned(),
            stop,
            stats,
            thread: Some(thread),
        })
    }

    /// The directory it serves.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Something to stop it with from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Stops it, and waits until it has.
    ///
    /// # Errors
    /// What [`Host::run`] said.
    pub fn stop(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::HostGone {
                what: "panicked".into(),
            }),
            None => Ok(()),
        }
    }
}

impl Drop for HostThread {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "the simulated Xen's host");
        }
    }
}
