//! What a run leaves for people and for CI: a directory with `report.json`, `junit.xml`,
//! `report.html`, and below `runs/` each scenario's logs and timelines.

mod chart;
mod dir;
mod html;
mod junit;
mod table;
mod write;

pub use dir::ReportDir;
pub use table::{print_listing, print_table};

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
fn spell_ms(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{:.1} s", ms as f64 / 1000.0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::verdict::{Outcome, tests::verdict};

    pub(crate) fn report() -> Report {
        let mut hold = verdict("hold-unmap", Outcome::Passed);
        hold.lives = crate::checks::fixture::evidence().lives;
        Report {
            tool: "pv-stress 0.1.0".into(),
            started: "2026-01-02T03:04:05Z".into(),
            command: "pv-stress run --scenario '<b>'".into(),
            platform: "sim".into(),
            seed: 42,
            exit_status: 3,
            duration_ms: 12_345,
            verdicts: vec![
                hold,
                verdict("copy", Outcome::Failed),
                verdict("hold-unmap", Outcome::Deadlocked),
            ],
        }
    }

    #[test]
    fn all_files_are_written_and_the_json_is_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = ReportDir::claim(&temp.path().join("r")).unwrap();
        report().write(&dir).unwrap();
        let json = std::fs::read(dir.path().join("report.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&json).unwrap(), report());
        assert!(dir.path().join("junit.xml").exists() && dir.path().join("report.html").exists());
    }
}
