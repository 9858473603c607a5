//! What can go wrong with a device as a whole.

use crate::machine::{DeviceError, IoError};
use pv_xenstore::toolstack::DriverBound;
use std::time::Duration;

/// What can go wrong. An I/O's own failure is [`IoError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// Granting pages, an event channel, or the platform failed.
    #[error(transparent)]
    Xen(#[from] libgnt::Error),
    /// Xenstore failed.
    #[error(transparent)]
    Xenstore(#[from] pv_xenstore::Error),
    /// The device takes no more I/O.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// One I/O failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The toolstack made no such device, or wrote nonsense.
    #[error("{device}: {cause}; {cure}")]
    NoDevice {
        /// What people call it.
        device: String,
        /// Why.
        cause: String,
        /// What to do, without the names of any programs of ours.
        cure: String,
    },
    /// The kernel's own driver has the device.
    #[error(transparent)]
    KernelDriver(#[from] DriverBound),
    /// Something did not come in time.
    #[error("{what}: not done after {waited:?}; {waits_for}")]
    Timeout {
        /// What was wanted.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// What did not come.
        waits_for: String,
    },
    /// `FrontConfig::stop` was asked while the device was opened.
    #[error("interrupted while waiting for a back end for {0}")]
    Interrupted(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The front end's thread is gone.
    #[error("the front end's thread has ended: {0}")]
    ThreadGone(String),
}

/// A system call's failure, by the call's name.
pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> FrontError {
    move |source| FrontError::System { what, source }
}
