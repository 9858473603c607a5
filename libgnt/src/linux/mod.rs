//! The real platform: Xen's device nodes on Linux.
//!
//! [`abi`] is what C says, [`ioctl`] the seam to the system calls; one module a device above them.
//! Nothing here retries, batches or remembers (but for EINTR): that is [`crate::grant`]'s and
//! [`crate::event`]'s, written once for this platform and the simulated one.

pub mod abi;
mod copy;
mod device;
mod dmabuf;
pub mod evtchn;
pub mod gntalloc;
pub mod gntdev;
pub mod ioctl;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::platform::{Evtchn, Gntalloc, Gntdev, GuestType, Platform};
use crate::types::GrantRef;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Which hypervisor the kernel runs on; `xen` where it is Xen (`drivers/xen/sys-hypervisor.c`).
const HYPERVISOR_TYPE: &str = "/sys/hypervisor/type";
/// `PV`, `PVH` or `HVM` (the same file, Linux 4.13).
const HYPERVISOR_GUEST_TYPE: &str = "/sys/hypervisor/guest_type";
/// xenstore through the kernel (`drivers/xen/xenbus/xenbus_dev_frontend.c`).
const XENBUS: &str = "/dev/xen/xenbus";
/// Where xenstored listens, unless `XENSTORED_PATH` says otherwise (`tools/libs/store/xs.c`).
const XENSTORED_SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];

/// The real devices.
#[derive(Debug)]
pub struct LinuxPlatform {
    /// `/`, but for tests.
    root: PathBuf,
    /// `XENSTORED_PATH`.
    xenstored_path: Option<OsString>,
}

impl LinuxPlatform {
    /// Makes sure that this kernel runs on Xen. Each device is opened when it is asked for.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] saying what is missing, and what to do.
    pub fn open() -> Result<Self> {
        Self::open_at("/".into(), std::env::var_os("XENSTORED_PATH"))
    }

    fn open_at(root: PathBuf, xenstored_path: Option<OsString>) -> Result<Self> {
        let platform = LinuxPlatform {
            root,
            xenstored_path,
        };
        let cure = "start this in a Xen domain, or use the platform `sim:DIR`: the simulated Xen \
                    whose host serves DIR";
        let cause = match platform.read_sysfs(HYPERVISOR_TYPE) {
            Ok(kind) if kind == "xen" => return Ok(platform),
            Ok(kind) => format!("{HYPERVISOR_TYPE} says `{kind}`, not `xen`"),
            // A container may have the devices without that part of sysfs.
            Err(_) if platform.has_a_node() => return Ok(platform),
            Err(Errno::NOENT) => format!(
                "there is no {HYPERVISOR_TYPE} and no {}, so this kernel does not run on Xen",
                gntdev::NODE
            ),
            Err(errno) => format!("{HYPERVISOR_TYPE}: {errno}"),
        };
        Err(Error::not_available("Xen", cause, cure))
    }

    /// Opens `/dev/xen/evtchn` for the calls that the simulated Xen does not have
    /// ([`bind_static`](evtchn::LinuxEvtchn::bind_static)); otherwise as [`Platform::open_evtchn`].
    ///
    /// # Errors
    /// [`Error::NotAvailable`].
    pub fn evtchn(&self) -> Result<evtchn::LinuxEvtchn> {
        evtchn::LinuxEvtchn::open(&self.root)
    }

    fn has_a_node(&self) -> bool {
        [gntdev::NODE, gntalloc::NODE, evtchn::NODE, XENBUS]
            .iter()
            .any(|node| self.path(node).exists())
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    fn read_sysfs(&self, path: &str) -> Result<String, Errno> {
        std::fs::read_to_string(self.path(path))
            .map(|text| text.trim().to_owned())
            .map_err(|error| crate::shm::errno_of(&error))
    }

    /// A socket that must answer: the user named it.
    fn connect_named(&self, path: &Path) -> Result<OwnedFd> {
        connect(path).map_err(|errno| {
            Error::not_available(
                &format!("xenstore at {} (XENSTORED_PATH)", path.display()),
                errno,
                "point XENSTORED_PATH at xenstored's socket, or unset it",
            )
        })
    }
}

/// `connect(2)` to a Unix stream socket.
fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    match UnixStream::connect(path) {
        Ok(stream) => Ok(stream.into()),
        Err(error) => Err(crate::shm::errno_of(&error)),
    }
}

impl Platform for LinuxPlatform {
    fn name(&self) -> String {
        "linux".into()
    }

    fn run_dir(&self) -> PathBuf {
        self.path("/run")
    }

    /// # Errors
    /// [`Error::NotAvailable`] before Linux 4.13, or where sysfs has no `hypervisor`.
    fn guest_type(&self) -> Result<GuestType> {
        let unknown = |cause: String| {
            let cure = "use Linux 4.13 or later with CONFIG_XEN_SYS_HYPERVISOR, and a mounted /sys";
            Err(Error::not_available("the guest type", cause, cure))
        };
        match self.read_sysfs(HYPERVISOR_GUEST_TYPE).as_deref() {
            Ok("PV") => Ok(GuestType::Pv),
            Ok("PVH") => Ok(GuestType::Pvh),
            Ok("HVM") => Ok(GuestType::Hvm),
            Ok(other) => unknown(format!("{HYPERVISOR_GUEST_TYPE} says `{other}`")),
            Err(errno) => unknown(format!("{HYPERVISOR_GUEST_TYPE}: {errno}")),
        }
    }

    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        Ok(Box::new(gntdev::LinuxGntdev::open(&self.root)?))
    }

    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        Ok(Box::new(gntalloc::LinuxGntalloc::open(&self.root)?))
    }

    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        Ok(Box::new(self.evtchn()?))
    }

    /// `XENSTORED_PATH` if it is set; else `/dev/xen/xenbus`; else the daemon's own socket. Blocking.
    fn open_xenstore(&self) -> Result<OwnedFd> {
        if let Some(path) = &self.xenstored_path {
            return self.connect_named(Path::new(path));
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let node = match rustix::fs::open(self.path(XENBUS), flags, Mode::empty()) {
            Ok(file) => return Ok(file),
            Err(errno) => errno,
        };
        for path in XENSTORED_SOCKETS {
            match connect(&self.path(path)) {
                Ok(socket) => return Ok(socket),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    let cure = "run as root, and see that xenstored is running";
                    return Err(Error::not_available(
                        &format!("xenstore at {path}"),
                        errno,
                        cure,
                    ));
                }
            }
        }
        let (cause, cure) = match node {
            // The driver's own answer while it has no xenstore to talk to, too.
            Errno::NOENT => (
                format!("there is neither {XENBUS} nor {}", XENSTORED_SOCKETS[0]),
                "start xenstored, or point XENSTORED_PATH at its socket",
            ),
            errno => (format!("{XENBUS}: {errno}"), "run as root"),
        };
        Err(Error::not_available("xenstore", cause, cure))
    }

    /// gntalloc tells nobody: its calls succeed while the peer still maps.
    fn grants_in_use(&self, _grefs: &[GrantRef]) -> Result<Option<Vec<GrantRef>>> {
        Ok(None)
    }
}
