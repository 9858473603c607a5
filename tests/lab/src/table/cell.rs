//! One run of `hold-unmap` in a word.

use pv_harness::holder::NOT_HELD;
use pv_judges::checks::Form;
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
pub const LEGEND: [(&str, &str); 10] = [
    (
        "returns",
        "unmaps return at once; the grants are released after the holder let go",
    ),
    (
        "cycle",
        "the exact cycle of QubesOS/qubes-issues#7481: gntdev's notifier waits for the holder, the holder for the notifier",
    ),
    (
        "half",
        "gntdev's notifier waits for the holder, and the holder, a program, for the return of the call",
    ),
    (
        "last put",
        "the mapping's last put waits for the holder, and the holder, a program, for the return of the call",
    ),
    (
        "waits",
        "the unmap waits for the holder, who lets go by itself: no cycle",
    ),
    ("damage", "the kernel complains of its own books"),
    (
        "oops",
        "the holder's driver touches the pages through a mapping of its own, which Xen gives no PV guest, and faults in the kernel",
    ),
    ("fails", "a check failed"),
    ("refused", "this holder cannot be had there"),
    ("-", "not run"),
];

/// In the name of the check that holds a kernel's complaints.
const COMPLAINTS: &str = "kernel complained";
/// In a kernel's report of a fault at an address of its own.
const FAULT: &str = "unable to handle page fault for address: ffff";
/// And of the one that an unmap fails which waits.
const RETURNED: &str = "every unmap call returned while the pages were held";

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
            let edges: Vec<String> = verdict.edges.iter().map(ToString::to_string).collect();
            return match (
                verdict.outcome,
                verdict.standstill.as_ref().map(|found| found.form),
            ) {
                (Outcome::Passed, _) => cell("returns", String::new()),
                _ if failed.iter().any(|check| check.contains(NOT_HELD))
                    && !failed.iter().any(|check| check.contains(COMPLAINTS)) =>
                {
                    let why = failed.iter().find_map(|check| check.split(NOT_HELD).nth(1));
                    let line = why.and_then(|why| why.lines().next()).unwrap_or_default();
                    cell("refused", line.to_owned())
                }
                (_, Some(Form::Notifier)) => cell("cycle", edges.join("; ")),
                (_, Some(Form::Callback)) => cell("half", edges.join("; ")),
                (_, Some(Form::LastPut)) => cell("last put", edges.join("; ")),
                _ if failed.iter().any(|check| check.contains(FAULT)) => {
                    cell("oops", failed.join("; "))
                }
                _ if failed.iter().any(|check| check.contains(COMPLAINTS)) => {
                    cell("damage", failed.join("; "))
                }
                _ if failed.iter().any(|check| check.starts_with(RETURNED)) => {
                    let why = verdict.no_cycle.clone();
                    cell("waits", why.unwrap_or_else(|| failed.join("; ")))
                }
                _ => cell("fails", failed.join("; ")),
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
    use pv_judges::checks::{Check, Standstill, no_kernel_complained};
    use pv_judges::verdict::Verdict;

    fn report(outcome: Outcome, form: Option<Form>, check: &str) -> String {
        let edge = WaitEdge {
            waiter: "consumer".into(),
            call: "munmap".into(),
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
            edges: vec![edge.clone()],
            hung: Vec::new(),
            blocked: Vec::new(),
            standstill: form.map(|form| Standstill {
                domain: Some("back".into()),
                guest_type: Some("PV".into()),
                form,
                edges: vec![edge],
                in_cycle: 1,
                functions: Vec::new(),
                after_kill: None,
            }),
            no_cycle: None,
            lives: Vec::new(),
            pictures: Vec::new(),
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
        let word = |outcome, form, check| Cell::of(Some(&report(outcome, form, check)), None).word;
        assert_eq!(word(Outcome::Passed, None, "x"), "returns");
        let deadlocked = |form| word(Outcome::Deadlocked, Some(form), "x");
        assert_eq!(deadlocked(Form::Notifier), "cycle");
        assert_eq!(deadlocked(Form::Callback), "half");
        assert_eq!(deadlocked(Form::LastPut), "last put");
        assert_eq!(word(Outcome::Failed, Some(Form::Unmap), "x"), "fails");
        assert_eq!(word(Outcome::Failed, None, "x"), "fails");
        let of_complaints = no_kernel_complained(Vec::new(), &[], 1).name;
        assert_eq!(word(Outcome::Failed, None, &of_complaints), "damage");
        assert_eq!(word(Outcome::Failed, None, RETURNED), "waits");
        let fault = "back: BUG: unable to handle page fault for address: ffffc90041710000";
        assert_eq!(word(Outcome::Failed, None, fault), "oops");
        assert_eq!(word(Outcome::Deadlocked, Some(Form::Unmap), fault), "oops");
        let late = "ended: its pages cannot be held here: --hold uring: no\nmore";
        assert_eq!(word(Outcome::Failed, None, late), "refused");
        let complained = format!("{of_complaints}: {late}");
        assert_eq!(word(Outcome::Failed, None, &complained), "damage");
        let refused = Cell::of(None, Some("pv-stress: --hold xdp: no\n"));
        assert_eq!(
            (refused.word, &*refused.detail),
            ("refused", "--hold xdp: no")
        );
        assert_eq!(Cell::of(Some("{"), Some("")).word, "-");
    }
}
