//! `pv-stress run`.

use super::log::log_to_stderr;
use crate::scenario::{self, Scenario};
use crate::settings::{RunSabotage, Settings};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_harness::holder::{HoldName, can_be_on_pv};
use pv_harness::settings::{Guest, PlatformKind, Unmap, quote};
use pv_judges::checks::no_kernel_complained;
use pv_judges::report::{Report, ReportDir, print_table};
use pv_judges::verdict::{Figure, exit_status};
use pv_remote::xen::Xen;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The options of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Only these scenarios (default: all)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub(super) scenario: Vec<String>,
    /// Where to run
    #[arg(long, default_value = "sim")]
    platform: PlatformKind,
    /// The domain of the front end, on a real Xen: its name or number
    #[arg(long, value_name = "DOMAIN")]
    front: Option<String>,
    /// The domain of the back end and the third consumer, on a real Xen
    #[arg(long, value_name = "DOMAIN")]
    back: Option<String>,
    /// What starts a domain anew, given its name, should one be lost
    #[arg(long, value_name = "PROGRAM", hide = true)]
    restart_domain: Option<PathBuf>,
    /// The command that made this machine, for replays
    #[arg(long, value_name = "COMMAND", hide = true)]
    machine: Option<String>,
    /// When the simulated kernels unmap: async as Linux since 5.19, sync as before
    #[arg(long, default_value = "async")]
    unmap: Unmap,
    /// What the simulated domains are (default: pvh, and pv with --unmap sync)
    #[arg(long, value_name = "KIND")]
    guest: Option<Guest>,
    /// How the third consumer holds pages (default: as the scenario prefers)
    #[arg(long, value_name = "NAME")]
    hold: Option<HoldName>,
    /// For how long the third consumer holds pages
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    hold_for: Duration,
    /// How long a scenario may take
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// Seed of everything random (default: another one each time)
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// The file that goes through the pair (default: pv-stress's own executable)
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "pv-stress-report")]
    report: PathBuf,
    /// Print the report as JSON on standard output instead of the table
    #[arg(long)]
    json: bool,
    /// Hold pages even on a PV guest, whose kernel that damages
    #[arg(long)]
    allow_kernel_damage: bool,
    /// Make the run wrong on purpose, to see that it is noticed
    #[arg(long, value_name = "NAME", hide = true)]
    sabotage: Option<RunSabotage>,
    /// How much to log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: tracing_subscriber::filter::LevelFilter,
}

pub(super) fn run(args: RunArgs) -> Result<ExitCode> {
    log_to_stderr(args.log);
    let scenarios = scenario::chosen(&args.scenario, args.platform)?;
    let settings = settings(&args)?;
    if scenarios.iter().any(|scenario| scenario.uses_input()) {
        check_input(&settings.input)?;
    }
    let dir = ReportDir::claim(&args.report)?;
    let mut xen = connect(&settings)?;
    check_guest(xen.as_deref(), &scenarios, &settings)?;
    if let Some(xen) = &xen {
        check_hold(xen, &scenarios, &settings)?;
    }
    let started = Instant::now();
    let mut report = Report {
        tool: concat!("pv-stress ", env!("CARGO_PKG_VERSION")).into(),
        started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: command(),
        platform: settings.platform.to_string(),
        seed: settings.seed,
        exit_status: 0,
        duration_ms: 0,
        verdicts: Vec::new(),
    };
    let progress = progress();
    for scenario in scenarios {
        tracing::info!("scenario {}", scenario.name());
        progress.set_message(scenario.name());
        progress.set_position(0);
        let play = |xen: Option<&Arc<Xen>>| {
            let bar = progress.clone();
            scenario::run(scenario, &settings, xen, &dir, move |_, done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })
        };
        let mut verdict = play(xen.as_ref())?;
        if let Some(lost) = lost(xen.as_ref()) {
            let complaints = xen.as_ref().map(|xen| xen.complaints()).unwrap_or_default();
            let once_more = complaints.is_empty();
            let then = if once_more { "once more" } else { "it failed" };
            tracing::warn!("{lost}; {then}");
            restart(&mut xen, args.restart_domain.as_deref(), &settings, &lost)?;
            if !once_more {
                verdict.add(no_kernel_complained(complaints, &[], 2));
                report.verdicts.push(verdict);
                continue;
            }
            dir.forget(scenario.name())?;
            verdict = play(xen.as_ref())?;
            if let Some(again) = self::lost(xen.as_ref()) {
                let cure = "see the domain's console in the logs";
                return Err(Error::environment(
                    scenario.name(),
                    format!("{again}, twice"),
                    cure,
                ));
            }
            verdict.figures.push(Figure {
                name: "played twice".into(),
                value: lost,
            });
        }
        report.verdicts.push(verdict);
    }
    progress.finish_and_clear();
    report.exit_status = exit_status(&report.verdicts);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.write(&dir)?;
    closed_pipe_is_fine(print(&report, args.json, &dir))?;
    Ok(ExitCode::from(report.exit_status))
}

fn settings(args: &RunArgs) -> Result<Settings> {
    let input = match &args.input {
        Some(input) => input.clone(),
        None => std::env::current_exe().map_err(|error| {
            Error::environment(
                "pv-stress's own executable",
                error,
                "name a file with --input",
            )
        })?,
    };
    if args.deadline.is_zero() {
        return Err(Error::Usage(
            "--deadline 0 leaves no time for anything; give it seconds".into(),
        ));
    }
    if args.hold_for >= args.deadline {
        return Err(Error::Usage(format!(
            "--hold-for {} is not shorter than --deadline {}: no scenario could end; raise --deadline",
            humantime::format_duration(args.hold_for),
            humantime::format_duration(args.deadline)
        )));
    }
    if let Some(sabotage) = args.sabotage {
        sabotage.check(args.platform)?;
    }
    if args.platform == PlatformKind::Sim
        && let Some(hold) = args.hold
        && !hold.is_simulated()
    {
        return Err(Error::Usage(format!(
            "--hold {hold} holds pages in a real kernel, where the simulated Xen cannot see it; use --hold pin or i915, or --platform xen"
        )));
    }
    if args.platform == PlatformKind::Xen
        && let Some(hold) = args.hold
        && hold.is_simulated()
    {
        return Err(Error::Usage(format!(
            "--hold {hold} is the simulated Xen's; on a real one use --hold pipe, fork, uring, direct, xdp or rdma"
        )));
    }
    Ok(Settings {
        platform: args.platform,
        unmap: args.unmap,
        guest: args.guest,
        // The scenarios prefer holders that a real kernel does not have.
        hold: args
            .hold
            .or((args.platform == PlatformKind::Xen).then_some(HoldName::Pipe)),
        hold_for: args.hold_for,
        deadline: args.deadline,
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
        input,
        allow_kernel_damage: args.allow_kernel_damage,
        sabotage: args.sabotage,
        domains: args.front.clone().zip(args.back.clone()),
        machine: args.machine.clone(),
    })
}

/// Connects to the two domains that a run on a real Xen is in.
fn connect(settings: &Settings) -> Result<Option<Arc<Xen>>> {
    if settings.platform == PlatformKind::Sim {
        return Ok(None);
    }
    let Some((front, back)) = &settings.domains else {
        // What is wrong with this machine is said first.
        libgnt::open(&libgnt::PlatformChoice::Linux, None, "pv-stress")
            .map_err(|error| Error::Usage(format!("--platform xen: {error}")))?;
        return Err(Error::Usage(
            "--platform xen needs two domains: start `pv-stress supervise` on the consoles of two, and name them with --front and --back; or use `pv-stress lab`".into(),
        ));
    };
    Ok(Some(Arc::new(Xen::connect(front, back)?)))
}

/// On a PV guest a deferred unmap of a held page damages the kernel; one that waits does not.
fn check_guest(xen: Option<&Xen>, scenarios: &[&dyn Scenario], settings: &Settings) -> Result<()> {
    let (is_damaged, name) = match xen {
        Some(xen) => (
            xen.mapper()
                .is_some_and(|kernel| kernel.is_pv() && !kernel.unmap_waits),
            xen.back.name.as_str(),
        ),
        None => (
            settings.guest == Some(Guest::Pv) && settings.unmap == Unmap::Async,
            "0, the back end's,",
        ),
    };
    let holding = scenarios.iter().find(|scenario| scenario.holds());
    match holding {
        Some(scenario) if is_damaged && !settings.allow_kernel_damage => {
            Err(Error::Usage(format!(
                "{}: domain {} is a PV guest, whose kernel is damaged when held pages are unmapped \
             (Bad page map, and a machine that cannot be trusted afterwards); hold pages in PVH or \
             HVM domains, choose other scenarios, or accept the damage with --allow-kernel-damage",
                scenario.name(),
                name
            )))
        }
        _ => Ok(()),
    }
}

/// A holder that the domain cannot have is told before anything is started.
fn check_hold(xen: &Xen, scenarios: &[&dyn Scenario], settings: &Settings) -> Result<()> {
    match settings.hold {
        Some(hold) if scenarios.iter().any(|scenario| scenario.holds()) => {
            let name = &xen.back.name;
            if xen.mapper().is_some_and(|kernel| kernel.is_pv())
                && let Err(lacks) = can_be_on_pv(hold)
            {
                return Err(Error::Usage(format!("domain {name}: {lacks}")));
            }
            let can = xen.back.can_hold(hold);
            can.map_err(|lacks| Error::Usage(lacks.to_string()))
        }
        _ => Ok(()),
    }
}

/// Which domains are lost, and why.
fn lost(xen: Option<&Arc<Xen>>) -> Option<String> {
    let lost = xen?.lost();
    let lost: Vec<String> = lost
        .into_iter()
        .map(|(name, why)| format!("domain {name} was lost: {why}"))
        .collect();
    (!lost.is_empty()).then(|| lost.join("; "))
}

/// Starts lost domains anew, where the run was told how.
fn restart(
    xen: &mut Option<Arc<Xen>>,
    program: Option<&Path>,
    settings: &Settings,
    lost: &str,
) -> Result<()> {
    let failed = |cause: String| {
        Error::environment(
            "the domains of the run",
            cause,
            "see their consoles in the logs",
        )
    };
    let (Some(program), Some(was)) = (program, xen.take()) else {
        return Err(failed(lost.to_owned()));
    };
    let names: Vec<String> = was
        .lost()
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    // The consoles must be free for the program that waits for the new domain.
    drop(was);
    for name in names {
        let status = std::process::Command::new(program).arg(&name).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(failed(format!("{lost}; starting it again: {status}"))),
            Err(error) => return Err(failed(format!("{}: {error}", program.display()))),
        }
    }
    *xen = connect(settings)?;
    Ok(())
}

/// Found out before anything is started.
fn check_input(input: &Path) -> Result<()> {
    let bad =
        |cause: &str| Error::file(input, cause, "name a readable, non-empty file with --input");
    let mut file = File::open(input).map_err(|error| bad(&error.to_string()))?;
    let meta = file.metadata().map_err(|error| bad(&error.to_string()))?;
    if !meta.is_file() {
        return Err(bad("it is no regular file"));
    }
    match file.read(&mut [0]) {
        Ok(0) => Err(bad("it is empty")),
        Ok(_) => Ok(()),
        Err(error) => Err(bad(&error.to_string())),
    }
}

fn command() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| quote(&word.to_string_lossy()))
        .collect();
    words.join(" ")
}

/// A bar on a terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{msg:16} {wide_bar} {bytes:>10}/{total_bytes:10} {elapsed:>4}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn print(report: &Report, json: bool, dir: &ReportDir) -> std::io::Result<()> {
    let mut out = anstream::stdout();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        return writeln!(out);
    }
    print_table(report, &mut out)?;
    writeln!(
        out,
        "\nseed {}, report in {}",
        report.seed,
        dir.path().join("report.html").display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for (path, why) in [
            (dir.path().join("missing"), "No such file"),
            (dir.path().to_owned(), "no regular file"),
            (empty, "empty"),
        ] {
            let error = check_input(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(error.contains(why) && error.contains("--input"), "{error}");
        }
    }
}
