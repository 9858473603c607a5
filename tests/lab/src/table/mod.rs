//! `pv-stress lab table`: what happens to an unmap while somebody holds the pages, kernel by kernel.
//!
//! Each row is one lab with the suite `holds`; what is in its report is not run again.
//!
//! Each module uses only what is above it:
//!
//! 1. [`cell`]: one run's report in a word.
//! 2. [`grid`]: all rows, as a table for people, as Markdown and as JSON.

mod cell;

mod grid;

use crate::ask::options::{LabArgs, TableArgs};
use crate::ask::suite::{CountScenarios, HOLDS_REPORT, NO_HOLDER};
use crate::ask::words::{GntdevKind, Kind};
use crate::error::{LabError, Result};
use cell::Cell;
use clap::{Parser, ValueEnum};
use grid::{Grid, Row};
use pv_harness::error::Error;
use pv_harness::holder::HoldName;
use pv_harness::settings::spell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs one lab, and says nothing on standard output.
pub type RunLab<'a> = &'a dyn Fn(&LabArgs, &CountScenarios) -> Result<ExitCode>;

/// The options of a lab, from words.
#[derive(Parser)]
struct Words {
    #[command(flatten)]
    lab: LabArgs,
}

/// Runs what is missing, and prints the table. Status 0: every row is filled in, whatever is in it.
///
/// # Errors
/// As a lab; Ctrl-C. The rows that are complete stay in the report's directory.
pub fn run(args: &TableArgs, count: &CountScenarios, lab: RunLab<'_>) -> Result<ExitCode> {
    let holders = holders(args);
    let mut grid = Grid::new(&holders);
    let mut status = ExitCode::SUCCESS;
    for kernel in &args.kernel {
        for guest in &args.guest {
            for gntdev in &args.gntdev {
                let dir = args.report.join(directory(kernel, *guest, *gntdev));
                if !dir.join(DONE).exists() {
                    match lab(&row(args, kernel, *guest, *gntdev, &dir)?, count) {
                        Ok(_) => {
                            let done = dir.join(DONE);
                            fs::write(&done, "").map_err(LabError::file(&done))?;
                        }
                        Err(error @ LabError::Run(Error::Interrupted(_))) => return Err(error),
                        Err(error) => {
                            status = ExitCode::from(error.status());
                            let _ = writeln!(anstream::stderr(), "{}: {error}", dir.display());
                        }
                    }
                }
                grid.rows.push(Row {
                    kernel: release(&dir).unwrap_or_else(|| kernel.clone()),
                    guest: guest.word().to_owned(),
                    gntdev: word(*gntdev),
                    cells: cells(&dir, &holders),
                });
            }
        }
    }
    let mut out = anstream::stdout();
    let printed = match (args.json, args.markdown) {
        (true, _) => grid.json(&mut out),
        (false, true) => grid.markdown(&mut out),
        (false, false) => grid.print(&mut out),
    };
    printed.map_err(LabError::file(Path::new("standard output")))?;
    Ok(status)
}

/// Its presence says that a row's lab ran to its end.
const DONE: &str = "row.done";

fn word(gntdev: GntdevKind) -> String {
    let value = gntdev.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn directory(kernel: &str, guest: Kind, gntdev: GntdevKind) -> PathBuf {
    format!("{kernel}-{}-{}", guest.word(), word(gntdev)).into()
}

/// The columns: nobody holds, and each holder.
fn holders(args: &TableArgs) -> Vec<String> {
    let all = HoldName::value_variants().iter().copied();
    let asked: Vec<HoldName> = match args.hold.is_empty() {
        true => all.filter(|hold| !hold.is_simulated()).collect(),
        false => args.hold.clone(),
    };
    let names = asked.iter().map(ToString::to_string);
    [NO_HOLDER.to_owned()].into_iter().chain(names).collect()
}

/// The lab that fills a row in.
fn row(
    args: &TableArgs,
    kernel: &str,
    guest: Kind,
    gntdev: GntdevKind,
    report: &Path,
) -> Result<LabArgs> {
    let mut words: Vec<String> = ["lab", "--suite", "holds", "--allow-kernel-damage"]
        .map(str::to_owned)
        .into();
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("--kernel", kernel.to_owned());
    add("--guest", guest.word().to_owned());
    add("--gntdev", word(gntdev));
    add("--xen", args.xen.clone());
    if let Some(hold_for) = args.hold_for {
        add("--hold-for", spell(hold_for));
    }
    add("--deadline", spell(args.deadline));
    add("--seed", "1".into());
    if let Some(mirror) = &args.mirror {
        add("--mirror", mirror.clone());
    }
    for (option, path) in [
        ("--report", Some(report)),
        ("--cache", args.cache.as_deref()),
        ("--agent", args.agent.as_deref()),
    ] {
        if let Some(path) = path {
            add(option, path.display().to_string());
        }
    }
    let parsed = Words::try_parse_from(&words);
    let mut lab = parsed.map_err(|error| LabError::Run(Error::Usage(error.to_string())))?;
    lab.lab.quiet = true;
    lab.lab.holders = args.hold.clone();
    Ok(lab.lab)
}

/// `uname -r` of the row's kernel, if its lab has a report.
fn release(dir: &Path) -> Option<String> {
    let text = fs::read(dir.join(crate::results::report::JSON)).ok()?;
    let report: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let linux = report["machine"]["linux"].as_str()?;
    Some(linux.split(' ').next().unwrap_or(linux).to_owned())
}

fn cells(dir: &Path, holders: &[String]) -> Vec<Cell> {
    let below = dir.join(HOLDS_REPORT);
    let text = |path: PathBuf| fs::read_to_string(path).ok();
    let cell = |name: &String| {
        let report = text(below.join(name).join("report.json"));
        let said = text(below.join(format!("{name}.said")));
        Cell::of(report.as_deref(), said.as_deref())
    };
    holders.iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::options::tests::table_args;
    use std::cell::RefCell;

    #[test]
    fn a_row_is_a_lab_and_is_run_once() {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().display().to_string();
        let words = [
            "--kernel", "6.1", "--guest", "pv", "--hold", "pipe", "--report", &report, "--json",
        ];
        let args = table_args(&words);
        let ran = RefCell::new(Vec::new());
        let lab = |lab: &LabArgs, _: &CountScenarios| {
            assert!(lab.quiet && lab.allow_kernel_damage);
            let of_pipe = lab.report.join(HOLDS_REPORT).join("pipe");
            fs::create_dir_all(&of_pipe).unwrap();
            fs::write(
                of_pipe.with_extension("said"),
                "pv-stress: --hold pipe: no\n",
            )
            .unwrap();
            ran.borrow_mut().push(lab.machine());
            Ok(ExitCode::from(1))
        };
        let count = |_: &[String]| Ok(1);
        run(&args, &count, &lab).unwrap();
        run(&args, &count, &lab).unwrap();
        let ran = ran.into_inner();
        assert_eq!(ran.len(), 2, "async and sync, and no row twice: {ran:?}");
        assert!(ran[1].contains("--gntdev sync --guest pv"), "{ran:?}");
        let cells = cells(&dir.path().join("6.1-pv-sync"), &holders(&args));
        assert_eq!(cells[0].word, "-");
        assert_eq!(cells[1].word, "refused");
    }

    #[test]
    fn an_interrupted_row_is_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().display().to_string();
        let args = table_args(&["--kernel", "6.1", "--report", &report]);
        let lab = |_: &LabArgs, _: &CountScenarios| Err(LabError::Run(Error::Interrupted(2)));
        assert!(run(&args, &|_| Ok(1), &lab).is_err());
        assert!(!dir.path().join("6.1-pvh-async").join(DONE).exists());
    }
}
