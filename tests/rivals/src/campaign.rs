//! Many histories, each from its own seed, until enough requests were answered or two answers differ.

use crate::daemon::{Place, Rival};
use crate::error::Result;
use crate::ocaml;
use crate::play::{Difference, Outcome, play};
use crate::random;
use crate::shrink::shrink;
use crate::step::Step;
use pv_xenstore::server::StoreSabotage;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Requests in one history: a daemon lives as long.
pub const HISTORY: usize = 2000;
/// Runs that the search for the shortest history may take.
const SHRINKING: usize = 600;

/// Steps that are shown of a difference that does not come again, and cannot be shrunk.
const SHOWN: usize = 40;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first history's seed; each further one has the next.
    pub seed: u64,
    /// How many requests in all.
    pub requests: u64,
    /// How many in a history.
    pub each: usize,
    /// Our server broken on purpose, to see that it is noticed.
    pub sabotage: Option<StoreSabotage>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were answered.
    pub requests: u64,
    /// Histories that were played.
    pub histories: u64,
    /// Histories that a known difference ended.
    pub ended: u64,
    /// How often each known difference was met.
    pub explained: BTreeMap<&'static str, u64>,
    /// SHA-256 of all histories' hashes, in hexadecimal.
    pub hash: String,
    /// The first difference that nothing explains.
    pub found: Option<Found>,
}

/// A difference, and the shortest history that shows it.
#[derive(Debug)]
pub struct Found {
    /// The history's seed.
    pub seed: u64,
    /// Its shortest part that shows a difference.
    pub steps: Vec<Step>,
    /// What shows at its end.
    pub difference: Difference,
}

/// Runs it.
///
/// # Errors
/// The daemon cannot be run.
pub fn run(rival: Rival, place: &Place, plan: Plan) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut hash = Sha256::new();
    while tally.requests < plan.requests {
        let seed = plan.seed.wrapping_add(tally.histories);
        let left = plan.requests - tally.requests;
        let each = plan.each.min(usize::try_from(left).unwrap_or(plan.each));
        let steps = ocaml::fit(rival, random::history(seed, each));
        let place = &ocaml::place(rival, place, seed);
        let outcome = play(rival, place, plan.sabotage, &steps)?;
        tally.histories += 1;
        tally.requests += outcome.requests;
        hash.update(outcome.hash);
        for (id, count) in &outcome.explained {
            *tally.explained.entry(id).or_default() += count;
        }
        tally.ended += u64::from(outcome.ended.is_some());
        tally.hash = hex(&hash.clone().finalize());
        if let Some(difference) = outcome.difference {
            tally.found = Some(shortest(
                rival,
                place,
                plan.sabotage,
                seed,
                steps,
                difference,
            )?);
            break;
        }
    }
    Ok(tally)
}

fn shortest(
    rival: Rival,
    place: &Place,
    sabotage: Option<StoreSabotage>,
    seed: u64,
    mut steps: Vec<Step>,
    difference: Difference,
) -> Result<Found> {
    steps.truncate(difference.at + 1);
    if play(rival, place, sabotage, &steps)?.difference.is_none() {
        // It does not come again: time plays a part in it, and all of it is shown.
        return Ok(Found {
            seed,
            steps,
            difference,
        });
    }
    let mut last = difference;
    let steps = shrink(steps, SHRINKING, |part| -> Result<bool> {
        let Outcome { difference, .. } = play(rival, place, sabotage, part)?;
        // Another difference is as good: it is shorter to show.
        Ok(difference.map(|found| last = found).is_some())
    })?;
    Ok(Found {
        seed,
        steps,
        difference: last,
    })
}

impl Found {
    /// As people read it, with the command that shows it again.
    pub fn lines(&self, rival: Rival, each: usize) -> String {
        let mut text = format!("{rival} and our server differ after\n");
        let shown = self.steps.len().saturating_sub(SHOWN);
        // Writing to a string does not fail.
        if shown > 0 {
            let _ = writeln!(text, "  ({shown} steps)");
        }
        for step in &self.steps[shown..] {
            let _ = writeln!(text, "  {step}");
        }
        let _ = write!(text, "{}", self.difference.lines());
        let _ = writeln!(
            text,
            "again: pv-rivals run --daemon {rival} --seed {} --requests {each}",
            self.seed
        );
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
