//! The scenarios: what the processes of a run do to each other, and what must hold of it.
//!
//! A scenario is mechanism only in its [`Scenario::play`]: it starts, orders, kills and waits. What
//! must hold is left to the judges of [`pv_judges::checks`], which see the evidence when every process
//! has ended.

mod copy;
mod hold_unmap;
mod killed;
mod pair;
mod partial_map;
mod revoke_in_use;
mod stage;

pub use stage::Stage;

use crate::settings::Settings;
use pv_harness::error::{Error, Result};
use pv_harness::processes::{Processes, Stopped};
use pv_harness::settings::PlatformKind;
use pv_judges::checks::{Check, Evidence};
use pv_judges::report::ReportDir;
use pv_judges::verdict::{Figure, Outcome, Verdict};
use pv_remote::xen::Xen;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

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

/// All of them, in the order of a run without arguments.
pub fn all() -> &'static [&'static dyn Scenario] {
    &[
        &copy::Copy,
        &hold_unmap::HoldUnmap,
        &hold_unmap::HoldUnmapSync,
        &killed::BackendKilled,
        &killed::FrontendKilled,
        &killed::ConsumerKilled,
        &partial_map::PartialMap,
        &revoke_in_use::RevokeInUse,
    ]
}

/// The scenario of a name.
///
/// # Errors
/// [`Error::Usage`], with the names there are.
pub fn find(name: &str) -> Result<&'static dyn Scenario> {
    all()
        .iter()
        .copied()
        .find(|scenario| scenario.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = all().iter().map(|scenario| scenario.name()).collect();
            Error::Usage(format!(
                "there is no scenario {name:?}; there are {}",
                names.join(", ")
            ))
        })
}

/// The scenarios of these names, each once; all that make sense on the platform, if there are no names.
///
/// # Errors
/// As [`find`]; [`Error::Usage`] for one that the platform cannot show.
pub fn chosen(names: &[String], platform: PlatformKind) -> Result<Vec<&'static dyn Scenario>> {
    let makes_sense = |scenario: &&dyn Scenario| {
        platform == PlatformKind::Sim || scenario.only_simulated().is_none()
    };
    if names.is_empty() {
        return Ok(all().iter().copied().filter(makes_sense).collect());
    }
    let mut seen = HashSet::new();
    // Twice the same would write its logs to the same place.
    names
        .iter()
        .filter(|name| seen.insert(name.as_str()))
        .map(|name| {
            let scenario = find(name)?;
            match scenario.only_simulated() {
                Some(why) if platform == PlatformKind::Xen => Err(Error::Usage(format!(
                    "{name} is for --platform sim only: {why}"
                ))),
                _ => Ok(scenario),
            }
        })
        .collect()
}

/// How many lives the report shows.
const SHOWN_LIVES: usize = 32;

/// Runs one scenario from its first process to its verdict.
///
/// # Errors
/// [`Error::Environment`] if it could not even begin; [`Error::Interrupted`] after a signal, when
/// everything has been cleaned up.
pub fn run(
    scenario: &dyn Scenario,
    settings: &Settings,
    xen: Option<&Arc<Xen>>,
    report: &ReportDir,
    on_progress: impl FnMut(&str, u64, u64) + 'static,
) -> Result<Verdict> {
    let started = Instant::now();
    let (logs, below) = report.logs(scenario.name());
    let mut processes = Processes::new(&logs, started + settings.deadline)?;
    processes.on_progress(on_progress);
    let mut stage = Stage::new(processes, settings, xen.cloned());
    let played = scenario.play(&mut stage);
    let (evidence, mut figures) = match played {
        Err(Stopped::Interrupted(signal)) => {
            drop(stage);
            return Err(Error::Interrupted(signal));
        }
        _ => stage.finish(),
    };
    let mut hung = evidence.aftermath.hung.clone();
    let mut checks = match played {
        Ok(judge) => judge(&evidence),
        Err(stopped) => {
            let check = Check::fail("the scenario came to its end", stopped.to_string());
            if let Stopped::Deadline {
                hung: at_deadline, ..
            } = stopped
            {
                hung = at_deadline;
            }
            vec![check]
        }
    };
    checks.extend(pv_judges::checks::common(&evidence));
    checks.extend(pv_judges::checks::kernel_does_not_wait(&hung));
    let edges = evidence.deadlocks().next().map_or_else(
        || pv_judges::checks::kernel_cycle(&hung),
        |d| d.edges.clone(),
    );
    let outcome = Verdict::judge(&checks, &edges, !scenario.wants_deadlock());
    figures.extend(unmap_figures(&evidence));
    Ok(Verdict {
        scenario: scenario.name().into(),
        summary: scenario.summary().into(),
        outcome,
        checks,
        edges: if outcome == Outcome::Failed {
            Vec::new()
        } else {
            edges
        },
        hung,
        lives: worth_showing(&evidence),
        figures,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        logs: below,
        replay: settings.replay(scenario.name(), report.path()),
    })
}

fn unmap_figures(evidence: &Evidence) -> Vec<Figure> {
    let took = || evidence.lives.iter().filter_map(|life| life.unmap_took_us);
    let held = evidence
        .lives
        .iter()
        .filter(|life| life.unmapped_while_held())
        .count();
    let mut figures = Vec::new();
    if let Some(longest) = took().max() {
        let value = format!("{} ({held} of them held)", took().count());
        figures.push(Figure {
            name: "unmaps".into(),
            value,
        });
        let value = pv_judges::checks::spell(longest * 1000);
        figures.push(Figure {
            name: "longest unmap call".into(),
            value,
        });
    }
    figures
}

/// The held ones, and some of what went on beside them, evenly over that time.
fn worth_showing(evidence: &Evidence) -> Vec<pv_judges::checks::RequestLife> {
    let (held, rest): (Vec<_>, Vec<_>) =
        evidence.lives.iter().partition(|life| life.hold.is_some());
    let mut shown: Vec<_> = held.into_iter().take(SHOWN_LIVES / 2).collect();
    let from = shown.first().map_or(0, |life| life.mapped);
    let until = shown
        .iter()
        .filter_map(|life| life.released)
        .max()
        .unwrap_or(u64::MAX);
    let beside: Vec<_> = rest
        .into_iter()
        .filter(|life| (from..until).contains(&life.mapped))
        .collect();
    let step = beside.len().div_ceil(SHOWN_LIVES / 2).max(1);
    shown.extend(beside.into_iter().step_by(step));
    shown.sort_by_key(|life| life.mapped);
    shown.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_once_and_strangers_are_refused() {
        let names = ["partial-map".to_owned(), "partial-map".to_owned()];
        assert_eq!(chosen(&names, PlatformKind::Sim).unwrap().len(), 1);
        assert_eq!(chosen(&[], PlatformKind::Sim).unwrap().len(), all().len());
        let Err(error) = chosen(&["nonsense".to_owned()], PlatformKind::Sim) else {
            panic!()
        };
        assert!(error.to_string().contains("partial-map"), "{error}");
    }
}
