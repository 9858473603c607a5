//! What a hand lends, and with which holders.

use super::failure::Failure;
use super::loan::Loan;
use super::order::LoanId;
use super::table::Table;
use crate::holder::{Export, HoldError, Holder, holder};
use crate::settings::HoldName;
use libgnt::{Platform, SharedPages};
use std::collections::HashMap;
use std::sync::Arc;

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
