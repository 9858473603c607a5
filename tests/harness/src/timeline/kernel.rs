//! What a domain's kernel did with grants, as an observer in the domain saw it.

use libgnt::types::{ForeignGrant, GrantRef};
use serde::{Deserialize, Serialize};

/// Recorded at the kernel's own times, not at those at which the observer learnt of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kernel", rename_all = "kebab-case")]
pub enum KernelEvent {
    /// The observer begins: from here on every map and unmap is seen.
    Watched {
        /// The functions that have probes.
        functions: Vec<String>,
    },
    /// Nobody watches this kernel.
    Unwatched {
        /// What is missing.
        why: String,
    },
    /// A mapping was made.
    Mapped {
        /// The grant of its first page.
        first: ForeignGrant,
        /// How many it has.
        pages: u32,
    },
    /// The hypervisor has unmapped a range of a mapping.
    Unmapped {
        /// The grant of the mapping's first page, where the range begins there.
        first: Option<ForeignGrant>,
        /// The range's pages.
        pages: u32,
        /// Since the unmap was asked for.
        after_ns: u64,
        /// How often the kernel found that somebody holds a page, and put it off.
        put_off: u32,
    },
    /// A page of this domain was still mapped by its peer when its grant was to end; the grant ended
    /// later.
    FreedLate {
        /// Its reference.
        gref: GrantRef,
        /// How much later.
        after_ns: u64,
    },
    /// The observer ends.
    Counted(KernelCounts),
}

/// What an observer has seen, from its first moment to its last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Pages in mappings that were made.
    pub mapped: u64,
    /// Pages of these that the hypervisor has unmapped.
    pub unmapped: u64,
    /// Unmaps that were put off at least once.
    pub put_off: u64,
    /// Unmaps that were asked for and not done, one sentence each.
    pub unfinished: Vec<String>,
    /// Grants that are still to end.
    pub late: Vec<GrantRef>,
    /// Why the counts may be wrong: events that were lost, lines that could not be read. Empty: they
    /// are all.
    pub gaps: Vec<String>,
    /// The same of the ends of grants alone.
    pub gaps_of_ends: Vec<String>,
}
