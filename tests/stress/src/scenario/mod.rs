//! The scenarios: what the processes of a run do to each other, and what must hold of it.
//!
//! A scenario is mechanism only in its [`Scenario::play`]: it starts, orders, kills and waits. What
//! must hold is left to the judges of [`pv_judges::checks`], which see the evidence when every process
//! has ended.

mod catalogue;
mod copy;
mod hang;
mod hold_unmap;
mod holders;
mod killed;
mod pair;
mod partial_map;
mod revoke_in_use;
mod run;
mod scan_out;
mod stage;

pub use catalogue::{all, chosen, find};
pub use run::run;
pub use stage::Stage;

use pv_harness::processes::Stopped;
use pv_judges::checks::{Check, Evidence};

/// Judges the evidence, with what the play knows.
pub type Judge = Box<dyn FnOnce(&Evidence) -> Vec<Check>>;

/// One scenario.
pub trait Scenario: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What must be seen, in one sentence.
    fn summary(&self) -> &'static str;

    /// Is a deadlock what it looks for?
    fn wants_deadlock(&self) -> bool {
        false
    }

    /// Does it need an input file and a device?
    fn uses_input(&self) -> bool {
        true
    }

    /// Does the third consumer hold pages whose unmap has been called?
    fn holds(&self) -> bool {
        false
    }

    /// Why it cannot be seen on a real Xen, if it cannot.
    fn only_simulated(&self) -> Option<&'static str> {
        None
    }

    /// Runs it. The judge is called after every process has ended.
    ///
    /// # Errors
    /// [`Stopped`], if it did not come to its end.
    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped>;
}
