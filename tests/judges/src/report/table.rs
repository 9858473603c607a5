//! The tables on the terminal. Colours go through `anstream`, which leaves them out where there is
//! no terminal or `NO_COLOR` is set.

use super::content::{Report, spell_ms};
use crate::checks::Standstill;
use crate::verdict::{ONE_ORACLE, Outcome, Verdict};
use anstyle::{AnsiColor, Style};
use pv_harness::processes::Blocked;
use std::collections::BTreeSet;
use std::io::{self, Write};

fn style(outcome: Outcome) -> Style {
    let colour = match outcome {
        Outcome::Passed => AnsiColor::Green,
        Outcome::Failed => AnsiColor::Red,
        Outcome::Deadlocked => AnsiColor::Magenta,
    };
    colour.on_default().bold()
}

/// A line for each scenario; for those that are not as required, what is wrong and how to run it
/// again.
///
/// # Errors
/// What `write` says.
pub fn print_table(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let width = report
        .verdicts
        .iter()
        .map(|v| v.scenario.len())
        .max()
        .unwrap_or(0)
        .max(8);
    writeln!(
        out,
        "{:width$}  {:8}  {:>6}  {:>8}",
        "scenario", "verdict", "checks", "time"
    )?;
    for verdict in &report.verdicts {
        let held = verdict.checks.iter().filter(|check| check.passed).count();
        let style = style(verdict.outcome);
        writeln!(
            out,
            "{:width$}  {style}{:8}{style:#}  {:>6}  {:>8}  {}",
            verdict.scenario,
            verdict.outcome,
            format!("{held}/{}", verdict.checks.len()),
            spell_ms(verdict.duration_ms),
            figures(verdict),
        )?;
    }
    let ones = report.verdicts.iter().flat_map(|v| &v.figures);
    let ones: BTreeSet<&str> = ones
        .filter(|figure| figure.name == ONE_ORACLE)
        .map(|figure| figure.value.as_str())
        .collect();
    for why in ones {
        writeln!(out, "{ONE_ORACLE}: {why}")?;
    }
    for verdict in report
        .verdicts
        .iter()
        .filter(|v| v.outcome != Outcome::Passed)
    {
        explain(verdict, out)?;
    }
    for verdict in report
        .verdicts
        .iter()
        .filter(|v| v.outcome == Outcome::Passed && !v.edges.is_empty())
    {
        writeln!(
            out,
            "\n{}: the deadlock, as it must be here:",
            verdict.scenario
        )?;
        edges(verdict, out)?;
    }
    Ok(())
}

fn figures(verdict: &Verdict) -> String {
    let all: Vec<String> = verdict
        .figures
        .iter()
        .filter(|figure| figure.name != ONE_ORACLE)
        .map(|f| format!("{} {}", f.name, f.value))
        .collect();
    all.join(", ")
}

fn explain(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let style = style(verdict.outcome);
    writeln!(
        out,
        "\n{style}{}{style:#}: {}",
        verdict.scenario, verdict.summary
    )?;
    for check in verdict.checks.iter().filter(|check| !check.passed) {
        writeln!(out, "  failed: {}: {}", check.name, check.detail)?;
    }
    if !verdict.edges.is_empty() {
        let is_open = (verdict.standstill.as_ref()).is_some_and(|found| found.in_cycle == 0);
        let title = if is_open {
            "who waits for whom"
        } else {
            "deadlock"
        };
        writeln!(out, "  {title}:")?;
        edges(verdict, out)?;
    }
    if let Some(found) = &verdict.standstill {
        writeln!(out, "  in words: {}.", found.form)?;
        after_kill(found, out)?;
    }
    if let Some(why) = &verdict.no_cycle {
        writeln!(out, "  no cycle: {why}.")?;
    }
    for hung in &verdict.hung {
        writeln!(out, "  hung: {hung}")?;
    }
    for kernel in &verdict.blocked {
        blocked(kernel, out)?;
    }
    writeln!(out, "  logs: {}", verdict.logs)?;
    writeln!(out, "  replay: {}", verdict.replay)
}

fn after_kill(found: &Standstill, out: &mut dyn Write) -> io::Result<()> {
    let Some(after) = &found.after_kill else {
        return Ok(());
    };
    writeln!(out, "  after SIGKILL:")?;
    for said in &after.killed {
        writeln!(out, "    {said}.")?;
    }
    for said in &after.tried {
        writeln!(out, "    then {said}.")?;
    }
    let left = match after.left.len() {
        0 => "no grant, no event channel".to_owned(),
        _ => after.left.join("; "),
    };
    writeln!(out, "    stays in use: {left}.")?;
    writeln!(out, "  what an operator can do:")?;
    for cure in &after.cures {
        writeln!(out, "    - {cure}.")?;
    }
    Ok(())
}

/// One line a task; the report has the whole stacks.
fn blocked(kernel: &Blocked, out: &mut dyn Write) -> io::Result<()> {
    if kernel.tasks.is_empty() && kernel.missing.is_empty() {
        return writeln!(out, "  blocked in {kernel}: no task");
    }
    writeln!(out, "  blocked in {kernel}:")?;
    for task in &kernel.tasks {
        let thread = &task.thread;
        let wchan = thread.wchan.as_deref().unwrap_or("an unknown function");
        let frames = (thread.stack.iter()).map(|line| line.trim_start_matches("[<0>] "));
        let stack: Vec<&str> = frames
            .map(|frame| frame.split('+').next().unwrap_or(frame))
            .collect();
        writeln!(
            out,
            "    {} (pid {}), {}: state {} in {wchan}, stack {}",
            thread.name,
            thread.tid,
            task.whose(),
            thread.state,
            stack.join(" < ")
        )?;
    }
    for missing in &kernel.missing {
        writeln!(out, "    not told: {missing}")?;
    }
    Ok(())
}

fn edges(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    for (n, edge) in verdict.edges.iter().enumerate() {
        writeln!(out, "    {}. {edge}.", n + 1)?;
    }
    Ok(())
}

/// `pv-stress list`.
///
/// # Errors
/// What `write` says.
pub fn print_listing(scenarios: &[(&str, &str)], out: &mut dyn Write) -> io::Result<()> {
    let width = scenarios
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for (name, summary) in scenarios {
        let bold = Style::new().bold();
        writeln!(out, "{bold}{name:width$}{bold:#}  {summary}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use crate::verdict::Figure;

    #[test]
    fn one_oracle_is_said_once() {
        let mut report = report();
        for verdict in &mut report.verdicts {
            verdict.figures.push(Figure {
                name: ONE_ORACLE.into(),
                value: "domain back: no tracefs".into(),
            });
        }
        let mut out = anstream::StripStream::new(Vec::new());
        print_table(&report, &mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        let line = "\none oracle: domain back: no tracefs\n";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert_eq!(text.matches("no tracefs").count(), 1, "{text}");
    }

    #[test]
    fn the_table_says_what_failed_and_how_to_replay_it() {
        let mut out = anstream::StripStream::new(Vec::new());
        print_table(&report(), &mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert!(
            text.contains("copy        FAILED       1/2     1.2 s  requests 17"),
            "{text}"
        );
        assert!(text.contains("failed: two: d"), "{text}");
        assert!(text.contains("1. back-end (pid 10) is in munmap"), "{text}");
        assert!(
            text.contains("replay: pv-stress run --scenario copy --seed 1"),
            "{text}"
        );
    }

    #[test]
    fn a_hang_in_a_kernel_is_told_with_every_task() {
        let mut out = anstream::StripStream::new(Vec::new());
        print_table(&crate::report::tests::hang(), &mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        for part in [
            "  in words: this is the exact cycle",
            "  after SIGKILL:\n    consumer (pid 12) ended 15 ms after SIGKILL; still blocked: ",
            "    stays in use: 0x9 of domain 1",
            "  what an operator can do:\n    - end what holds the references",
            "  blocked in domain back, Linux 7.2.13 (PV):\n    pv-stress (pid 10), of back-end: state D",
            "the kernel's own: state D (disk sleep) in an unknown function, stack mmu_interval_read_begin < ib_umem",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
