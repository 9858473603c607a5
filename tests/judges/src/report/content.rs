//! What a report holds.

use crate::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// The whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `pv-stress` and its version.
    pub tool: String,
    /// When it began, UTC, RFC 3339.
    pub started: String,
    /// As it was called.
    pub command: String,
    /// `sim` or `xen`.
    pub platform: String,
    /// The seed of everything random in it.
    pub seed: u64,
    /// The exit status.
    pub exit_status: u8,
    /// Wall-clock time.
    pub duration_ms: u64,
    /// One a scenario.
    pub verdicts: Vec<Verdict>,
}

/// Milliseconds as people read them.
pub(super) fn spell_ms(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{:.1} s", ms as f64 / 1000.0)
    }
}
