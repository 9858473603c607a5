//! Holds that go from one process to another.

use super::failure::Failure;
use super::order::LoanId;
use super::table::Table;
use crate::holder::{Export, Held, HoldError, Holder, allow, fetch, holder};
use crate::settings::HoldName;
use libgnt::{Platform, SharedPages};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
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

/// The holders that a hand has used, and what it has lent with them.
pub(super) struct Lending {
    platform: Arc<dyn Platform>,
    allow_damage: bool,
    holders: HashMap<HoldName, Box<dyn Holder>>,
    lent: Table<LoanId, Export>,
}

impl Lending {
    pub fn new(platform: Arc<dyn Platform>) -> Lending {
        Lending {
            platform,
            allow_damage: false,
            holders: HashMap::new(),
            lent: Table::new("loan"),
        }
    }

    /// Holding pages on a PV guest is allowed.
    pub fn allow_damage(&mut self, allow: bool) {
        self.allow_damage = allow;
    }

    pub fn clear(&mut self) {
        self.lent.clear();
    }

    /// The holder of a kind. It stays: what it keeps for its exports lives as long as they do.
    pub fn holder(&mut self, kind: HoldName) -> Result<&dyn Holder, HoldError> {
        if !self.holders.contains_key(&kind) {
            let made = holder(kind, &self.platform, self.allow_damage)?;
            self.holders.insert(kind, made);
        }
        Ok(&*self.holders[&kind])
    }

    /// Holds the first so many pages, for somebody to take over.
    pub fn lend(
        &mut self,
        pages: &SharedPages,
        kind: HoldName,
        count: usize,
    ) -> Result<(LoanId, Loan), Failure> {
        self.lent.has_room()?;
        let export = self.holder(kind)?.hold(pages, 0, count)?;
        let loan = Loan::of(&export)?;
        Ok((self.lent.add(export), loan))
    }

    /// A loan was taken over, or will not be: nothing of it is kept.
    pub fn settle(&mut self, id: LoanId, taken: bool) -> Result<(), Failure> {
        let export = self.lent.take(id)?;
        let holder = self.holder(export.kind)?;
        if taken {
            holder.taken(&export.words);
            Ok(())
        } else {
            Ok(holder.abandon(&export.words)?)
        }
    }
}
