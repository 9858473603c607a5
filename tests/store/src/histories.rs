//! Histories from seeds, played on a daemon that others use and on our server beside it.

use crate::over::Over;
use crate::part::Part;
use crate::scene::Scene;
use crate::wires::Wires;
use libgnt::DomId;
use pv_harness::error::{Error, Result};
use pv_judges::checks::Check;
use pv_rivals::daemon::Rival;
use pv_rivals::ours::Ours;
use pv_rivals::play::{Difference, Outcome, play_on};
use pv_rivals::random;
use pv_rivals::shrink::shrink;
use pv_rivals::step::Step;
use pv_xenstore::server::StoreSabotage;
use pv_xenstore::{Client, Permission, Rights};
use std::collections::BTreeMap;

/// What had to hold.
const NAME: &str = "every answer and every event is our server's, too";

/// What to play.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The way to the daemon.
    pub over: Over,
    /// Which daemon it is.
    pub rival: Rival,
    /// The first history's seed; each further one has the next.
    pub seed: u64,
    /// How many requests in all.
    pub requests: u64,
    /// How many in a history.
    pub each: usize,
    /// Other domains that there are.
    pub others: Vec<DomId>,
    /// Runs that the search for the shortest history may take.
    pub shrinking: usize,
    /// Our server broken on purpose, to see that it is noticed.
    pub sabotage: Option<StoreSabotage>,
}

/// Plays them.
///
/// # Errors
/// The daemon is not there, or does not answer.
pub fn histories(plan: &Plan) -> Result<Part> {
    let scene = Scene {
        domid: plan.over.domid()?,
        device: plan.over.is_device(),
        others: plan.others.clone(),
    };
    let (mut requests, mut count, mut ended) = (0, 0, 0);
    let mut explained: BTreeMap<&str, u64> = BTreeMap::new();
    while requests < plan.requests {
        let seed = plan.seed.wrapping_add(count);
        let steps = scene.steps(random::history(seed, plan.each));
        let outcome = play(plan, &scene, &steps)?;
        if let Some(difference) = outcome.difference {
            // The search for the shortest may take long.
            tracing::warn!(
                "{}",
                lines(
                    seed,
                    &steps[..=difference.at.min(steps.len() - 1)],
                    &difference
                )
            );
            let (steps, difference) = shortest(plan, &scene, steps, difference)?;
            return Ok(Part::of(Check::fail(
                NAME,
                lines(seed, &steps, &difference),
            )));
        }
        count += 1;
        requests += outcome.requests;
        ended += u64::from(outcome.ended.is_some());
        for (id, times) in outcome.explained {
            *explained.entry(id).or_default() += times;
        }
    }
    let known: String = explained
        .iter()
        .map(|(id, times)| format!(", {id} {times} times"))
        .collect();
    let cut = match ended {
        0 => String::new(),
        ended => format!(", {ended} of them cut short by a known difference"),
    };
    let detail = format!(
        "{requests} requests in {count} histories from seed {}{cut}{known}",
        plan.seed
    );
    Ok(Part::of(Check::pass(NAME, detail)))
}

fn play(plan: &Plan, scene: &Scene, steps: &[Step]) -> Result<Outcome> {
    let client = plan.over.client()?;
    let root = scene.root();
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Error::environment(what, error, "see whether the daemon lives")
    };
    remove(&client, &root)?;
    let owner = [Permission::new(Rights::None, scene.domid)];
    client
        .mkdir(&root)
        .and_then(|()| client.set_perms(&root, &owner))
        .map_err(|error| failed(&root, &error))?;
    let ours = Ours::playing(plan.rival.counterpart(), plan.sabotage)
        .with_rights(scene.domid, scene.device)
        .after(&scene.toolstack());
    let theirs = Wires::new(&plan.over, scene.quiet());
    let played = play_on(plan.rival, Box::new(theirs), ours, steps);
    let outcome = played.map_err(|error| failed("a history", &error))?;
    remove(&client, &root)?;
    Ok(outcome)
}

fn remove(client: &Client, root: &str) -> Result<()> {
    match client.rm(root) {
        Err(error) if !error.is_gone() => Err(Error::environment(root, error, "remove it")),
        _ => Ok(()),
    }
}

fn shortest(
    plan: &Plan,
    scene: &Scene,
    mut steps: Vec<Step>,
    difference: Difference,
) -> Result<(Vec<Step>, Difference)> {
    steps.truncate(difference.at + 1);
    let mut last = difference;
    let steps = shrink(steps, plan.shrinking, |part| -> Result<bool> {
        let outcome = play(plan, scene, part)?;
        Ok(outcome.difference.map(|found| last = found).is_some())
    })?;
    Ok((steps, last))
}

fn lines(seed: u64, steps: &[Step], difference: &Difference) -> String {
    const SHOWN: usize = 30;
    let shown = steps.len().saturating_sub(SHOWN);
    let mut text = format!("seed {seed}, after {} steps:", steps.len());
    for step in &steps[shown..] {
        text.push_str(&format!(" {step};"));
    }
    text.push(' ');
    text.push_str(&difference.lines().replace('\n', " "));
    text
}
