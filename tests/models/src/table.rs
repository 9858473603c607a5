//! The table of verdicts.

use super::verdict::Verdict;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;

/// As text, with colours as escape sequences.
pub fn table(verdicts: &[Verdict]) -> String {
    let id = |v: &Verdict| format!("{}/{}", v.system, v.variant);
    let width = verdicts
        .iter()
        .map(|v| id(v).len())
        .max()
        .unwrap_or(0)
        .max(7);
    let broken = |laws: &[&str]| {
        if laws.is_empty() {
            "holds".to_owned()
        } else {
            format!("fails {}", laws.join(", "))
        }
    };
    let mut out = format!(
        "{:width$}  {:>2}  {:>9}  {:>5}  {:>8}  {:>9}  expected, found\n",
        "variant", "n", "states", "depth", "time", "states/s"
    );
    for v in verdicts {
        let (style, mark) = match (v.as_expected, v.exhaustive) {
            (true, _) => (Style::new(), ""),
            (false, true) => (AnsiColor::Red.on_default().bold(), "  UNEXPECTED"),
            (false, false) => (AnsiColor::Yellow.on_default().bold(), "  NOT EXHAUSTIVE"),
        };
        let expected = broken(&v.expected);
        let found = match (v.exhaustive, v.found.is_empty()) {
            (false, true) => "nothing broken so far".to_owned(),
            _ => broken(&v.found),
        };
        let said = if expected == found {
            format!("{expected}, as found")
        } else {
            format!("{expected}; found: {found}")
        };
        let _ = writeln!(
            out,
            "{style}{:width$}{style:#}  {:>2}  {:>9}  {:>5}  {:>8}  {:>9}  {said}{style}{mark}{style:#}",
            id(v),
            v.actors,
            v.states,
            v.depth,
            format!("{} ms", v.ms),
            v.states_per_second,
        );
    }
    let count = |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(|v| wanted(v)).count();
    let ms: u64 = verdicts.iter().map(|v| v.ms).sum();
    let states: usize = verdicts.iter().map(|v| v.states).sum();
    let _ = writeln!(
        out,
        "{} variants, {} as expected, {} not exhaustive; {states} states in {:.1} s. \
         n: actors of the kind that there are several of.",
        verdicts.len(),
        count(|v| v.as_expected),
        count(|v| !v.exhaustive),
        ms as f64 / 1000.0,
    );
    out
}
