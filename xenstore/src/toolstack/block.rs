//! A block device's two directories.

use super::{DeviceId, clear_error, read_error};
use crate::client::{Client, Transaction};
use crate::error::{Error, Result};
use crate::path::home;
use crate::perms::{Permission, Rights};
use crate::xenbus::XenbusState;
use libgnt::DomId;
use std::time::{Duration, Instant};

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
    match client.read(&format!("{back_directory}/mode")) {
        Ok(value) => Ok(Some(Mode::parse(&value))),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A block device as the toolstack describes it to both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Who uses it.
    pub front_domid: DomId,
    /// Who serves it.
    pub back_domid: DomId,
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

/// Where a device's directories are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePaths {
    /// `/local/domain/F/device/vbd/N`
    pub front: String,
    /// `/local/domain/B/backend/vbd/F/N`
    pub back: String,
}

impl DevicePaths {
    /// The paths of a device.
    pub fn new(front_domid: DomId, back_domid: DomId, devid: DeviceId) -> DevicePaths {
        DevicePaths {
            front: format!("{}/device/vbd/{devid}", home(front_domid)),
            back: format!("{}/backend/vbd/{}/{devid}", home(back_domid), front_domid.0),
        }
    }
}

/// How a removal went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Both ends closed before the deadline. If not, the directories were taken away from under them.
    pub closed: bool,
    /// The states that they had reached; `None`: its directory was gone.
    pub states: [Option<XenbusState>; 2],
    /// What the front end reported.
    pub front_error: Option<String>,
    /// What the back end reported.
    pub back_error: Option<String>,
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
            devid,
            mode: Mode::ReadWrite,
            backend_type: "file".into(),
            params: params.into(),
            extra: Vec::new(),
        }
    }

    /// Where its directories are.
    pub fn paths(&self) -> DevicePaths {
        DevicePaths::new(self.front_domid, self.back_domid, self.devid)
    }

    /// Creates the device, all or nothing: both directories, their permissions before any value,
    /// the values, and `state` = 1 last. dom0 only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a domain is missing or the device is there already.
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
        clear_error(client, &paths.front)?;
        clear_error(client, &paths.back)?;
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
            ("removable", "0"),
            ("bootable", "1"),
            ("dev", &dev),
            ("type", &self.backend_type),
            ("params", &self.params),
            ("mode", mode),
            ("device-type", "disk"),
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
            ("virtual-device", &devid),
            ("device-type", "disk"),
            ("state", starting),
        ];
        for (name, value) in front_nodes {
            tx.write(&format!("{}/{name}", paths.front), value)?;
        }
        Ok(())
    }

    /// Asks both ends to close (`online` = 0, the back end's `state` = 5), waits until they have
    /// or the time is over, and removes both directories and the parents that only held them.
    /// dom0 only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such device, and the connection's.
    pub fn remove(&self, client: &Client, timeout: Duration) -> Result<Removed> {
        let deadline = Instant::now() + timeout;
        let paths = self.paths();
        let nodes = [
            format!("{}/state", paths.front),
            format!("{}/state", paths.back),
        ];
        client.transaction(|tx| {
            if !tx.exists(&paths.back)? {
                return if tx.exists(&paths.front)? {
                    Ok(())
                } else {
                    Err(Error::Invalid(format!(
                        "device {} cannot be removed: there is neither {} nor {}",
                        self.devid, paths.front, paths.back
                    )))
                };
            }
            tx.write(&format!("{}/online", paths.back), "0")?;
            let state = tx
                .try_read(&nodes[1])?
                .map(|value| XenbusState::parse(&value));
            if state != Some(XenbusState::Closed) {
                tx.write(&nodes[1], XenbusState::Closing.as_str())?;
            }
            Ok(())
        })?;

        let token = format!("remove-{:016x}", fastrand::u64(..));
        for node in &nodes {
            client.watch(node, &token)?;
        }
        let waited = wait_closed(client, &nodes, &token, deadline);
        for node in &nodes {
            client.unwatch(node, &token)?;
        }
        client.drop_events(&token);
        let states = waited?;

        let front_error = read_error(client, &paths.front)?;
        let back_error = read_error(client, &paths.back)?;
        client.transaction(|tx| {
            remove_with_parents(
                tx,
                &paths.front,
                &format!("{}/device", home(self.front_domid)),
            )?;
            remove_with_parents(tx, &paths.back, &home(self.back_domid))
        })?;
        clear_error(client, &paths.front)?;
        clear_error(client, &paths.back)?;
        let closed = states
            .iter()
            .all(|s| matches!(s, None | Some(XenbusState::Closed)));
        Ok(Removed {
            closed,
            states,
            front_error,
            back_error,
        })
    }
}

fn wait_closed(
    client: &Client,
    nodes: &[String; 2],
    token: &str,
    deadline: Instant,
) -> Result<[Option<XenbusState>; 2]> {
    loop {
        let mut states = [None; 2];
        for (state, node) in states.iter_mut().zip(nodes) {
            *state = client
                .try_read(node)?
                .map(|value| XenbusState::parse(&value));
        }
        if states
            .iter()
            .all(|s| matches!(s, None | Some(XenbusState::Closed)))
        {
            return Ok(states);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !client.wait_token(token, left)? {
            return Ok(states);
        }
    }
}

/// Removes a directory, and those above it, below `keep`, that this leaves empty.
fn remove_with_parents(tx: &Transaction<'_>, path: &str, keep: &str) -> Result<()> {
    let mut path = path;
    while path.len() > keep.len() {
        let Some((parent, _)) = path.rsplit_once('/') else {
            break;
        };
        match tx.rm(path) {
            Ok(()) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        match tx.directory(parent) {
            Ok(names) if !names.is_empty() => break,
            Ok(_) => path = parent,
            // The parent is gone with its domain.
            Err(error) if error.is_gone() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
