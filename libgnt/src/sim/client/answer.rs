//! The host's answer to a call.

use crate::error::{Error, Result};
use crate::sim::wire::{Reply, SimError};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// A reply as it arrives, with its descriptors.
pub type Delivery = (Result<Reply, SimError>, Vec<OwnedFd>);

/// A good reply and what came with it.
#[derive(Debug)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    fds: VecDeque<OwnedFd>,
    operation: &'static str,
}

impl Answer {
    /// What the host said to a call of a device.
    ///
    /// # Errors
    /// The errno of the simulated call as [`Error::Device`]; [`Error::Deadlock`].
    pub fn to(
        device: &'static str,
        operation: &'static str,
        (result, fds): Delivery,
    ) -> Result<Answer> {
        match result {
            Ok(reply) => Ok(Answer {
                reply,
                fds: fds.into(),
                operation,
            }),
            Err(error) if error.errno == Errno::DEADLK.raw_os_error() => {
                Err(Error::Deadlock { cycle: error.cycle })
            }
            Err(error) => {
                let errno = Errno::from_raw_os_error(error.errno);
                Err(Error::device(device, operation, errno, error.detail))
            }
        }
    }

    /// The next descriptor.
    ///
    /// # Errors
    /// [`Error::HostGone`]: the host forgot it.
    pub fn take_fd(&mut self) -> Result<OwnedFd> {
        self.fds.pop_front().ok_or_else(|| Error::HostGone {
            what: format!("answered {} without its descriptor", self.operation),
        })
    }

    /// For requests with nothing more to say.
    ///
    /// # Errors
    /// [`Error::HostGone`]: the host said something else.
    pub fn done(self) -> Result<()> {
        match self.reply {
            Reply::Done => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// The error for a reply of the wrong kind.
    pub fn unexpected(&self) -> Error {
        Error::HostGone {
            what: format!("answered {} with {:?}", self.operation, self.reply),
        }
    }
}
