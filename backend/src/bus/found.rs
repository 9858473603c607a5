//! Finds the device that the toolstack made.

use super::Bus;
use super::offer;
use super::vbd::{Vbd, toolstack_forbids_writes};
use crate::config::Mode;
use crate::disk::Disk;
use crate::error::BackError;
use libgnt::{DomId, Platform};
use pv_xenstore::toolstack::{DeviceKey, DevicePaths, KernelCheck, Side};
use pv_xenstore::xenbus::device::{BackDevice, BackSetting};
use pv_xenstore::xenbus::node;
use pv_xenstore::{Client, Result, XenbusState};
use std::path::Path;
use std::sync::Arc;

/// A device, as it was found.
pub(crate) struct Found {
    /// The domain that this process runs in.
    pub own: DomId,
    paths: DevicePaths,
    kernel: KernelCheck,
    client: Client,
    /// Nobody has served it yet: whatever an earlier back end left is not of this device.
    pub is_new: bool,
}

impl Found {
    /// Connects, and finds the device's directories. Nothing is written before [`Found::start`].
    ///
    /// # Errors
    /// [`BackError::NoDevice`] if the toolstack has not created the device;
    /// [`BackError::KernelDriver`] if the kernel has taken it.
    pub fn find(
        platform: &dyn Platform,
        device: &DeviceKey,
        sysfs: Option<&Path>,
    ) -> std::result::Result<Self, BackError> {
        let front_domid = device.front_domid;
        let client = Client::connect(platform)?;
        let own = DomId(client.read_parsed("domid")?);
        let mut paths = device.paths(own);
        let frontend = format!("{}/frontend", paths.back);
        match client.read_string(&frontend) {
            Ok(path) => paths.front = path,
            Err(error) if error.is_gone() => {
                return Err(BackError::NoDevice {
                    device: device.clone(),
                    path: frontend,
                });
            }
            Err(error) => return Err(error.into()),
        }
        let side = Side::Back { front_domid };
        let kernel = KernelCheck::new(platform, sysfs, side, &device.class, device.devid);
        kernel.look()?;
        let state = node::read_state(&client, &paths.back)?;
        Ok(Found {
            own,
            paths,
            kernel,
            client,
            is_new: state == Some(XenbusState::Initialising),
        })
    }

    /// As [`toolstack_forbids_writes`].
    ///
    /// # Errors
    /// The connection's.
    pub fn toolstack_forbids_writes(&self) -> Result<bool> {
        toolstack_forbids_writes(&self.client, &self.paths.back)
    }

    /// Offers the disk, and starts the thread.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start(
        self,
        platform: Arc<dyn Platform>,
        (disk, mode): (&Disk, Mode),
    ) -> std::io::Result<Bus> {
        let protocol = Vbd {
            kernel: self.kernel,
            offered: offer::of(disk, mode),
            read_only: false,
        };
        let DevicePaths { front, back } = self.paths;
        let open = Box::new(move || Client::connect(&*platform));
        BackDevice::start(protocol, BackSetting { front, back }, (self.client, open))
    }
}
