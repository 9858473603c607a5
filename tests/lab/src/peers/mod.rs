//! `pv-stress peers`, which the lab runs in dom0: the pair beside Linux' own drivers.
//!
//! Linux' xen-blkfront and xen-blkback are loaded in both domains. Where ours is to serve or to use a
//! device, theirs are told to leave it (`stage`). Each case is a verdict of named checks, in a report
//! like that of the scenarios.
//!
//! Each module uses only what is above it:
//!
//! 1. `stage`: both domains, the devices in them, and the checks of a case.
//! 2. `linux_back`, `linux_front`, [`direct_front`]: the cases.

mod stage;

mod linux_back;

mod linux_front;

pub mod direct_front;

use crate::ask::words::Case;
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_harness::settings::PlatformKind;
use pv_judges::report::{Report, ReportDir, print_table};
use pv_judges::verdict::{Outcome, Verdict, exit_status};
use pv_remote::xen::Xen;
use stage::{Stage, Step};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

/// How often the back end is killed below a file system.
const KILLS: u32 = 3;

/// What a case shows.
fn summary(case: Case) -> &'static str {
    match case {
        Case::LinuxBack => "our front end on xen-blkback, with and without persistent grants",
        Case::LinuxFront => "xen-blkfront on our back end: an ext4 file system",
        Case::LinuxFrontKilled => {
            "xen-blkfront on our back end, which is killed while files are written"
        }
        Case::DirectFront => "a front end that goes straight to Connected on our back end",
    }
}

/// Plays a case.
fn perform(case: Case, stage: &mut Stage<'_>) -> Step {
    match case {
        Case::LinuxBack => linux_back::play(stage),
        Case::LinuxFront => linux_front::play(stage, &["map", "copy"], 0),
        Case::LinuxFrontKilled => linux_front::play(stage, &["persistent", "map"], KILLS),
        Case::DirectFront => direct_front::play(stage),
    }
}

/// The options of `peers`.
#[derive(Debug, clap::Args)]
pub struct PeersArgs {
    /// The domain of the front ends: its name or number
    #[arg(long, value_name = "DOMAIN")]
    front: String,
    /// The domain of the back ends
    #[arg(long, value_name = "DOMAIN")]
    back: String,
    /// Only these cases
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    case: Vec<Case>,
    /// How long a case may take; a step of it has a quarter of that
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// Where the report goes
    #[arg(long, value_name = "DIR")]
    report: PathBuf,
    /// What starts a domain anew, given its name, after a case that failed
    #[arg(long, value_name = "PROGRAM")]
    restart_domain: PathBuf,
    /// The command that made this machine, for replays
    #[arg(long, value_name = "COMMAND")]
    machine: String,
}

/// Runs the cases.
///
/// # Errors
/// No case could be judged: the domains do not answer, or the report cannot be written.
pub fn run(args: &PeersArgs) -> Result<ExitCode> {
    let dir = ReportDir::claim(&args.report)?;
    let begun = Instant::now();
    let mut report = Report {
        tool: concat!("pv-stress ", env!("CARGO_PKG_VERSION")).into(),
        started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: format!("{} --suite peers", args.machine),
        platform: PlatformKind::Xen.to_string(),
        seed: 0,
        exit_status: 0,
        duration_ms: 0,
        verdicts: Vec::new(),
    };
    let mut xen = Some(Xen::connect(&args.front, &args.back)?);
    for case in Case::ALL.into_iter().filter(|case| is_chosen(args, *case)) {
        let on = match xen.take() {
            Some(xen) => xen,
            None => restart(args)?,
        };
        tracing::info!("case {case}");
        let verdict = play(case, &on, &dir, args)?;
        // What a failed case leaves in the domains is no other case's fault.
        if verdict.outcome == Outcome::Passed {
            xen = Some(on);
        }
        report.verdicts.push(verdict);
    }
    report.exit_status = exit_status(&report.verdicts);
    report.duration_ms = milliseconds(begun);
    report.write(&dir)?;
    closed_pipe_is_fine(print_table(&report, &mut anstream::stdout()))?;
    Ok(ExitCode::from(report.exit_status))
}

fn is_chosen(args: &PeersArgs, case: Case) -> bool {
    args.case.is_empty() || args.case.contains(&case)
}

fn play(case: Case, xen: &Xen, dir: &ReportDir, args: &PeersArgs) -> Result<Verdict> {
    let begun = Instant::now();
    let (logs, below) = dir.logs(&case.to_string());
    let mut stage = Stage::begin(xen, &logs, args.deadline)?;
    let played = perform(case, &mut stage);
    let mut checks = stage.end(played);
    checks.extend(domains_are_there(xen));
    Ok(Verdict {
        scenario: case.to_string(),
        summary: summary(case).into(),
        outcome: Verdict::judge(&checks, &[], true),
        checks,
        edges: Vec::new(),
        hung: Vec::new(),
        blocked: Vec::new(),
        standstill: None,
        no_cycle: None,
        lives: Vec::new(),
        pictures: Vec::new(),
        figures: Vec::new(),
        duration_ms: milliseconds(begun),
        logs: below,
        replay: format!("{} --suite peers --case {case}", args.machine),
    })
}

/// A domain that is lost, with the last words of its kernel.
fn domains_are_there(xen: &Xen) -> Option<pv_judges::checks::Check> {
    let lost: Vec<String> = xen
        .lost()
        .into_iter()
        .map(|(name, why)| format!("domain {name}: {why}"))
        .collect();
    let name = "both domains are there at its end";
    (!lost.is_empty()).then(|| pv_judges::checks::Check::none(name, lost, ""))
}

/// Both domains anew.
fn restart(args: &PeersArgs) -> Result<Xen> {
    let program: &Path = &args.restart_domain;
    for name in [&args.front, &args.back] {
        let status = Command::new(program).arg(name).status();
        let status = status.map_err(|error| Error::file(program, error, "name another one"))?;
        if !status.success() {
            let cure = "see its console in the logs";
            return Err(Error::environment(format!("domain {name}"), status, cure));
        }
    }
    Xen::connect(&args.front, &args.back)
}

fn milliseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
