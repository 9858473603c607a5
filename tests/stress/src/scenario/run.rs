//! One scenario, from its first process to its verdict.

use super::hang::Hang;
use super::{Scenario, Stage};
use crate::settings::Settings;
use pv_harness::error::{Error, Result};
use pv_harness::processes::{Processes, Stopped};
use pv_judges::checks::{Check, Evidence, no_cycle, one_oracle};
use pv_judges::report::ReportDir;
use pv_judges::verdict::{Figure, ONE_ORACLE, Outcome, Verdict};
use pv_remote::xen::Xen;
use std::sync::Arc;
use std::time::Instant;

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
    let at_deadline = match &played {
        Err(
            Stopped::Deadline { hung, blocked, .. } | Stopped::Standstill { hung, blocked, .. },
        ) => Some(Hang::of(&mut stage, hung, blocked)),
        _ => None,
    };
    let (mut evidence, mut figures, pictures) = match played {
        Err(Stopped::Interrupted(signal)) => {
            drop(stage);
            return Err(Error::Interrupted(signal));
        }
        _ => stage.finish(),
    };
    let mut hang = at_deadline.unwrap_or_else(|| Hang::at_end(&evidence));
    hang.take_left(&evidence);
    evidence.standstill = hang.standstill;
    let mut checks = match played {
        Ok(judge) => judge(&evidence),
        Err(stopped) => {
            vec![Check::fail(
                "the scenario came to its end",
                stopped.to_string(),
            )]
        }
    };
    // It waits for the others' end, and hangs only because they do.
    hang.hung.retain(|process| {
        evidence
            .watched
            .iter()
            .all(|w| w.observer != process.process)
    });
    checks.extend(pv_judges::checks::common(&evidence));
    let no_cycle = no_cycle(&evidence);
    let standstill = evidence.standstill.take();
    let of_kernel = || {
        standstill
            .iter()
            .flat_map(|found| found.edges.clone())
            .collect()
    };
    let edges = (evidence.deadlocks().next()).map_or_else(of_kernel, |d| d.edges.clone());
    let outcome = Verdict::judge(&checks, &edges, !scenario.wants_deadlock());
    figures.extend(unmap_figures(&evidence));
    figures.extend(one_oracle(&evidence).map(|why| Figure {
        name: ONE_ORACLE.into(),
        value: why,
    }));
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
        hung: hang.hung,
        blocked: hang.blocked,
        standstill,
        no_cycle,
        lives: worth_showing(&evidence),
        pictures,
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
