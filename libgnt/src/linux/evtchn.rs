//! `/dev/xen/evtchn`: event channels (`drivers/xen/evtchn.c`, Linux 6.1).
//!
//! The driver answers ENOSYS to an ioctl it does not know (not ENOTTY); the rest is with each
//! call. What the hypervisor refuses comes back as the errno it gave
//! (`xen/common/event_channel.c`).

use super::device::Device;
use super::ioctl::{Call, Kernel, Syscalls};
use crate::error::Result;
use crate::platform::Evtchn;
use crate::types::{DomId, EvtchnPort};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The node.
pub const NODE: &str = "/dev/xen/evtchn";

/// The driver reads and writes at most one page at a time: this many ports.
const PORTS_PER_CALL: usize = 4096 / size_of::<u32>();

/// An open `/dev/xen/evtchn`, non-blocking. Ports belong to the open file and close with it.
///
/// It polls readable while ports wait and with an error after an overflow. Through mio it is
/// edge-triggered: read until nothing comes, do the work, then unmask.
#[derive(Debug)]
pub struct LinuxEvtchn<K: Kernel = Syscalls> {
    pub(super) device: Device<K>,
}

impl LinuxEvtchn {
    /// Opens the node below `root` (`/` on a real system).
    ///
    /// # Errors
    /// [`Error::NotAvailable`](crate::Error::NotAvailable).
    pub(super) fn open(root: &Path) -> Result<Self> {
        Device::open(root, NODE, "xen-evtchn", OFlags::NONBLOCK).map(|device| Self { device })
    }
}

impl<K: Kernel> LinuxEvtchn<K> {
    /// `ioctl(fd, IOCTL_EVTCHN_BIND_STATIC, struct ioctl_evtchn_bind *)`: takes a port that the
    /// hypervisor made at boot (Linux 6.6; Arm's dom0less guests). Closing leaves it open.
    ///
    /// # Errors
    /// EISCONN: taken already through this file. ENOSYS: an older kernel.
    pub fn bind_static(&self, port: EvtchnPort) -> Result<()> {
        self.call(Call::bind_static(port.0), || port.to_string())
            .map(drop)
    }

    fn call(&self, mut call: Call<'_>, what: impl FnOnce() -> String) -> Result<i32> {
        self.device.call(&mut call, |errno| match errno {
            Errno::NOSYS => format!("{}: this kernel has no such call", what()),
            _ => what(),
        })
    }

    fn bind(&self, call: Call<'_>, what: impl Fn() -> String) -> Result<EvtchnPort> {
        let name = call.name;
        let port = self.call(call, &what)?;
        match u32::try_from(port) {
            Ok(port) if port != 0 => Ok(EvtchnPort(port)),
            _ => Err(self
                .device
                .error(name, Errno::IO, format!("{}: port {port}", what()))),
        }
    }
}

impl<K: Kernel> Evtchn for LinuxEvtchn<K> {
    /// `ioctl(fd, IOCTL_EVTCHN_BIND_UNBOUND_PORT, struct ioctl_evtchn_bind_unbound_port *)`,
    /// `EVTCHNOP_alloc_unbound`.
    ///
    /// # Errors
    /// EACCES: the file is restricted, to whatever domain. ENOSPC: no free port. ESRCH: no such
    /// domain.
    fn bind_unbound(&self, remote: DomId) -> Result<EvtchnPort> {
        self.bind(Call::bind_unbound_port(remote.0), || {
            format!("for {remote}")
        })
    }

    /// `ioctl(fd, IOCTL_EVTCHN_BIND_INTERDOMAIN, struct ioctl_evtchn_bind_interdomain *)`,
    /// `EVTCHNOP_bind_interdomain`. The new port is pending at once.
    ///
    /// # Errors
    /// EACCES: restricted to another domain. EINVAL: the remote port is not unbound and meant
    /// for us. ESRCH: no such domain. ENOSPC: no free port.
    fn bind_interdomain(&self, remote: DomId, port: EvtchnPort) -> Result<EvtchnPort> {
        self.bind(Call::bind_interdomain(remote.0, port.0), || {
            format!("{port} of {remote}")
        })
    }

    /// `ioctl(fd, IOCTL_EVTCHN_BIND_VIRQ, struct ioctl_evtchn_bind_virq *)`,
    /// `EVTCHNOP_bind_virq` on virtual CPU 0.
    ///
    /// # Errors
    /// EACCES: the file is restricted. EEXIST: bound already (also by the kernel itself). EINVAL: no
    /// such VIRQ.
    fn bind_virq(&self, virq: u32) -> Result<EvtchnPort> {
        self.bind(Call::bind_virq(virq), || format!("VIRQ {virq}"))
    }

    /// `ioctl(fd, IOCTL_EVTCHN_UNBIND, struct ioctl_evtchn_unbind *)`.
    ///
    /// # Errors
    /// ENOTCONN: not a port of this file. EINVAL: above what the hypervisor has.
    fn unbind(&self, port: EvtchnPort) -> Result<()> {
        self.call(Call::unbind(port.0), || port.to_string())
            .map(drop)
    }

    /// `ioctl(fd, IOCTL_EVTCHN_NOTIFY, struct ioctl_evtchn_notify *)`, `EVTCHNOP_send`. Whether
    /// somebody listens, the driver does not say.
    ///
    /// # Errors
    /// ENOTCONN: not a port of this file.
    fn notify(&self, port: EvtchnPort) -> Result<()> {
        self.call(Call::notify(port.0), || port.to_string())
            .map(drop)
    }

    /// `read(2)` of 32-bit ports, `evtchn_read`. Each is masked from its delivery on.
    ///
    /// # Errors
    /// EFBIG: the driver's queue has overflowed; [`Evtchn::reset`] clears it, and every port must
    /// then be unmasked and looked after, since nobody knows which were lost. EIO: no whole
    /// number of ports, or an end of file, which the driver never gives; ports that came whole are
    /// in `ports`.
    fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        let mut bytes = [0; PORTS_PER_CALL * size_of::<u32>()];
        let len = loop {
            match self.device.kernel.read(self.device.fd(), &mut bytes) {
                Ok(len) => break len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                Err(errno) => {
                    let why = match errno {
                        Errno::FBIG => {
                            "the queue of events has overflowed; reset it, then unmask and serve every port"
                        }
                        _ => "",
                    };
                    return Err(self.device.error("read", errno, why));
                }
            }
        };
        let (whole, rest) = bytes[..len].as_chunks();
        ports.extend(
            whole
                .iter()
                .map(|port| EvtchnPort(u32::from_ne_bytes(*port))),
        );
        if whole.is_empty() || !rest.is_empty() {
            let detail = format!("{len} bytes are no whole number of ports");
            return Err(self.device.error("read", Errno::IO, detail));
        }
        Ok(whole.len())
    }

    /// `write(2)` of 32-bit ports, `evtchn_write`.
    ///
    /// # Errors
    /// ENOMEM: a page for the driver's copy. EIO: nothing was taken, which the driver never does.
    fn unmask(&self, ports: &[EvtchnPort]) -> Result<()> {
        const PORT: usize = size_of::<u32>();
        let mut rest = ports;
        let mut bytes = [0; PORTS_PER_CALL * PORT];
        while !rest.is_empty() {
            let now = rest.len().min(PORTS_PER_CALL);
            for (port, into) in rest.iter().zip(bytes.as_chunks_mut().0) {
                *into = port.0.to_ne_bytes();
            }
            match self
                .device
                .kernel
                .write(self.device.fd(), &bytes[..now * PORT])
            {
                Ok(written) if written >= PORT => rest = &rest[(written / PORT).min(now)..],
                Ok(written) => {
                    let detail = format!("{written} bytes taken of {now} ports");
                    return Err(self.device.error("write", Errno::IO, detail));
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(self.device.error("write", errno, format!("{now} ports")));
                }
            }
        }
        Ok(())
    }

    /// `ioctl(fd, IOCTL_EVTCHN_RESET, NULL)`. Ports that were in the queue stay masked: unmask
    /// all of them afterwards.
    ///
    /// # Errors
    /// None of the driver's.
    fn reset(&self) -> Result<()> {
        self.call(Call::reset(), String::new).map(drop)
    }

    /// `ioctl(fd, IOCTL_EVTCHN_RESTRICT_DOMID, struct ioctl_evtchn_restrict_domid *)`. Ports that
    /// are bound stay bound; from now on only interdomain channels with `remote` can be added.
    ///
    /// # Errors
    /// EACCES: restricted already. EINVAL: dom0, or a reserved id: only a real guest will do.
    fn restrict(&self, remote: DomId) -> Result<()> {
        self.call(Call::restrict_domid(remote.0), || remote.to_string())
            .map(drop)
    }
}

impl<K: Kernel> AsFd for LinuxEvtchn<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.fd()
    }
}
