//! The suite's report: a table for people, JSON for programs.

use super::run::{Judged, Verdict};
use anstyle::{AnsiColor, Style};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
            Verdict::Skipped,
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

/// Several runs, side by side: a line a rule, a column a run; each column's system is in its head.
///
/// # Errors
/// The stream's.
pub fn side_by_side(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    for (number, report) in reports.iter().enumerate() {
        writeln!(
            out,
            "{}: {} ({})",
            number + 1,
            report.platform,
            report.system
        )?;
    }
    write!(out, "{:44}", "")?;
    for number in 1..=reports.len() {
        write!(out, " {number:<16}")?;
    }
    writeln!(out)?;
    for name in names(reports) {
        write!(out, "{name:44}")?;
        for report in reports {
            match report.rules.iter().find(|rule| rule.name == name) {
                Some(rule) => {
                    let style = colour(rule.verdict);
                    write!(out, " {style}{:16}{style:#}", rule.verdict.name())?;
                }
                None => write!(out, " {:16}", "-")?,
            }
        }
        writeln!(out)?;
    }
    reasons(reports, out)
}

/// Why a rule does not just agree: each reason once, with its rules and the columns.
fn reasons(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let mut told: BTreeMap<_, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for (number, report) in reports.iter().enumerate() {
        for rule in report.rules.iter().filter(|r| r.verdict != Verdict::Agrees) {
            let why = (rule.verdict, rule.detail.as_str());
            let columns = told.entry(why).or_default().entry(&rule.name);
            columns.or_default().push((number + 1).to_string());
        }
    }
    for ((verdict, why), rules) in told {
        let style = colour(verdict);
        writeln!(out, "\n{style}{}{style:#}: {why}", verdict.name())?;
        let rules = rules.into_iter();
        let rules: Vec<_> = rules
            .map(|(name, columns)| format!("{name} ({})", columns.join(", ")))
            .collect();
        writeln!(out, "    {}", rules.join(", "))?;
    }
    Ok(())
}

/// Every rule that some report has, in the first one's order.
fn names(reports: &[Report]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for rule in reports.iter().flat_map(|report| &report.rules) {
        if !names.contains(&rule.name.as_str()) {
            names.push(&rule.name);
        }
    }
    names
}

fn colour(verdict: Verdict) -> Style {
    let colour = match verdict {
        Verdict::Agrees => AnsiColor::Green,
        Verdict::Differs | Verdict::Crashed | Verdict::Hung | Verdict::Broken => AnsiColor::Red,
        Verdict::KnownDifference | Verdict::NotHere | Verdict::Skipped => AnsiColor::Yellow,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(platform: &str, rules: &[(&str, Verdict)]) -> Report {
        let rule = |(name, verdict): &(&str, Verdict)| Judged {
            name: (*name).into(),
            says: "So it is.".into(),
            source: "somewhere.c".into(),
            verdict: *verdict,
            detail: format!("because of {name}"),
            ms: 1,
        };
        Report {
            tool: "pv-stress".into(),
            platform: platform.into(),
            system: "test".into(),
            rules: rules.iter().map(rule).collect(),
        }
    }

    #[test]
    fn the_worst_verdict_decides() {
        use Verdict::{Agrees, Broken, Crashed, Differs, Hung, KnownDifference, NotHere, Skipped};
        let fine = report(
            "sim",
            &[
                ("a", Agrees),
                ("b", KnownDifference),
                ("c", NotHere),
                ("d", Skipped),
            ],
        );
        assert_eq!(fine.exit_status(), 0);
        for bad in [Differs, Crashed, Hung] {
            let report = report("sim", &[("a", Broken), ("b", bad)]);
            assert_eq!(report.exit_status(), 1);
        }
        assert_eq!(
            report("sim", &[("a", Agrees), ("b", Broken)]).exit_status(),
            2
        );
        assert_eq!(report("sim", &[]).exit_status(), 2, "nothing was tried");
    }

    #[test]
    fn reports_stand_side_by_side() {
        let one = report(
            "sim",
            &[("a", Verdict::Agrees), ("b", Verdict::KnownDifference)],
        );
        let other = report("xen", &[("b", Verdict::Agrees), ("c", Verdict::Differs)]);
        let mut text = Vec::new();
        side_by_side(&[one, other], &mut text).unwrap();
        let text = anstream::adapter::strip_bytes(&text).into_vec();
        let lines: Vec<String> = String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "1: sim (test)",
                "2: xen (test)",
                "1 2",
                "a agrees -",
                "b known difference agrees",
                "c - DIFFERS",
                "",
                "DIFFERS: because of c",
                "c (2)",
                "",
                "known difference: because of b",
                "b (1)",
            ]
        );
    }
}
