//! How a back end fails.

use crate::claim::ClaimError;
use crate::disk::DiskError;
use pv_xenstore::toolstack::{DeviceKey, DriverBound};

/// Why a back end cannot start, or cannot go on. A front's misbehaviour never ends here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackError {
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
    /// The toolstack has not created the device.
    #[error("{device} is not in xenstore: {path} is missing; let the toolstack create it")]
    NoDevice {
        /// The device.
        device: DeviceKey,
        /// The node that is missing.
        path: String,
    },
}
