//! What a run leaves for people and for CI: a directory with `report.json`, `junit.xml`,
//! `report.html`, and below `runs/` each scenario's logs and timelines.

mod chart;
mod content;
mod dir;
mod graph;
mod hang;
mod html;
mod junit;
mod pictures;
mod table;

pub use content::Report;
pub use dir::ReportDir;
pub use table::{print_listing, print_table};

use pv_harness::error::{Error, Result};

impl Report {
    /// Writes all three files.
    ///
    /// # Errors
    /// If the disk is full, say.
    pub fn write(&self, dir: &ReportDir) -> Result<()> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::environment("report.json", error, "report this as a bug"))?;
        dir.write("report.json", json)?;
        dir.write("junit.xml", junit::render(self)?)?;
        for verdict in &self.verdicts {
            pictures::write(dir, verdict)?;
        }
        dir.write("report.html", html::render(self))
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

    /// A run that hung in a kernel.
    pub(crate) fn hang() -> Report {
        let (hung, blocked, found) = crate::checks::hangs::told();
        let mut verdict = verdict("hold-unmap", Outcome::Deadlocked);
        verdict.edges.clone_from(&found.edges);
        (verdict.hung, verdict.blocked) = (hung, blocked);
        verdict.standstill = Some(found);
        Report {
            verdicts: vec![verdict],
            ..report()
        }
    }

    #[test]
    fn all_files_are_written_and_the_json_is_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = ReportDir::claim(&temp.path().join("r")).unwrap();
        report().write(&dir).unwrap();
        let json = std::fs::read(dir.path().join("report.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&json).unwrap(), report());
        let json = serde_json::to_string(&hang()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), hang());
        assert!(dir.path().join("junit.xml").exists() && dir.path().join("report.html").exists());
    }
}
