//! Finds the device that the toolstack made.

use crate::config::{FrontConfig, name};
use crate::error::FrontError;
use libgnt::DomId;
use pv_xenstore::toolstack::{KernelCheck, Side};
use pv_xenstore::{Client, value};

/// Where a device is in xenstore.
#[derive(Debug)]
pub(super) struct Found {
    /// Relative to our home: `device/CLASS/N`.
    pub front: String,
    /// Absolute.
    pub back: String,
    pub back_domid: DomId,
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
    let read = |node: &str| {
        let path = format!("{front}/{node}");
        match client.try_read(&path)? {
            Some(value) => Ok(value),
            None => Err(no_device(format!("this domain's xenstore has no {path}"))),
        }
    };
    let back = read("backend")?;
    let back = String::from_utf8_lossy(value::trimmed(&back)).into_owned();
    let id = read("backend-id")?;
    let back_domid = value::number(&id).map(DomId).ok_or_else(|| {
        no_device(format!(
            "{front}/backend-id is \"{}\", which is no domain",
            value::shown(&id)
        ))
    })?;
    let sysfs = config.sysfs.as_deref();
    let kernel = KernelCheck::new(&*config.platform, sysfs, Side::Front, class, device);
    kernel.look()?;
    Ok(Found {
        front,
        back,
        back_domid,
        kernel,
    })
}
