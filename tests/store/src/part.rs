//! What a part of it comes to: checks, as a table for people or as one line for whoever started it.

use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_judges::checks::Check;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::ExitCode;

/// A part's checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What had to hold.
    pub checks: Vec<Check>,
}

impl Part {
    /// One check, and no more.
    pub fn of(check: Check) -> Part {
        Part {
            checks: vec![check],
        }
    }

    /// Prints it. Exit status 0: all held; 1: one did not.
    ///
    /// # Errors
    /// Standard output.
    pub fn print(&self, json: bool) -> Result<ExitCode> {
        let mut out = anstream::stdout();
        let printed = if json {
            let text = serde_json::to_string(self).map_err(std::io::Error::from);
            text.and_then(|text| writeln!(out, "{text}"))
        } else {
            self.table(&mut out)
        };
        closed_pipe_is_fine(printed)?;
        let all_hold = self.checks.iter().all(|check| check.passed);
        Ok(ExitCode::from(u8::from(!all_hold)))
    }

    fn table(&self, out: &mut impl Write) -> std::io::Result<()> {
        let width = self.checks.iter().map(|check| check.name.len()).max();
        for check in &self.checks {
            let word = if check.passed { "held" } else { "FAILED" };
            let (name, width) = (&check.name, width.unwrap_or(0));
            writeln!(out, "{name:width$}  {word:6}  {}", check.detail)?;
        }
        Ok(())
    }

    /// Finds it in what a process wrote: the last line that is one.
    ///
    /// # Errors
    /// There is none, with the last words.
    pub fn in_output(output: &str) -> Result<Part> {
        let lines = output.lines().rev();
        let mut parts = lines.filter_map(|line| serde_json::from_str(line.trim()).ok());
        parts.next().ok_or_else(|| {
            let last: Vec<&str> = output.trim().lines().rev().take(3).collect();
            let cause = format!("it printed no result; its last words: {}", last.join(" | "));
            Error::environment("a part of the suite", cause, "see the domain's console")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_in_the_output_counts_and_no_result_is_an_error() {
        let part = Part::of(Check::fail("a", "b"));
        let line = serde_json::to_string(&part).unwrap();
        let output = format!("thread panicked\n{line}\nwords after it\n");
        assert_eq!(Part::in_output(&output).unwrap(), part);
        let error = Part::in_output("Killed\n").unwrap_err();
        assert!(error.to_string().contains("Killed"), "{error}");
    }

    #[test]
    fn a_table_says_what_failed() {
        let mut text = Vec::new();
        let checks = vec![Check::pass("one", "1"), Check::fail("another", "2")];
        Part { checks }.table(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "one      held    1\nanother  FAILED  2\n"
        );
    }
}
