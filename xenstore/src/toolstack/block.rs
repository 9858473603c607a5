//! A block device's two directories.

use super::class::DeviceClass;
use super::device_id::DeviceId;
use super::errors::forget_errors;
use super::place::{DeviceKey, DevicePaths};
use super::remove::{Removed, remove};
use crate::client::{Client, Transaction};
use crate::error::{DeviceTrouble, Error, Result};
use crate::path::home;
use crate::perms::{Permission, Rights};
use crate::value;
use crate::xenbus::XenbusState;
use libgnt::DomId;
use libgnt::proto::blkif::nodes;
use std::time::Duration;

/// `mode` of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `r`
    ReadOnly,
    /// `w`
    ReadWrite,
}

impl Mode {
    /// What the node's value means. Its first letter counts, whatever white space or NULs are around
    /// it. Only `w` allows to write: a word that nobody knows is no permission.
    pub fn parse(value: &[u8]) -> Mode {
        if value.trim_ascii_start().starts_with(b"w") {
            Mode::ReadWrite
        } else {
            Mode::ReadOnly
        }
    }
}

/// The `mode` of a back end's directory; `None` if the toolstack has not written one, or if the
/// directory is gone.
///
/// # Errors
/// The connection's.
pub fn read_mode(client: &Client, back_directory: &str) -> Result<Option<Mode>> {
    let value = client.read_unless_gone(&format!("{back_directory}/{}", nodes::MODE))?;
    Ok(value.map(|value| Mode::parse(&value)))
}

/// What else a back end's directory says of the disk, and a front end has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// `device-type` is `cdrom`.
    pub cdrom: bool,
    /// `removable` is 1.
    pub removable: bool,
}

/// What the toolstack says of the disk; what it does not say is false.
///
/// # Errors
/// The connection's.
pub fn read_medium(client: &Client, back_directory: &str) -> Result<Medium> {
    let read = |name: &str| -> Result<Vec<u8>> {
        let value = client.read_unless_gone(&format!("{back_directory}/{name}"))?;
        Ok(value.unwrap_or_default())
    };
    Ok(Medium {
        cdrom: value::trimmed(&read(nodes::DEVICE_TYPE)?) == b"cdrom",
        removable: value::boolean(&read(nodes::REMOVABLE)?) == Some(true),
    })
}

/// A block device as the toolstack describes it to both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockDevice {
    /// Who uses it.
    pub front_domid: DomId,
    /// Who serves it.
    pub back_domid: DomId,
    /// Its class: `vbd`, unless it is to be kept from the kernels' drivers.
    pub class: DeviceClass,
    /// Its number.
    pub devid: DeviceId,
    /// May the front end write?
    pub mode: Mode,
    /// The back end's `type`: `phy`, `qdisk`, `file`, ….
    pub backend_type: String,
    /// The back end's `params`: the path of the image.
    pub params: String,
    /// Further nodes of the back end's directory.
    pub extra: Vec<(String, String)>,
}

impl BlockDevice {
    /// A writable disk of type `file`.
    pub fn new(
        front_domid: DomId,
        back_domid: DomId,
        devid: DeviceId,
        params: impl Into<String>,
    ) -> BlockDevice {
        BlockDevice {
            front_domid,
            back_domid,
            class: DeviceClass::VBD,
            devid,
            mode: Mode::ReadWrite,
            backend_type: "file".into(),
            params: params.into(),
            extra: Vec::new(),
        }
    }

    /// Which device it is.
    pub fn key(&self) -> DeviceKey {
        DeviceKey::new(self.front_domid, self.class.clone(), self.devid)
    }

    /// Where its directories are.
    pub fn paths(&self) -> DevicePaths {
        self.key().paths(self.back_domid)
    }

    /// Creates the device, all or nothing: both directories, their permissions before any value,
    /// the values, the record by which [`DeviceKey::locate`] finds it, and `state` = 1 last. dom0
    /// only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a domain is missing or the device is there already;
    /// [`DeviceTrouble::LeftBehind`]; the connection's.
    pub fn create(&self, client: &Client) -> Result<DevicePaths> {
        let paths = self.paths();
        if self.front_domid == self.back_domid {
            return Err(Error::Invalid(format!(
                "device {} cannot be created: {} would serve itself; name two domains",
                self.devid, self.front_domid
            )));
        }
        client.transaction(|tx| self.create_in(tx, &paths))?;
        // What an earlier device of this number left behind would mislead.
        forget_errors(client, &paths)?;
        Ok(paths)
    }

    fn create_in(&self, tx: &Transaction<'_>, paths: &DevicePaths) -> Result<()> {
        for (domid, role) in [(self.front_domid, "front"), (self.back_domid, "back")] {
            if !tx.exists(&home(domid))? {
                return Err(Error::Invalid(format!(
                    "device {} cannot be created: there is no {domid} for the {role} end; start it first",
                    self.devid
                )));
            }
        }
        for directory in [&paths.front, &paths.back] {
            if tx.exists(directory)? {
                return Err(Error::Invalid(format!(
                    "device {} cannot be created: {directory} is there already; remove it first, or choose another device number",
                    self.devid
                )));
            }
        }
        if let Some(back) = self.key().left_behind(tx)? {
            return Err(Error::Device {
                trouble: DeviceTrouble::LeftBehind,
                text: format!(
                    "device {} cannot be created: {back}, the back end of an earlier device of this \
                     number, is still there; remove that first",
                    self.devid
                ),
            });
        }
        self.key().record(tx, paths)?;
        let owner_and_reader = |owner, reader| {
            [
                Permission::new(Rights::None, owner),
                Permission::new(Rights::Read, reader),
            ]
        };
        tx.mkdir(&paths.front)?;
        tx.set_perms(
            &paths.front,
            &owner_and_reader(self.front_domid, self.back_domid),
        )?;
        tx.mkdir(&paths.back)?;
        tx.set_perms(
            &paths.back,
            &owner_and_reader(self.back_domid, self.front_domid),
        )?;

        let (front_id, back_id) = (
            self.front_domid.0.to_string(),
            self.back_domid.0.to_string(),
        );
        let devid = self.devid.to_string();
        let dev = self.devid.name().unwrap_or_else(|| devid.clone());
        let mode = if self.mode == Mode::ReadWrite {
            "w"
        } else {
            "r"
        };
        let starting = XenbusState::Initialising.as_str();
        let back_nodes = [
            ("frontend", paths.front.as_str()),
            ("frontend-id", &front_id),
            ("online", "1"),
            (nodes::REMOVABLE, "0"),
            (nodes::BOOTABLE, "1"),
            (nodes::DEV, &dev),
            (nodes::TYPE, &self.backend_type),
            (nodes::PARAMS, &self.params),
            (nodes::MODE, mode),
            (nodes::DEVICE_TYPE, "disk"),
        ];
        let extra = self
            .extra
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in back_nodes
            .into_iter()
            .chain(extra)
            .chain([("state", starting)])
        {
            tx.write(&format!("{}/{name}", paths.back), value)?;
        }
        let front_nodes = [
            ("backend", paths.back.as_str()),
            ("backend-id", &back_id),
            (nodes::VIRTUAL_DEVICE, &devid),
            (nodes::DEVICE_TYPE, "disk"),
            ("state", starting),
        ];
        for (name, value) in front_nodes {
            tx.write(&format!("{}/{name}", paths.front), value)?;
        }
        Ok(())
    }

    /// Removes it, as [`remove`] says.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such device, and the connection's.
    pub fn remove(&self, client: &Client, timeout: Duration) -> Result<Removed> {
        remove(client, &self.key(), &self.paths(), timeout)
    }
}
