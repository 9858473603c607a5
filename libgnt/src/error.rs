//! One error type for the library: it names the thing, the operation, and the cure where one is known.

use crate::types::{ForeignGrant, GrantStatus};
use rustix::io::Errno;
use std::time::Duration;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A grant that an operation could not use, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadGrant {
    /// Which one.
    pub grant: ForeignGrant,
    /// Xen's own reason, where a probe could get it.
    pub status: Option<GrantStatus>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a device (or its simulation) failed.
    #[error("{operation} on {device}: {errno}{}", Because(.detail))]
    Device {
        /// `/dev/xen/gntdev`, say.
        device: &'static str,
        /// The ioctl or system call.
        operation: &'static str,
        /// What the kernel said.
        errno: Errno,
        /// What it was about: domain, grant, port, size. May be empty.
        detail: String,
    },
    /// The platform, or a part of it, is not there.
    #[error("{what} is not available: {cause}; {cure}")]
    NotAvailable {
        /// The thing.
        what: String,
        /// Why.
        cause: String,
        /// What to do.
        cure: String,
    },
    /// Some grants of a batch are bad; nothing of the batch stays mapped.
    #[error("cannot {operation} {} of {batch} grants: {}", .bad.len(), ListBad(.bad))]
    BadGrants {
        /// `map` or `copy`.
        operation: &'static str,
        /// How many grants the batch had.
        batch: usize,
        /// The bad ones.
        bad: Vec<BadGrant>,
    },
    /// The deadline passed.
    #[error("{what}: not done after {waited:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// A wait could never have ended: the simulated Xen broke the cycle and says who waited for whom.
    #[error("deadlock: {}", .cycle.join("; "))]
    Deadlock {
        /// One sentence for each edge of the cycle.
        cycle: Vec<String>,
    },
    /// The simulated Xen's host went away, or spoke nonsense.
    #[error("the simulated Xen's host {what}; restart it, then this process")]
    HostGone {
        /// What happened.
        what: String,
    },
    /// A caller's argument is outside what the interface takes.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The errno behind this error, if a system call is behind it.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Device { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Builds [`Error::NotAvailable`]: the thing, why it is not there, and what to do.
    pub fn not_available(what: &str, cause: impl std::fmt::Display, cure: &str) -> Self {
        Error::NotAvailable {
            what: what.into(),
            cause: cause.to_string(),
            cure: cure.into(),
        }
    }

    /// Adds to what [`Error::NotAvailable`] says to do: a program names its own commands there, which
    /// a library does not know. Other errors stay as they are.
    #[must_use]
    pub fn with_cure(mut self, more: &str) -> Self {
        if let Error::NotAvailable { cure, .. } = &mut self {
            cure.push_str("; ");
            cure.push_str(more);
        }
        self
    }

    /// Builds [`Error::Device`].
    pub fn device(
        device: &'static str,
        operation: &'static str,
        errno: Errno,
        detail: impl Into<String>,
    ) -> Self {
        Error::Device {
            device,
            operation,
            errno,
            detail: detail.into(),
        }
    }
}

struct Because<'a>(&'a str);

impl std::fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.0)
        }
    }
}

struct ListBad<'a>(&'a [BadGrant]);

impl std::fmt::Display for ListBad<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// A batch may have thousands; a person reads a few.
        const SHOWN: usize = 8;
        for (n, bad) in self.0.iter().take(SHOWN).enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", bad.grant)?;
            if let Some(status) = bad.status {
                write!(f, ": {}", status.meaning())?;
            }
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}
