//! What can go wrong with a device as a whole.

use crate::machine::{DeviceError, IoError};
use pv_xenstore::toolstack::DriverBound;
use std::time::Duration;

/// What can go wrong. An I/O's own failure is [`IoError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// Grants, events, or the platform.
    #[error(transparent)]
    Xen(#[from] libgnt::Error),
    /// Xenstore.
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
        /// Its name.
        device: String,
        /// Why.
        cause: String,
        /// What to do.
        cure: String,
    },
    /// The kernel's own driver has the device.
    #[error(transparent)]
    KernelDriver(#[from] DriverBound),
    /// The back end's xenstore nodes make no sense.
    #[error("{0}")]
    Nodes(String),
    /// The deadline passed.
    #[error("{what}: not done after {waited:?}; {waits_for}")]
    Timeout {
        /// What was wanted.
        what: String,
        /// How long.
        waited: Duration,
        /// What did not come.
        waits_for: String,
    },
    /// Told to stop (`FrontConfig::stop`).
    #[error("interrupted while waiting for a back end for {0}")]
    Interrupted(String),
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, #[source] std::io::Error),
    /// The front end's thread is gone.
    #[error("the front end's thread has ended: {0}")]
    ThreadGone(String),
}
