//! The client's cases, one check each.

use crate::over::Over;
use crate::part::Part;
use libgnt::DomId;
use pv_harness::error::Result;
use pv_judges::checks::Check;
use pv_suite::{Many, Outcome, Place, Ran};

/// How much is shown of a panic, which may have whole lists in it.
const SHOWN: usize = 400;

/// Runs all cases that may run over it.
///
/// # Errors
/// Nobody is there.
pub fn cases(over: &Over, many: Many) -> Result<Part> {
    let domid = over.domid()?;
    // Once, so that a daemon that is not there is an error and not as many failures.
    over.client()?;
    let node = match domid {
        DomId::DOM0 => "/pv-suite".to_owned(),
        domid => format!("/local/domain/{}/data/pv-suite", domid.0),
    };
    #[allow(clippy::unwrap_used, reason = "a case that cannot connect fails")]
    let connect = || over.client().unwrap();
    let place = Place {
        connect: &connect,
        domid,
        own_connection: !over.is_device(),
        node: &node,
        many,
    };
    let checks = pv_suite::run_all(&place).iter().map(check).collect();
    Ok(Part { checks })
}

fn check(ran: &Ran) -> Check {
    let took = format!("{} ms", ran.took.as_millis());
    match &ran.outcome {
        Outcome::Passed => Check::pass(ran.name, took),
        Outcome::NotHere(why) => Check::pass(ran.name, format!("not tried: {why}")),
        Outcome::Failed(words) => {
            let words = words.replace('\n', "; ");
            let shown: String = words.chars().take(SHOWN).collect();
            Check::fail(ran.name, shown)
        }
    }
}
