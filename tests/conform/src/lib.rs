//! The conformance suite: what a program can observe of Xen's devices, as rules, and each rule as
//! a small test. The same tests run on the simulated platform and on a real one, so the simulator
//! is tested against the kernel and the hypervisor and not against itself.
//!
//! A rule runs in a process of its own in one domain. Its partner is a [`hand`](pv_harness::hand) in
//! another, as on a real Xen it must be: a PVH or HVM domain that maps its own grant loses the page, because the
//! hypervisor moves the frame to the mapping's place in the physmap
//! (`guest_physmap_add_entry`, `xen/arch/x86/mm/p2m.c`).

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod bench;
pub mod cli;
pub mod conn;
pub mod process;
mod relay;
pub mod rules;
pub mod run;
pub mod store;
pub mod table;
pub mod things;

use bench::Bench;
use pv_harness::hand::{Failure, Unanswered};
use pv_harness::holder::HoldError;
use serde::{Deserialize, Serialize};

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Stable, in kebab case.
    pub name: &'static str,
    /// What holds, in one sentence.
    pub says: &'static str,
    /// Where that is written: a function of the kernel's or the hypervisor's.
    pub source: &'static str,
    /// Tries it.
    pub check: fn(&Bench) -> Outcome,
    /// Why the simulator differs and stays so (`docs/fidelity.md` says more).
    pub differs_on_sim: Option<&'static str>,
}

impl Rule {
    const fn new(
        name: &'static str,
        says: &'static str,
        source: &'static str,
        check: fn(&Bench) -> Outcome,
    ) -> Rule {
        Rule {
            name,
            says,
            source,
            check,
            differs_on_sim: None,
        }
    }

    const fn but_the_sim(mut self, why: &'static str) -> Rule {
        self.differs_on_sim = Some(why);
        self
    }
}

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
            Unanswered::Nonsense(answer) => bench::nonsense(&answer),
        }
    }
}

impl From<rustix::io::Errno> for Stop {
    /// A system call of the check's own.
    fn from(errno: rustix::io::Errno) -> Stop {
        Stop::Broken(errno.to_string())
    }
}
