//! What a hand answers.

use super::loan::Loan;
use super::order::{HeldId, LoanId, MapId, ShareId};
use libgnt::types::GrantStatus;
use libgnt::{EvtchnPort, ForeignGrant, GrantRef};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The answer to one [`Order`](super::Order).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// Pages are shared, with these references, one a page.
    Shared(ShareId, Vec<GrantRef>),
    /// Grants are mapped.
    Mapped(MapId),
    /// What came of ending access.
    Ended(Ending),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A number of pages.
    Count(usize),
    /// Pages are held, to be taken over.
    Lent(LoanId, Loan),
    /// A hold was taken over.
    Holding(HeldId),
    /// SHA-256 of pages, in hexadecimal; `None`: this kind of hold cannot look.
    Digest(Option<String>),
    /// A port.
    Port(EvtchnPort),
    /// Ports that had events.
    Ports(Vec<EvtchnPort>),
    /// `GNTST_*`
    Status(GrantStatus),
    /// The ledger's entries, for people.
    Ledger(Vec<String>),
    /// It was not done.
    Refused(Refusal),
}

/// What ending access to a share comes to ([`EndAccess`](libgnt::grant::EndAccess)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The pages and references are free.
    Ended,
    /// The peer still maps these. The share stays as it was.
    InUse(Vec<GrantRef>),
    /// The kernel does not tell. The share is gone.
    Unobservable,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The system call's errno, if one is behind it.
    pub errno: Option<i32>,
    /// The grants that could not be used, if some are behind it.
    pub bad: Vec<Bad>,
    /// In words.
    pub why: String,
}

/// A grant that could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// Which.
    pub grant: ForeignGrant,
    /// Xen's own reason, where one is known.
    pub status: Option<GrantStatus>,
}

impl Refusal {
    /// A refusal that no system call is behind.
    pub fn because(why: impl fmt::Display) -> Refusal {
        Refusal {
            errno: None,
            bad: Vec::new(),
            why: why.to_string(),
        }
    }

    /// The errno, if one is behind it.
    pub fn errno(&self) -> Option<Errno> {
        self.errno.map(Errno::from_raw_os_error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
