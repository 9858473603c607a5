//! One run of `hold-unmap` in a word.

use pv_judges::report::Report;
use pv_judges::verdict::Outcome;
use serde::Serialize;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// In a word, see [`LEGEND`].
    pub word: &'static str,
    /// More of it, if there is more.
    pub detail: String,
}

/// What each word says.
pub const LEGEND: [(&str, &str); 7] = [
    (
        "returns",
        "unmaps return at once; the grants are released after the holder let go",
    ),
    (
        "cycle",
        "the exact cycle of QubesOS/qubes-issues#7481: gntdev's notifier waits for the holder, the holder for the notifier",
    ),
    (
        "waits",
        "the unmap waits for the holder; with one that lets go only after the unmap it is a deadlock",
    ),
    ("damage", "the kernel complains of its own books"),
    ("fails", "a check failed"),
    ("refused", "this holder cannot be had there"),
    ("-", "not run"),
];

/// In the name of the check that holds a kernel's complaints.
const COMPLAINTS: &str = "kernel complain";

impl Cell {
    /// Of a run's `report.json`, if it has one, and of what the run said on standard error.
    pub fn of(report: Option<&str>, said: Option<&str>) -> Cell {
        let cell = |word, detail: String| Cell { word, detail };
        if let Some(report) = report.and_then(|text| serde_json::from_str::<Report>(text).ok())
            && let Some(verdict) = report.verdicts.first()
        {
            let failed = verdict.checks.iter().filter(|check| !check.passed);
            let failed: Vec<String> = failed
                .map(|check| format!("{}: {}", check.name, check.detail))
                .collect();
            let functions: Vec<&str> = (verdict.edges.iter())
                .map(|edge| edge.call.as_str())
                .collect();
            let edges: Vec<String> = verdict.edges.iter().map(ToString::to_string).collect();
            return match verdict.outcome {
                Outcome::Passed => cell("returns", String::new()),
                Outcome::Deadlocked
                    if functions
                        .iter()
                        .any(|call| call.contains("mmu_interval_read_begin")) =>
                {
                    cell("cycle", edges.join("; "))
                }
                Outcome::Deadlocked => cell("waits", edges.join("; ")),
                Outcome::Failed if failed.iter().any(|check| check.contains(COMPLAINTS)) => {
                    cell("damage", failed.join("; "))
                }
                Outcome::Failed => cell("fails", failed.join("; ")),
            };
        }
        let last = said.and_then(|said| said.lines().rfind(|line| line.starts_with("pv-stress: ")));
        match last {
            Some(line) => cell("refused", line.trim_start_matches("pv-stress: ").to_owned()),
            None => cell("-", String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::inspect::WaitEdge;
    use pv_judges::checks::Check;
    use pv_judges::verdict::Verdict;

    fn report(outcome: Outcome, call: &str, check: &str) -> String {
        let edge = WaitEdge {
            waiter: "consumer".into(),
            call: call.into(),
            holds: "references".into(),
            waits_for: "the invalidation".into(),
            owner: "back-end".into(),
        };
        let verdict = Verdict {
            scenario: "hold-unmap".into(),
            summary: String::new(),
            outcome,
            checks: vec![Check {
                name: check.into(),
                passed: outcome == Outcome::Passed,
                detail: "what came".into(),
            }],
            edges: vec![edge],
            hung: Vec::new(),
            lives: Vec::new(),
            figures: Vec::new(),
            duration_ms: 1,
            logs: String::new(),
            replay: String::new(),
        };
        let report = Report {
            tool: String::new(),
            started: String::new(),
            command: String::new(),
            platform: "xen".into(),
            seed: 1,
            exit_status: 0,
            duration_ms: 1,
            verdicts: vec![verdict],
        };
        serde_json::to_string(&report).unwrap()
    }

    #[test]
    fn each_end_has_its_word() {
        let word = |outcome, call, check| Cell::of(Some(&report(outcome, call, check)), None).word;
        assert_eq!(word(Outcome::Passed, "", "x"), "returns");
        let waits = "mmu_interval_read_begin (state D)";
        assert_eq!(word(Outcome::Deadlocked, waits, "x"), "cycle");
        assert_eq!(word(Outcome::Deadlocked, "holding", "x"), "waits");
        assert_eq!(word(Outcome::Failed, "", "x"), "fails");
        assert_eq!(word(Outcome::Failed, "", no_complaint()), "damage");
        let refused = Cell::of(None, Some("pv-stress: --hold xdp: no\n"));
        assert_eq!(
            (refused.word, &*refused.detail),
            ("refused", "--hold xdp: no")
        );
        assert_eq!(Cell::of(Some("{"), Some("")).word, "-");
    }

    /// As the judge calls it.
    fn no_complaint() -> &'static str {
        pv_judges::checks::no_kernel_complained(Vec::new(), 1)
            .name
            .leak()
    }
}
