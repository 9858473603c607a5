//! A lab from nothing to its results, room by room.

use crate::ask::Asked;
use crate::ask::domains::Domain;
use crate::ask::options::{LabArgs, LabCommand, Other};
use crate::ask::suite::CountScenarios;
use crate::build::{self, Built};
use crate::error::{LabError, Result};
use crate::fetch::cache::{self, Cache};
use crate::fetch::packages::Packages;
use crate::fetch::work::Work;
use crate::image::{self, disk, job};
use crate::machine::boot::{self, Boot};
use crate::machine::course::{Course, Next};
use crate::machine::listener::Listener;
use crate::machine::loss::{self, Loss};
use crate::machine::processor::Processor;
use crate::machine::{serial, terminal};
use crate::progress::Progress;
use crate::prune;
use crate::results::report::{LabReport, Machine};
use crate::results::unpack;
use crate::table;
use pv_judges::report::ReportDir;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

/// `pv-stress lab`. The exit status is that of the suites, or of the command.
///
/// # Errors
/// [`LabError`]: what was missing, or what went wrong before there was a result.
pub fn run(command: &LabCommand, count_scenarios: &CountScenarios) -> Result<ExitCode> {
    match &command.other {
        Some(Other::Table(args)) => table::run(args, count_scenarios, &lab),
        Some(Other::Prune(args)) => prune::run(args).map(|()| ExitCode::SUCCESS),
        None => lab(&command.lab, count_scenarios),
    }
}

/// `pv-stress lab` alone: checks what was asked for, fetches, builds, makes the images, and runs the machine.
fn lab(args: &LabArgs, count_scenarios: &CountScenarios) -> Result<ExitCode> {
    let progress = Progress::begin()?;
    let asked = Asked::check(args, count_scenarios)?;
    let report = ReportDir::claim(&args.report)?;
    let cache = Cache::open(&cache::root(args.cache.as_deref())?)?;
    let work = Work::new(&cache)?;
    let filling = cache.fill(&progress)?;
    let packages = Packages::new(&cache, args.mirror.as_deref(), args.update, &progress);
    let built = build::build(&asked, &packages, &work.path("gntdev"))?;
    progress.tell("building the images");
    let initramfs = image::build(&asked, &built)?;
    drop(filling);
    if args.prepare {
        progress.tell("everything that a run needs is there");
        return Ok(ExitCode::SUCCESS);
    }
    let path = work.path("dom0.cpio");
    fs::write(&path, &initramfs).map_err(LabError::file(&path))?;
    drop(initramfs);
    built.parts.write_xen(&work.path("xen"))?;
    let begun = Instant::now();
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let processor = Processor::take(&cache)?;
    if !processor.is_alone {
        progress.tell(format_args!(
            "other labs use all processors: this one shares processor {} and will be slow",
            processor.number
        ));
    }
    let lab = Lab {
        course: Course::of(asked.suites.clone()),
        asked: &asked,
        progress: &progress,
        work: &work,
        report: &report,
        built: &built,
        processor,
        begun,
        started,
        lost: Vec::new(),
        kept: 0,
    };
    lab.run()
}

/// Everything that a machine needs, and what became of it.
struct Lab<'a> {
    asked: &'a Asked<'a>,
    progress: &'a Progress,
    work: &'a Work,
    report: &'a ReportDir,
    built: &'a Built,
    processor: Processor,
    /// When the machine's time began.
    begun: Instant,
    /// The same, for people: UTC, RFC 3339.
    started: String,
    course: Course,
    /// Why starts of the machine were lost.
    lost: Vec<String>,
    /// How many suites' results were taken into the report.
    kept: usize,
}

impl Lab<'_> {
    /// Runs the machine, and again if it is lost, until the suites have ended.
    fn run(mut self) -> Result<ExitCode> {
        let args = self.asked.args;
        let sockets = boot::socket_dir()?;
        let monitor = sockets.path().join("monitor");
        let logs = self.report.path().join("machine");
        fs::create_dir_all(&logs).map_err(LabError::file(&logs))?;
        let log = logs.join("serial.log");
        let results = self.work.path("results.disk");
        let (xen, initramfs) = (self.work.path("xen"), self.work.path("dom0.cpio"));
        loop {
            disk::make(&results, self.asked.suites.len())?;
            let boot = Boot {
                emulator: &self.built.emulator,
                processor: self.processor.number,
                memory: self.asked.domains.memory,
                xen: &xen,
                xen_words: job::xen_words(args.xen_args.as_deref()),
                kernel: &self.built.parts.kernel,
                kernel_words: job::kernel_words(
                    &self.asked.suites,
                    self.course.left(),
                    args.kernel_args.as_deref(),
                ),
                initramfs: &initramfs,
                results: &results,
                serial: &log,
                monitor: &monitor,
            };
            self.progress.tell(format_args!(
                "booting Xen {} with Linux {} in QEMU {} on processor {}",
                self.built.parts.xen_set.detail,
                self.built.parts.kernel_release(),
                self.built.emulator.version,
                self.processor.number
            ));
            if args.shell {
                terminal::interact(&boot, self.progress)?;
                self.keep(&results, disk::MACHINE, "")?;
                return Ok(ExitCode::SUCCESS);
            }
            let name = args.report.display().to_string();
            let mut ear = Listener::new(name, args.json, self.progress, &mut self.course);
            let loss = serial::run(&boot, &mut ear)?;
            self.keep_stored(&results)?;
            let Some(loss) = loss else {
                self.keep(&results, disk::MACHINE, "")?;
                break;
            };
            if self.after(&loss, &boot)? == Next::Stop {
                break;
            }
            self.progress.tell("starting the machine again");
        }
        self.write()?;
        let status = self.course.status();
        self.progress.tell(format_args!(
            "done, status {status}; logs are in {}",
            args.report.display()
        ));
        Ok(ExitCode::from(status))
    }

    /// What follows the loss of the machine. The log of a start that was lost gets a name of its own.
    fn after(&mut self, loss: &Loss, boot: &Boot<'_>) -> Result<Next> {
        let cause = loss.cause();
        let on = self.course.is_on().map(|suite| format!(" in {suite}"));
        self.progress.tell(format_args!(
            "lost the machine{}: {cause}",
            on.unwrap_or_default()
        ));
        let before = self.course.ended().len();
        let next = self.course.lost(loss, Instant::now());
        if next == Next::Stop && before == 0 && self.lost.is_empty() {
            // Nothing was shown at all: the log's end says more than a table.
            self.write()?;
            return Err(loss::lost(boot, cause));
        }
        if next == Next::Start {
            let earlier = boot::earlier(boot.serial, self.lost.len() + 1);
            fs::rename(boot.serial, &earlier).map_err(LabError::file(&earlier))?;
        }
        self.lost.push(cause.to_owned());
        Ok(next)
    }

    /// Takes the results of the suites that have ended since into the report.
    fn keep_stored(&mut self, disk: &Path) -> Result<()> {
        for ended in &self.course.ended()[self.kept..] {
            let mut suites = self.asked.suites.iter();
            let suite = suites.position(|suite| suite.name == ended.suite);
            if let (Some(suite), true) = (suite, ended.is_stored) {
                self.keep(disk, disk::place(suite), &ended.suite)?;
            }
        }
        self.kept = self.course.ended().len();
        Ok(())
    }

    /// Takes what is at a place of the disk into the report.
    fn keep(&self, disk: &Path, place: u64, name: &str) -> Result<()> {
        let out: PathBuf = self.work.path(&format!("results-{place}"));
        if unpack::unpack(disk, place, &out)? {
            unpack::keep(&out, self.report.path(), name)?;
        }
        Ok(())
    }

    /// Writes and prints the lab's own report.
    fn write(&self) -> Result<()> {
        let args = self.asked.args;
        let domain = |d: &Domain| format!("{} {}", d.name, d.kind.word());
        let domains = self.asked.domains.all.iter().map(domain).collect();
        let built = self.built;
        let report = LabReport {
            tool: concat!("pv-stress ", env!("CARGO_PKG_VERSION")).into(),
            started: self.started.clone(),
            command: args.machine(),
            machine: Machine::of(&built.parts, &built.emulator, &self.processor, domains),
            lost: self.lost.clone(),
            suites: self.course.ended(),
            exit_status: self.course.status(),
            duration_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        report.write(self.report.path())?;
        if args.quiet {
            return Ok(());
        }
        // With standard output gone nobody reads it.
        let _ = if args.json {
            report.print_json(self.report.path(), &mut anstream::stdout())
        } else {
            report.print(&mut anstream::stdout())
        };
        Ok(())
    }
}
