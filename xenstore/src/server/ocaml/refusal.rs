//! Why a request is refused.

use crate::wire::error_name;
use rustix::io::Errno;

/// The answer to a request that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An errno.
    Errno(Errno),
    /// `EQUOTA`, which no system has: a domain has as much as it may.
    Quota,
}

impl Refusal {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Errno(errno) => error_name(errno),
            Refusal::Quota => "EQUOTA",
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal::Errno(errno)
    }
}
