//! The benchmark runs, and measures something in each row, where a daemon is unpacked or installed.
#![allow(clippy::unwrap_used, reason = "a test may")]

use pv_rivals::bench::server::Which;
use pv_rivals::bench::{Plan, run};
use pv_rivals::daemon::Rival;
use std::io::Write;
use std::time::Duration;

fn rival() -> Option<Which> {
    let rival = Rival::named("xenstored-4.20").unwrap();
    let place = rival.kept(None);
    if place.is_none() {
        // Past what the harness captures.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {rival} is not here; fetch it: cargo run -p pv-rivals -- fetch"
        );
    }
    Some(Which::Rival(rival, place?))
}

#[test]
fn each_row_is_measured_once_a_round() {
    let Some(rival) = rival() else { return };
    let plan = Plan {
        nodes: 1000,
        rounds: 2,
        span: Duration::from_millis(1),
        only: Vec::new(),
    };
    let mut told = Vec::new();
    let report = run(vec![rival], &plan, |row| told.push(row.to_owned())).unwrap();
    for row in &report.rows {
        assert_eq!(row.rates[0].len(), 2, "{row:?}");
        assert!(row.rates[0].iter().all(|rate| *rate > 0.0), "{row:?}");
        assert!(row.nanoseconds[0].iter().all(|each| *each > 0.0), "{row:?}");
        assert!(told.contains(&row.name), "{row:?}");
    }
    for growth in &report.growth {
        assert!(
            growth.nanoseconds[0].iter().all(Option::is_some),
            "{growth:?}"
        );
    }
    let text = report.text();
    for name in [
        "reads, 1 x 1",
        "listings of 10,000",
        "bytes a node",
        "xenstored-4.20",
    ] {
        assert!(text.contains(name), "{text}");
    }
    assert!(report.json().contains("\"rates\""));
}

#[test]
fn some_rows_are_measured_alone_and_a_program_that_is_not_there_is_named() {
    let Some(rival) = rival() else { return };
    let plan = Plan {
        nodes: 0,
        rounds: 1,
        span: Duration::ZERO,
        only: vec!["writes, 1 x 1".to_owned()],
    };
    let mut told = Vec::new();
    let report = run(vec![rival], &plan, |row| told.push(row.to_owned())).unwrap();
    assert!(report.rows.iter().all(|row| row.name == "writes, 1 x 1"));
    assert_eq!(report.rows.len(), 2, "in both trees: {told:?}");
    let nowhere = Which::Ours("/nonexistent/pv-xenstored".into());
    let error = run(vec![nowhere], &plan, |_| {}).unwrap_err().to_string();
    assert!(error.contains("cargo build"), "{error}");
}
