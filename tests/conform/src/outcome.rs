//! How a check can end.

use pv_harness::hand::{Answer, Failure, Unanswered};
use pv_harness::holder::HoldError;
use serde::{Deserialize, Serialize};

/// What a check ends with.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Why a check ended early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Stop {
    /// The platform does something else.
    #[error("{0}")]
    Differs(String),
    /// The rule is about something that this machine has not.
    #[error("{0}")]
    NotHere(String),
    /// Nothing could be found out.
    #[error("{0}")]
    Broken(String),
}

impl Stop {
    /// [`Stop::Differs`]
    pub fn differs(what: impl Into<String>) -> Stop {
        Stop::Differs(what.into())
    }
}

impl From<libgnt::Error> for Stop {
    /// A call failed that the rule says succeeds, unless there is no platform at all.
    fn from(error: libgnt::Error) -> Stop {
        use libgnt::Error;
        match error {
            Error::NotAvailable { .. } | Error::HostGone { .. } => Stop::Broken(error.to_string()),
            _ => Stop::Differs(error.to_string()),
        }
    }
}

impl From<HoldError> for Stop {
    fn from(error: HoldError) -> Stop {
        match error {
            HoldError::NotHere { .. } => Stop::NotHere(error.to_string()),
            _ => Stop::Broken(error.to_string()),
        }
    }
}

impl From<Failure> for Stop {
    /// A step of the check's own failed.
    fn from(failure: Failure) -> Stop {
        match failure {
            Failure::Xen(error) => Stop::from(error),
            Failure::Hold(error) => Stop::from(error),
            Failure::Store(error) => Stop::from(error),
            Failure::Unmap { why, .. } => Stop::Differs(why),
            other => Stop::Broken(other.to_string()),
        }
    }
}

impl From<Unanswered<Stop>> for Stop {
    /// The partner did not do what the rule says it can.
    fn from(why: Unanswered<Stop>) -> Stop {
        match why {
            Unanswered::Lost(stop) => stop,
            Unanswered::Refused(refusal) => {
                Stop::Differs(format!("in the other domain: {refusal}"))
            }
            Unanswered::Nonsense(answer) => nonsense(&answer),
        }
    }
}

impl From<rustix::io::Errno> for Stop {
    /// A system call of the check's own.
    fn from(errno: rustix::io::Errno) -> Stop {
        Stop::Broken(errno.to_string())
    }
}

/// An answer to another question.
pub(super) fn nonsense(answer: &Answer) -> Stop {
    Stop::Broken(format!("the partner answered {answer:?}"))
}
