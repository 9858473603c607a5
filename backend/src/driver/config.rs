//! What a back end is built with, how it is stopped, and how it fails.

use super::claim::ClaimError;
use crate::agent::{DEFAULT_CACHE, DEFAULT_MAX_ZOMBIES, Sabotage};
use crate::disk::{Backing, DiskError, pool};
use crate::hooks::Hooks;
use libgnt::DomId;
use pv_xenstore::toolstack::{DeviceClass, DeviceId, DriverBound};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a front may take to close, unless the configuration says otherwise: so that Ctrl-C ends
/// a back end within a second.
pub const DEFAULT_CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// Which ways of moving data a front may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Persistent grants if the front has them, else a map for each request.
    #[default]
    Auto,
    /// A map and an unmap for each request.
    Map,
    /// Grant copy.
    Copy,
    /// As `auto`, and a word in the log if the front does not want it.
    Persistent,
}

/// One device.
#[derive(Debug)]
pub struct BackendConfig {
    /// Whose device.
    pub front: DomId,
    /// Its number; 51712 is xvda.
    pub device: DeviceId,
    /// Its class: `vbd`, unless it was created in another.
    pub class: DeviceClass,
    /// Where this kernel shows which of its own drivers have taken devices; `None`: `/sys` on the
    /// platform `linux`, nowhere on others.
    pub sysfs: Option<PathBuf>,
    /// Where the sectors are.
    pub backing: Backing,
    /// Refuse writes, whatever the device's node `mode` says. If that says read-only, they are refused
    /// in any case.
    pub read_only: bool,
    /// How data travels.
    pub mode: Mode,
    /// Unmaps that may be outstanding before no more requests are taken.
    pub max_zombies: usize,
    /// Persistent grants to keep mapped; at least 352, a full ring's.
    pub cache: usize,
    /// Threads for a file's I/O.
    pub disk_threads: usize,
    /// How long to look for more work before sleeping, at most. Zero: never.
    pub spin: Duration,
    /// How long the front may take to close when the back end is stopped; then it is left alone.
    pub close_deadline: Duration,
    /// When the back end is stopped, leave a ring in service as it is, for the next back end to go on
    /// with: the front notices nothing but a pause. Not for a disk in memory.
    pub hand_over: bool,
    /// Where the device is claimed, and requests in flight are recorded; [`Platform::run_dir`] if it is
    /// not given. All back ends of a domain must have the same.
    ///
    /// [`Platform::run_dir`]: libgnt::Platform::run_dir
    pub run_dir: Option<PathBuf>,
    /// Who is told, and who is lent pages.
    pub hooks: Hooks,
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl BackendConfig {
    /// The defaults, for a device of a front.
    pub fn new(front: DomId, device: DeviceId, backing: Backing) -> Self {
        BackendConfig {
            front,
            device,
            class: DeviceClass::VBD,
            sysfs: None,
            backing,
            read_only: false,
            mode: Mode::Auto,
            max_zombies: DEFAULT_MAX_ZOMBIES,
            cache: DEFAULT_CACHE,
            disk_threads: pool::DEFAULT_THREADS,
            spin: Duration::from_micros(50),
            close_deadline: DEFAULT_CLOSE_DEADLINE,
            hand_over: false,
            run_dir: None,
            hooks: Hooks::default(),
            sabotage: Sabotage::None,
        }
    }
}

/// Why a back end cannot start, or cannot go on. A front's misbehaviour never ends here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The image.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Somebody else serves it.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// A Xen device.
    #[error(transparent)]
    Xen(#[from] libgnt::Error),
    /// xenstore.
    #[error(transparent)]
    Xenstore(#[from] pv_xenstore::Error),
    /// The event loop's own system calls.
    #[error("{what}: {source}")]
    System {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another back end serves the front's ring.
    #[error("{0}")]
    Served(String),
    /// The kernel's own driver has the device.
    #[error(transparent)]
    KernelDriver(#[from] DriverBound),
    /// The device is not there.
    #[error("{0}")]
    NoDevice(String),
}

#[derive(Default)]
struct StopShared {
    asked: AtomicBool,
    waker: Mutex<Option<Arc<mio::Waker>>>,
}

/// Stops a back end from another thread, or a signal handler's thread. Clones share one switch.
#[derive(Clone, Default)]
pub struct StopHandle {
    shared: Arc<StopShared>,
}

impl StopHandle {
    /// A switch that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the back end to close the device and return.
    pub fn stop(&self) {
        // Partner: the load in `is_stopped`, after the wake-up.
        self.shared.asked.store(true, Ordering::Release);
        let waker = self
            .shared
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*waker
            && let Err(error) = waker.wake()
        {
            tracing::error!(%error, "cannot wake the back end to stop it");
        }
    }

    /// Was it asked?
    pub fn is_stopped(&self) -> bool {
        self.shared.asked.load(Ordering::Acquire)
    }

    pub(super) fn register(&self, waker: Arc<mio::Waker>) {
        *self
            .shared
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }
}

impl std::fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StopHandle({})", self.is_stopped())
    }
}
