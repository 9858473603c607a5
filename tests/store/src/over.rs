//! The way to the daemon: its socket, or the kernel's device.

use libgnt::{DomId, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_xenstore::Client;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Where the daemon listens in dom0.
const SOCKET: &str = "/run/xenstored/socket";
/// The kernel's device (`drivers/xen/xenbus/xenbus_dev_frontend.c`).
const DEVICE: &str = "/dev/xen/xenbus";

/// Which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// The daemon's socket, with dom0's rights.
    Socket(PathBuf),
    /// The device of the domain that this runs in.
    Device(PathBuf),
}

impl Over {
    /// `socket` and `device` are the usual ones; anything else is a socket's path.
    pub fn named(name: &str) -> Over {
        match name {
            "socket" => Over::Socket(SOCKET.into()),
            "device" => Over::Device(DEVICE.into()),
            path => Over::Socket(path.into()),
        }
    }

    /// Is it the kernel's device?
    pub fn is_device(&self) -> bool {
        matches!(self, Over::Device(_))
    }

    /// A connection without a client around it.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn open(&self) -> std::io::Result<OwnedFd> {
        match self {
            Over::Socket(path) => UnixStream::connect(path).map(OwnedFd::from),
            Over::Device(path) => {
                let file = std::fs::File::options().read(true).write(true).open(path);
                file.map(OwnedFd::from)
            }
        }
    }

    /// A client over a new connection.
    ///
    /// # Errors
    /// Nobody is there: what to do.
    pub fn client(&self) -> Result<Client> {
        let (Over::Socket(path) | Over::Device(path)) = self;
        let failed = |error: &dyn std::fmt::Display| {
            Error::file(path, error, "run this as root where xenstored is reached")
        };
        let fd = self.open().map_err(|error| failed(&error))?;
        Client::from_stream(fd).map_err(|error| failed(&error))
    }

    /// Whose rights these are: dom0's over the socket, and its own domain's over the device.
    ///
    /// # Errors
    /// The kernel or the daemon does not say.
    pub fn domid(&self) -> Result<DomId> {
        match self {
            Over::Socket(_) => Ok(DomId::DOM0),
            Over::Device(_) => {
                let domid = self.client()?.read_parsed("domid");
                domid.map(DomId).map_err(|error| {
                    Error::environment("this domain's number", error, "see its node domid")
                })
            }
        }
    }
}

/// A process of this domain, for what needs more than xenstore.
///
/// # Errors
/// There is no Xen, or its devices cannot be used.
pub(crate) fn platform(process: &str) -> Result<std::sync::Arc<dyn libgnt::Platform>> {
    let failed =
        |error| Error::environment("Xen's devices", error, "run this in a domain, as root");
    libgnt::open(&PlatformChoice::Linux, None, process).map_err(failed)
}
