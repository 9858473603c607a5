//! What one process lends to another.

use crate::holder::{Export, Held, HoldError, Holder, allow, fetch};
use crate::settings::HoldName;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// A hold to take over, as another process of the same machine needs to know it. It is good for as
/// long as the lender has the [`Export`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// Names the hold in all timelines.
    pub hold: u64,
    /// How the pages are held.
    pub kind: HoldName,
    /// How many.
    pub pages: u32,
    /// What the kind needs to know on the other side.
    pub words: Vec<u64>,
    /// Whose descriptors they are.
    pub lender: u32,
    /// The descriptors, by their numbers there.
    pub fds: Vec<u64>,
}

/// Unique in this process; the pid makes it so among processes.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Loan {
    /// Of an export of this process.
    ///
    /// # Errors
    /// The kernel does not let others have the descriptors.
    pub fn of(export: &Export) -> Result<Loan, HoldError> {
        let lender = std::process::id();
        if !export.fds.is_empty() {
            allow(export.kind)?;
        }
        let hold = match export.words.first() {
            // The host's own name of it.
            Some(word) if export.kind.is_simulated() => *word,
            _ => u64::from(lender) << 32 | NEXT.fetch_add(1, Ordering::Relaxed),
        };
        let number = |fd: &OwnedFd| u64::from(fd.as_raw_fd().cast_unsigned());
        Ok(Loan {
            hold,
            kind: export.kind,
            pages: export.pages,
            words: export.words.clone(),
            lender,
            fds: export.fds.iter().map(number).collect(),
        })
    }

    /// Takes it over, with a holder of its kind.
    ///
    /// # Errors
    /// The holder's; a descriptor cannot be had.
    pub fn take(self, holder: &dyn Holder) -> Result<Box<dyn Held>, HoldError> {
        let fd = |number: &u64| fetch(self.kind, self.lender.into(), *number);
        holder.import(Export {
            kind: self.kind,
            pages: self.pages,
            fds: self.fds.iter().map(fd).collect::<Result<_, _>>()?,
            words: self.words,
        })
    }
}
