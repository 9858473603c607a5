//! Event channels: bind, notify, wait, unmask.
//!
//! A port is masked when it is delivered and stays so until [`Events::unmask`]: unmask after the
//! work that the event asked for, so that a hostile peer costs one wake-up per piece of work
//! (XSA-332). Nothing is lost meanwhile: an event that comes while masked is delivered after.

use crate::error::{Error, Result};
use crate::platform::{Evtchn, Platform};
use crate::types::{DomId, EvtchnPort};
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One open `/dev/xen/evtchn`: the ports bound on it are delivered together.
///
/// Registers with mio as a [`Source`]. Readiness is edge-triggered there: on each wake-up call
/// [`Events::read`] until it returns 0.
#[derive(Clone, Debug)]
pub struct Events {
    evtchn: Arc<dyn Evtchn>,
}

impl Events {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::NotAvailable`].
    pub fn open(platform: &dyn Platform) -> Result<Self> {
        Ok(Events {
            evtchn: platform.open_evtchn()?.into(),
        })
    }

    /// A new port, to be named to `remote` in xenstore.
    ///
    /// # Errors
    /// As [`Evtchn::bind_unbound`].
    pub fn bind_unbound(&self, remote: DomId) -> Result<Channel> {
        self.channel(self.evtchn.bind_unbound(remote)?)
    }

    /// A new port, connected to one that `remote` named.
    ///
    /// # Errors
    /// As [`Evtchn::bind_interdomain`].
    pub fn bind_interdomain(&self, remote: DomId, port: EvtchnPort) -> Result<Channel> {
        self.channel(self.evtchn.bind_interdomain(remote, port)?)
    }

    /// A virtual interrupt: a `VIRQ_*` number of `xen/include/public/xen.h`, `VIRQ_DOM_EXC` (3) say.
    ///
    /// # Errors
    /// As [`Evtchn::bind_virq`].
    pub fn bind_virq(&self, virq: u32) -> Result<Channel> {
        self.channel(self.evtchn.bind_virq(virq)?)
    }

    fn channel(&self, port: EvtchnPort) -> Result<Channel> {
        Ok(Channel {
            evtchn: Arc::clone(&self.evtchn),
            port,
        })
    }

    /// Appends pending ports to `ports`; they are masked now. Returns how many came. Never blocks.
    ///
    /// # Errors
    /// EFBIG after an overflow: [`Events::reset`], then look at every ring.
    pub fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        self.evtchn.read(ports)
    }

    /// Lets ports be delivered again. After the work, not before.
    ///
    /// # Errors
    /// What the device says.
    pub fn unmask(&self, ports: &[EvtchnPort]) -> Result<()> {
        self.evtchn.unmask(ports)
    }

    /// Waits until at least one port is pending, and returns what is.
    ///
    /// # Errors
    /// [`Error::Timeout`] when `deadline` has passed.
    pub fn wait(&self, deadline: Duration) -> Result<Vec<EvtchnPort>> {
        let began = Instant::now();
        let mut ports = Vec::new();
        loop {
            if self.evtchn.read(&mut ports)? > 0 {
                return Ok(ports);
            }
            let left = deadline.saturating_sub(began.elapsed());
            if left.is_zero() {
                let what = "an event on /dev/xen/evtchn".into();
                return Err(Error::Timeout {
                    what,
                    waited: began.elapsed(),
                });
            }
            wait_readable(self.evtchn.as_fd(), left)?;
        }
    }

    /// Empties the queue and clears an overflow.
    ///
    /// # Errors
    /// What the device says.
    pub fn reset(&self) -> Result<()> {
        self.evtchn.reset()
    }

    /// From now on this descriptor takes channels with `remote` only, for ever: a defence in depth
    /// for an agent that serves one domain.
    ///
    /// # Errors
    /// EACCES: restricted already.
    pub fn restrict(&self, remote: DomId) -> Result<()> {
        self.evtchn.restrict(remote)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

impl Source for Events {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, Interest::READABLE)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
    }
}

/// One bound port; unbound on drop. An event that was raised before may still be read then, and
/// the number is soon another channel's: who must tell the two apart reads the file empty before he
/// binds again.
#[derive(Debug)]
pub struct Channel {
    evtchn: Arc<dyn Evtchn>,
    port: EvtchnPort,
}

impl Channel {
    /// The local port.
    pub fn port(&self) -> EvtchnPort {
        self.port
    }

    /// Raises the other end. Silent when nobody is there.
    ///
    /// # Errors
    /// What the device says.
    pub fn notify(&self) -> Result<()> {
        self.evtchn.notify(self.port)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Err(error) = self.evtchn.unbind(self.port) {
            tracing::debug!(%error, port = self.port.0, "unbind in drop");
        }
    }
}

/// Polls one descriptor for input, at most this long. Returns early on a signal.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, at_most: Duration) -> Result<()> {
    let timeout = Timespec::try_from(at_most).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    });
    match poll(
        &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
        Some(&timeout),
    ) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::device("/dev/xen/evtchn", "poll", errno, "")),
    }
}
