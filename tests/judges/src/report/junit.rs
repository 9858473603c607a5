//! `junit.xml`: a test suite for each scenario, a test case for each check.

use super::content::Report;
use crate::verdict::{Outcome, Verdict};
use pv_harness::error::{Error, Result};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use std::time::Duration;

pub(super) fn render(report: &Report) -> Result<String> {
    let mut xml = quick_junit::Report::new("pv-stress");
    xml.set_time(Duration::from_millis(report.duration_ms));
    for verdict in &report.verdicts {
        xml.add_test_suite(suite(verdict, report));
    }
    xml.to_string()
        .map_err(|error| Error::environment("junit.xml", error, "report this as a bug"))
}

fn suite(verdict: &Verdict, report: &Report) -> TestSuite {
    let mut suite = TestSuite::new(verdict.scenario.as_str());
    suite.set_time(Duration::from_millis(verdict.duration_ms));
    suite.add_property(("seed", report.seed.to_string().as_str()));
    suite.add_property(("platform", report.platform.as_str()));
    suite.add_property(("replay", verdict.replay.as_str()));
    for check in &verdict.checks {
        let status = if check.passed {
            TestCaseStatus::success()
        } else {
            failure(
                &check.detail,
                &format!("{}\nreplay: {}", check.detail, verdict.replay),
            )
        };
        let mut case = TestCase::new(check.name.as_str(), status);
        case.set_classname(format!("pv-stress.{}", verdict.scenario));
        if check.passed {
            case.set_system_out(check.detail.as_str());
        }
        suite.add_test_case(case);
    }
    if verdict.outcome == Outcome::Deadlocked {
        let edges: Vec<String> = verdict.edges.iter().map(ToString::to_string).collect();
        let status = failure("deadlock", &edges.join("\n"));
        let mut case = TestCase::new("ends without a deadlock", status);
        case.set_classname(format!("pv-stress.{}", verdict.scenario));
        suite.add_test_case(case);
    }
    suite
}

fn failure(message: &str, description: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message).set_description(description);
    status
}

#[cfg(test)]
mod tests {
    use crate::report::tests::report;

    #[test]
    fn failures_are_counted_and_text_is_escaped() {
        let xml = super::render(&report()).unwrap();
        assert!(xml.contains("failures=\"3\""), "{xml}");
        assert!(xml.contains("one &lt;thing&gt; &amp; another"), "{xml}");
        assert!(
            xml.contains("replay: pv-stress run --scenario copy"),
            "{xml}"
        );
    }
}
