//! What a scenario came to, and what that means for the exit status.

use crate::checks::{Check, RequestLife, Standstill};
use crate::picture::Picture;
use libgnt::inspect::WaitEdge;
use pv_harness::processes::{Autopsy, Blocked};
use serde::{Deserialize, Serialize};
use std::fmt;

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every check held.
    Passed,
    /// One did not.
    Failed,
    /// A deadlock where none may be.
    Deadlocked,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Deadlocked => "DEADLOCK",
        })
    }
}

/// One scenario's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The scenario's name.
    pub scenario: String,
    /// What it is about.
    pub summary: String,
    /// In one word.
    pub outcome: Outcome,
    /// What had to hold.
    pub checks: Vec<Check>,
    /// The edges of a deadlock, wanted or not.
    pub edges: Vec<WaitEdge>,
    /// Processes that did not end.
    pub hung: Vec<Autopsy>,
    /// What the kernels below them kept.
    #[serde(default)]
    pub blocked: Vec<Blocked>,
    /// A kernel in which tasks wait that nobody will wake.
    #[serde(default)]
    pub standstill: Option<Standstill>,
    /// Why holding pages that were unmapped made no cycle.
    #[serde(default)]
    pub no_cycle: Option<String>,
    /// Some pages' lives, for the chart: held ones first.
    pub lives: Vec<RequestLife>,
    /// Pictures that it took.
    #[serde(default)]
    pub pictures: Vec<Picture>,
    /// Figures for people.
    pub figures: Vec<Figure>,
    /// Wall-clock time.
    pub duration_ms: u64,
    /// Where the processes' logs and timelines are, below the report's directory.
    pub logs: String,
    /// The one command that runs this again.
    pub replay: String,
}

/// The name of the figure that says why only the ledgers were there to be believed.
pub const ONE_ORACLE: &str = "one oracle";

/// A figure that is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// How much, with its unit.
    pub value: String,
}

impl Verdict {
    /// The outcome that the checks amount to. `deadlock_is_failure` is false in the negative control.
    pub fn judge(checks: &[Check], edges: &[WaitEdge], deadlock_is_failure: bool) -> Outcome {
        if deadlock_is_failure && !edges.is_empty() {
            Outcome::Deadlocked
        } else if checks.is_empty() || checks.iter().any(|check| !check.passed) {
            Outcome::Failed
        } else {
            Outcome::Passed
        }
    }

    /// Takes in what came out after the judgement, in place of a check of the same name.
    pub fn add(&mut self, check: Check) {
        if !check.passed && self.outcome == Outcome::Passed {
            self.outcome = Outcome::Failed;
        }
        self.checks.retain(|other| other.name != check.name);
        self.checks.push(check);
    }
}

/// The process's exit status for these verdicts: 0 all as required, 1 a check failed, 3 a deadlock
/// where none may be. (2 is for usage and environment, where there is no verdict.)
pub fn exit_status(verdicts: &[Verdict]) -> u8 {
    if verdicts.iter().any(|v| v.outcome == Outcome::Deadlocked) {
        3
    } else if verdicts.iter().any(|v| v.outcome == Outcome::Failed) {
        1
    } else {
        0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn edges() -> Vec<WaitEdge> {
        let edge = |waiter: &str, call: &str, holds: &str, waits_for: &str, owner: &str| WaitEdge {
            waiter: waiter.into(),
            call: call.into(),
            holds: holds.into(),
            waits_for: waits_for.into(),
            owner: owner.into(),
        };
        vec![
            edge(
                "back-end (pid 10)",
                "munmap",
                "the invalidation of its address space",
                "the last reference to grant 0x208 of domain 1",
                "consumer (pid 11)",
            ),
            edge(
                "consumer (pid 11)",
                "release",
                "a reference to grant 0x208 of domain 1",
                "the end of the invalidation",
                "back-end (pid 10)",
            ),
        ]
    }

    pub(crate) fn verdict(name: &str, outcome: Outcome) -> Verdict {
        Verdict {
            scenario: name.into(),
            summary: format!("about {name}"),
            outcome,
            checks: vec![
                Check::pass("one <thing> & another", "3 \"times\""),
                Check {
                    name: "two".into(),
                    passed: outcome == Outcome::Passed,
                    detail: "d".into(),
                },
            ],
            edges: if outcome == Outcome::Deadlocked {
                edges()
            } else {
                vec![]
            },
            hung: vec![],
            blocked: vec![],
            standstill: None,
            no_cycle: None,
            lives: vec![],
            pictures: vec![],
            figures: vec![Figure {
                name: "requests".into(),
                value: "17".into(),
            }],
            duration_ms: 1234,
            logs: format!("runs/{name}"),
            replay: format!("pv-stress run --scenario {name} --seed 1"),
        }
    }

    #[test]
    fn checks_make_the_outcome() {
        let good = [Check::pass("a", "")];
        let bad = [Check::pass("a", ""), Check::fail("b", "")];
        assert_eq!(Verdict::judge(&good, &[], true), Outcome::Passed);
        assert_eq!(Verdict::judge(&bad, &[], true), Outcome::Failed);
        assert_eq!(
            Verdict::judge(&[], &[], true),
            Outcome::Failed,
            "nothing checked"
        );
        assert_eq!(Verdict::judge(&good, &edges(), true), Outcome::Deadlocked);
        assert_eq!(Verdict::judge(&good, &edges(), false), Outcome::Passed);
    }

    #[test]
    fn a_late_check_counts() {
        let mut late = verdict("x", Outcome::Passed);
        let before = late.checks.len();
        late.add(Check::fail(&late.checks[0].name.clone(), "after all"));
        assert_eq!((late.outcome, late.checks.len()), (Outcome::Failed, before));
    }

    #[test]
    fn the_worst_verdict_makes_the_exit_status() {
        let v = |outcome| verdict("x", outcome);
        use Outcome::{Deadlocked, Failed, Passed};
        assert_eq!(exit_status(&[v(Passed)]), 0);
        assert_eq!(exit_status(&[v(Passed), v(Failed)]), 1);
        assert_eq!(exit_status(&[v(Deadlocked), v(Failed)]), 3);
    }
}
