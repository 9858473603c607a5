//! Why a hand could not do what it was told, before it becomes words.

use super::answer::{Bad, Refusal};
use crate::holder::HoldError;
use rustix::io::Errno;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The order names something that was closed, unmapped or dropped already, or never was:
    /// whoever gives it is wrong.
    #[error("{0} is not there, or no longer: the order is wrong")]
    Gone(String),
    /// The order cannot be carried out on anything: whoever gives it is wrong.
    #[error("{0}")]
    Wrong(String),
    /// As many things of a kind as a hand may own.
    #[error("a hand owns at most {limit} {what}s; drop some")]
    TooMany {
        /// Of which kind.
        what: &'static str,
        /// So many.
        limit: usize,
    },
    /// The platform's.
    #[error(transparent)]
    Xen(#[from] libgnt::Error),
    /// The library did not unmap as asked ([`UnmapError`](libgnt::grant::UnmapError)).
    #[error("{why}")]
    Unmap {
        /// In the library's words.
        why: String,
        /// The system call's errno, if one is behind it.
        errno: Option<Errno>,
    },
    /// A system call of the hand's own.
    #[error("{call}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// A holder's.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// xenstore's.
    #[error(transparent)]
    Store(#[from] pv_xenstore::Error),
}

impl Failure {
    /// The errno behind it, if a system call is behind it.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Failure::Xen(error) | Failure::Hold(HoldError::Xen(error)) => error.errno(),
            Failure::Call { errno, .. } | Failure::Hold(HoldError::Call { errno, .. }) => {
                Some(*errno)
            }
            Failure::Unmap { errno, .. } => *errno,
            Failure::Store(error) => error.errno(),
            _ => None,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let bad = match &failure {
            Failure::Xen(libgnt::Error::BadGrants { bad, .. }) => bad.as_slice(),
            _ => &[],
        };
        Refusal {
            errno: failure.errno().map(Errno::raw_os_error),
            bad: bad
                .iter()
                .map(|bad| Bad {
                    grant: bad.grant,
                    status: bad.status,
                })
                .collect(),
            why: failure.to_string(),
        }
    }
}
