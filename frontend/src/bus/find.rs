//! Finds the device that the toolstack made.

use crate::config::{FrontConfig, name};
use crate::error::FrontError;
use pv_xenstore::Client;
use pv_xenstore::toolstack::{KernelCheck, Side};
use pv_xenstore::xenbus::device::Link;
use pv_xenstore::xenbus::feature::{BadNode, ReadError};

/// Where a device is in xenstore.
#[derive(Debug)]
pub(super) struct Found {
    /// Relative to our home: `device/CLASS/N`.
    pub front: String,
    pub link: Link,
    /// Does the kernel's own driver leave it alone?
    pub kernel: KernelCheck,
}

/// Looks where the device is, and whether it is free.
pub(super) fn find(client: &Client, config: &FrontConfig) -> Result<Found, FrontError> {
    let (class, device) = (&config.class, config.device);
    let front = format!("device/{class}/{device}");
    let no_device = |cause: String| FrontError::NoDevice {
        device: name(device),
        cause,
        cure: "let the toolstack create it, as `xl block-attach` does".into(),
    };
    let link = Link::read(client, &front).map_err(|error| match error {
        ReadError::Store(error) => error.into(),
        ReadError::Node(BadNode::Missing { path }) => {
            no_device(format!("this domain's xenstore has no {path}"))
        }
        other => no_device(other.to_string()),
    })?;
    let sysfs = config.sysfs.as_deref();
    let kernel = KernelCheck::new(&*config.platform, sysfs, Side::Front, class, device);
    kernel.look()?;
    Ok(Found {
        front,
        link,
        kernel,
    })
}
