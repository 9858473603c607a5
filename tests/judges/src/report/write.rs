//! The report's files.

use super::{Report, ReportDir, html, junit};
use pv_harness::error::{Error, Result};

impl Report {
    /// Writes all three files.
    ///
    /// # Errors
    /// If the disk is full, say.
    pub fn write(&self, dir: &ReportDir) -> Result<()> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::environment("report.json", error, "report this as a bug"))?;
        dir.write("report.json", &json)?;
        dir.write("junit.xml", &junit::render(self)?)?;
        dir.write("report.html", &html::render(self))
    }
}
