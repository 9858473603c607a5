//! The suite's report: a table for people, JSON for programs.

use super::run::{Judged, Verdict};
use anstyle::{AnsiColor, Style};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// Everything about one run of the suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `pv-stress` and its version.
    pub tool: String,
    /// `sim`, or `xen`.
    pub platform: String,
    /// The kernel's release and the guest type; on the simulator what it plays.
    pub system: String,
    /// Each rule.
    pub rules: Vec<Judged>,
}

impl Report {
    /// 0: all agree, or are known not to. 1: something differs, crashed or hung. 2: something
    /// could not be found out.
    pub fn exit_status(&self) -> u8 {
        let any = |wanted: &[Verdict]| self.rules.iter().any(|r| wanted.contains(&r.verdict));
        if any(&[Verdict::Differs, Verdict::Crashed, Verdict::Hung]) {
            1
        } else if any(&[Verdict::Broken]) || self.rules.is_empty() {
            2
        } else {
            0
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.rules.iter().filter(|r| r.verdict == verdict).count()
    }

    /// The last line, for people.
    ///
    /// # Errors
    /// The stream's.
    pub(super) fn print_sum(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "\n{} rules on {} ({}):",
            self.rules.len(),
            self.platform,
            self.system
        )?;
        let all = [
            Verdict::Agrees,
            Verdict::Differs,
            Verdict::Crashed,
            Verdict::Hung,
            Verdict::Broken,
            Verdict::KnownDifference,
            Verdict::NotHere,
        ];
        let counts = all.map(|verdict| (self.count(verdict), verdict.name()));
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        writeln!(out, " {}", counts.join(", "))
    }
}

fn colour(verdict: Verdict) -> Style {
    let colour = match verdict {
        Verdict::Agrees => AnsiColor::Green,
        Verdict::Differs | Verdict::Crashed | Verdict::Hung | Verdict::Broken => AnsiColor::Red,
        Verdict::KnownDifference | Verdict::NotHere => AnsiColor::Yellow,
    };
    Style::new().fg_color(Some(colour.into()))
}

/// One line, and what is to know if the rule does not agree.
///
/// # Errors
/// The stream's.
pub(super) fn print_rule(rule: &Judged, out: &mut dyn Write) -> io::Result<()> {
    let style = colour(rule.verdict);
    writeln!(
        out,
        "{:44} {style}{:16}{style:#} {:>6} ms",
        rule.name,
        rule.verdict.name(),
        rule.ms
    )?;
    if rule.verdict != Verdict::Agrees {
        writeln!(out, "    {}", rule.says)?;
        writeln!(out, "    {}", rule.detail)?;
        writeln!(out, "    ({})", rule.source)?;
    }
    Ok(())
}
