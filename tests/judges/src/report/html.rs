//! `report.html`: one file, no script, nothing loaded from anywhere.

use super::chart::{self, escape, push};
use super::content::{Report, spell_ms};
use super::pictures;
use crate::verdict::{Outcome, Verdict};

pub(super) fn render(report: &Report) -> String {
    let mut page = String::with_capacity(64 << 10);
    let title = format!("pv-stress: {}", overall(report));
    push(
        &mut page,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{}</title>\n<style>{}</style></head>\n<body>\n<h1>{}</h1>\n",
            escape(&title),
            include_str!("style.css"),
            escape(&title)
        ),
    );
    header(&mut page, report);
    summary(&mut page, report);
    for (n, verdict) in report.verdicts.iter().enumerate() {
        section(&mut page, n, verdict);
    }
    page.push_str("</body></html>\n");
    page
}

fn overall(report: &Report) -> String {
    let count = |outcome| {
        report
            .verdicts
            .iter()
            .filter(|v| v.outcome == outcome)
            .count()
    };
    let (passed, all) = (count(Outcome::Passed), report.verdicts.len());
    match (count(Outcome::Deadlocked), count(Outcome::Failed)) {
        (0, 0) if all == 1 => "the scenario ended as required".into(),
        (0, 0) => format!("all {all} scenarios as required"),
        (0, failed) => format!("{failed} of {all} scenarios failed"),
        (deadlocked, _) => {
            format!("{deadlocked} of {all} scenarios deadlocked, {passed} as required")
        }
    }
}

fn header(page: &mut String, report: &Report) {
    page.push_str("<dl class=\"facts\">");
    for (name, value) in [
        ("command", report.command.clone()),
        ("started", report.started.clone()),
        ("took", spell_ms(report.duration_ms)),
        ("platform", report.platform.clone()),
        ("seed", report.seed.to_string()),
        ("exit status", report.exit_status.to_string()),
        ("by", report.tool.clone()),
    ] {
        push(
            page,
            format_args!("<dt>{name}</dt><dd>{}</dd>", escape(&value)),
        );
    }
    page.push_str("</dl>\n");
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "pass",
        Outcome::Failed => "fail",
        Outcome::Deadlocked => "dead",
    }
}

fn summary(page: &mut String, report: &Report) {
    page.push_str(
        "<table><thead><tr><th>scenario</th><th>verdict</th><th>checks</th><th>time</th><th>figures</th></tr></thead><tbody>\n",
    );
    for (n, verdict) in report.verdicts.iter().enumerate() {
        let held = verdict.checks.iter().filter(|check| check.passed).count();
        let figures: Vec<String> = verdict
            .figures
            .iter()
            .map(|f| format!("{} {}", f.name, f.value))
            .collect();
        push(
            page,
            format_args!(
                "<tr><td class=\"n\"><a href=\"#s{n}\">{}</a></td><td class=\"{}\">{}</td><td class=\"n\">{held}/{}</td><td class=\"n\">{}</td><td>{}</td></tr>\n",
                escape(&verdict.scenario),
                class(verdict.outcome),
                verdict.outcome,
                verdict.checks.len(),
                spell_ms(verdict.duration_ms),
                escape(&figures.join(", "))
            ),
        );
    }
    page.push_str("</tbody></table>\n");
}

fn section(page: &mut String, n: usize, verdict: &Verdict) {
    push(
        page,
        format_args!(
            "<section id=\"s{n}\"><h2>{} <span class=\"{}\">{}</span></h2><p>{}</p>\n",
            escape(&verdict.scenario),
            class(verdict.outcome),
            verdict.outcome,
            escape(&verdict.summary)
        ),
    );
    page.push_str("<table class=\"checks\"><tbody>\n");
    for check in &verdict.checks {
        let (class, mark) = if check.passed {
            ("pass", "ok")
        } else {
            ("fail", "FAILED")
        };
        push(
            page,
            format_args!(
                "<tr><td class=\"{class}\">{mark}</td><td>{}</td><td>{}</td></tr>\n",
                escape(&check.name),
                escape(&check.detail)
            ),
        );
    }
    page.push_str("</tbody></table>\n");
    super::hang::section(page, verdict);
    pictures::section(page, &verdict.pictures);
    if !verdict.lives.is_empty() {
        page.push_str("<h3>Lives of pages</h3>");
        page.push_str(chart::LEGEND);
        page.push_str("<div class=\"scroll\">");
        page.push_str(&chart::lives(&verdict.lives));
        page.push_str("</div>\n");
    }
    push(
        page,
        format_args!(
            "<p class=\"replay\">Run it again: <code>{}</code>. Logs and timelines: <code>{}</code>.</p></section>\n",
            escape(&verdict.replay),
            escape(&verdict.logs)
        ),
    );
}

#[cfg(test)]
mod tests {
    use crate::report::tests::report;

    #[test]
    fn the_page_is_whole_escaped_and_alone() {
        let page = super::render(&report());
        assert!(page.contains("1 of 3 scenarios deadlocked, 1 as required"));
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert!(page.contains("is in munmap, holds"));
        for outside in ["http:", "https:", "src=", "@import", "url(h"] {
            assert!(!page.contains(outside), "loads something: {outside}");
        }
    }

    /// For a look at it: `PV_STRESS_HTML=/tmp/x.html cargo test -p pv-stress can_be_looked_at`.
    #[test]
    fn can_be_looked_at() {
        let mut both = report();
        both.verdicts.extend(crate::report::tests::hang().verdicts);
        let page = super::render(&both);
        if let Some(path) = std::env::var_os("PV_STRESS_HTML") {
            std::fs::write(path, &page).unwrap();
        }
        assert!(page.ends_with("</html>\n"));
    }
}
