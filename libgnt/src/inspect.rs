//! What can be seen of a Xen from outside: its grants, its mappings, who holds pages, and who waits
//! for whom. A simulated Xen fills all of it in, a real one what its debug keys print.

use crate::platform::{GuestType, Holder};
use crate::types::{Access, DomId, ForeignGrant};
use std::fmt;

/// Everything alive on a Xen, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Inspection {
    /// Domains alive, and dead ones whose pages are still mapped.
    pub domains: Vec<DomainState>,
    /// Grants whose table entry is live: offered, in use, or ending.
    pub grants: Vec<GrantState>,
    /// Mappings whose unmap is deferred.
    pub unmapping: Vec<UnmappingState>,
    /// Who holds what.
    pub holders: Vec<Holder>,
    /// gntalloc's pages in use, of all domains; each has its own limit.
    pub gntalloc_pages: u32,
    /// Event channels bound, all domains together.
    pub event_channels: u32,
    /// Hypervisor unmaps done since the host started, one a page: with the next two, what a run can
    /// be checked by.
    pub unmaps: u64,
    /// Of these pages, and of those still to come, how many had to be deferred.
    pub deferred_unmaps: u64,
    /// Retries of deferred unmaps, one for each run of pages that waits together.
    pub unmap_retries: u64,
    /// What was done to the books of PV guests' kernels. What comes after it shows nothing.
    pub damage: Vec<Damage>,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DomainState {
    /// Its id.
    pub domid: DomId,
    /// Its name.
    pub name: String,
    /// False: destroyed, but peers still map its pages.
    pub alive: bool,
    /// What kind of guest it is.
    pub guest: GuestType,
    /// Its processes' names and pids.
    pub processes: Vec<(String, u32)>,
}

/// One grant-table entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GrantState {
    /// Granter and reference.
    pub grant: ForeignGrant,
    /// To whom.
    pub peer: DomId,
    /// May the peer write?
    pub access: Access,
    /// How often mapped (`GTF_reading`/`GTF_writing`).
    pub maps: u32,
    /// The granter has ended access, and the kernel defers it because the peer still maps.
    pub ending: bool,
}

/// One deferred unmap, or (`sync`) one that a munmap is blocked on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnmappingState {
    /// The mapper.
    pub domid: DomId,
    /// The process that mapped, even if it is gone.
    pub process: String,
    /// What is still mapped.
    pub grants: Vec<ForeignGrant>,
    /// Milliseconds since the unmap began.
    pub age_ms: u64,
    /// Retries so far (the kernel's `age`).
    pub retries: u32,
}

/// A PV guest's kernel cleared page-table entries of a mapping whose unmap was still deferred.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Damage {
    /// Milliseconds since the host started.
    pub at_ms: u64,
    /// Whose kernel.
    pub domid: DomId,
    /// The process that mapped.
    pub process: String,
    /// What it mapped there.
    pub grants: Vec<ForeignGrant>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grants: Vec<_> = self.grants.iter().map(ToString::to_string).collect();
        write!(
            f,
            "the kernel of {} cleared the page-table entries of {} in {} while somebody held a page: \
             these grants stay in use until its end, and the holder's pages are no longer its own",
            self.domid,
            grants.join(", "),
            self.process
        )
    }
}

/// A wait-for cycle: who waits for whom, holding what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Deadlock {
    /// Milliseconds since the host started.
    pub at_ms: u64,
    /// Its edges, in order; the last waits for the first.
    pub edges: Vec<WaitEdge>,
}

/// One edge of a cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WaitEdge {
    /// Who waits: a process's name and pid.
    pub waiter: String,
    /// In which call.
    pub call: String,
    /// What it holds meanwhile.
    pub holds: String,
    /// What it waits for.
    pub waits_for: String,
    /// Who would have to act.
    pub owner: String,
}

impl fmt::Display for WaitEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is in {}, holds {}, and waits for {}, which {} has",
            self.waiter, self.call, self.holds, self.waits_for, self.owner
        )
    }
}
