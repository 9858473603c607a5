//! What a rule is.

use super::bench::Bench;
use super::outcome::Outcome;

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
    pub(super) const fn new(
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

    pub(super) const fn but_the_sim(mut self, why: &'static str) -> Rule {
        self.differs_on_sim = Some(why);
        self
    }
}
