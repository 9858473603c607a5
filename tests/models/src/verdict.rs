//! What was found, against what was expected.

use super::graph::Recorder;
use super::search::{Found, Limits};
use super::systems::System;
use super::variant::{Bounds, Expected, Variant};
use serde::Serialize;
use std::sync::Arc;

/// A variant's verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The system.
    pub system: &'static str,
    /// The variant.
    pub variant: &'static str,
    /// In one line.
    pub statement: &'static str,
    /// What was merged in its discussion.
    pub merged: &'static str,
    /// The laws that have to be broken; none: all must hold.
    pub expected: Vec<&'static str>,
    /// The laws that were broken.
    pub found: Vec<&'static str>,
    /// Every state was looked at.
    pub exhaustive: bool,
    /// As expected, and exhaustive.
    pub as_expected: bool,
    /// How many actors of the kind that there are several of.
    pub actors: usize,
    /// Which kind.
    pub kind: &'static str,
    /// Distinct states.
    pub states: usize,
    /// Moves between them.
    pub moves: usize,
    /// Steps to the farthest state.
    pub depth: usize,
    /// Milliseconds.
    pub ms: u64,
    /// States a second.
    pub states_per_second: u64,
}

/// Checks one variant.
pub fn check(
    system: &System,
    variant: &Variant,
    bounds: Bounds,
    limits: Limits,
    recorder: &Arc<Recorder>,
) -> Verdict {
    let found = variant.check(bounds, limits, recorder);
    let seconds = found.time.as_secs_f64().max(1e-6);
    Verdict {
        system: variant.system,
        variant: variant.name,
        statement: variant.statement,
        merged: system.merged,
        expected: variant.expected.broken(),
        exhaustive: found.exhaustive,
        as_expected: as_expected(variant, bounds, &found),
        actors: bounds.actors,
        kind: variant.kind,
        states: found.states,
        moves: found.moves,
        depth: found.depth,
        ms: u64::try_from(found.time.as_millis()).unwrap_or(u64::MAX),
        states_per_second: (found.states as f64 / seconds) as u64,
        found: found.broken,
    }
}

/// With two actors of a kind or more, exactly the expected laws must be broken. With one, the one
/// that is the variant's point must be, or none.
fn as_expected(variant: &Variant, bounds: Bounds, found: &Found) -> bool {
    found.exhaustive
        && match variant.expected {
            Expected::Holds => found.broken.is_empty(),
            Expected::Fails(_) if bounds.actors >= 2 => found.broken == variant.expected.broken(),
            Expected::Fails(laws) => laws.first().is_some_and(|law| found.broken.contains(law)),
        }
}
