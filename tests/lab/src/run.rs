//! A lab from nothing to its results.

use super::cache::{Cache, default_root};
use super::course::{Course, Next};
use super::domains::{DOM0_MEMORY, Domain, Domains, Kind};
use super::emulator::{Emulator, Processor};
use super::error::{LabError, Result};
use super::images::{self, Contents};
use super::listener::Listener;
use super::machine::{self, Boot};
use super::options::{GntdevKind, LabArgs, LabCommand, Other};
use super::packages::Packages;
use super::parts::Parts;
use super::progress::Progress;
use super::release::Release;
use super::report::{LabReport, Machine};
use super::results;
use super::suite::{self, CountScenarios, PEERS_MODULES, Suite, SuiteName};
use super::work::Work;
use super::{ext4, gntdev, job, program, prune};
use pv_harness::error::Error;
use pv_harness::holder::HoldName;
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
        Some(Other::Prune(args)) => prune::run(args).map(|()| ExitCode::SUCCESS),
        None => {
            Lab::prepare(&command.lab, count_scenarios)?.map_or(Ok(ExitCode::SUCCESS), Lab::run)
        }
    }
}

/// Everything that a machine needs.
struct Lab<'a> {
    args: &'a LabArgs,
    progress: Progress,
    cache: Cache,
    work: Work,
    report: ReportDir,
    suites: Vec<Suite>,
    domains: Domains,
    parts: Parts,
    emulator: Emulator,
}

impl Lab<'_> {
    /// Checks what was asked for, fetches and builds. `None`: that was all that was asked for.
    fn prepare<'a>(args: &'a LabArgs, count_scenarios: &CountScenarios) -> Result<Option<Lab<'a>>> {
        let progress = Progress::begin()?;
        let xen = Release::with_xen(&args.xen)?;
        check_hold(args)?;
        let suites = suite::asked(args, count_scenarios)?;
        let domains = Domains::plan(args)?;
        if args.dom0 == Kind::Pvh {
            return Err(LabError::Run(Error::Usage(
                "--dom0 pvh: this emulation does not carry it: Xen asks for an IOMMU, and with the one that QEMU emulates dom0 begins its init and stands still (docs/lab.md); leave it away".into(),
            )));
        }
        check_words("--kernel-args", args.kernel_args.as_deref())?;
        check_words("--xen-args", args.xen_args.as_deref())?;
        if !args.prepare {
            domains.check_room()?;
        }
        let mut with = named_files(&args.with)?;
        let input = named_files(args.input.as_slice())?;
        with.extend(
            input
                .into_iter()
                .map(|(path, _)| (path, job::INPUT.to_owned())),
        );
        let report = ReportDir::claim(&args.report)?;
        let root = match &args.cache {
            Some(root) => root.clone(),
            None => default_root()?,
        };
        let cache = Cache::open(&root)?;
        let work = Work::new(&cache)?;
        let filling = cache.fill(&progress)?;
        let packages = Packages {
            cache: &cache,
            mirror: args.mirror.as_deref(),
            update: args.update,
            progress: &progress,
            fresh: Default::default(),
        };
        let parts = Parts::fetch(&packages, xen, &args.kernel)?;
        // Found out before anything is built.
        parts.asked_modules(&args.modules)?;
        let mut modules = args.modules.clone();
        if suites
            .iter()
            .any(|s| s.name == SuiteName::Peers.to_string())
        {
            // What this kernel has built in, it need not be brought.
            let brought = PEERS_MODULES
                .into_iter()
                .filter(|name| parts.has_module(name));
            modules.extend(brought.map(str::to_owned));
            with.extend(ext4::files(&packages, xen)?);
        }
        if args.hold == Some(HoldName::Uring) && !parts.registers_grants_with_io_uring() {
            return Err(LabError::Run(Error::Usage(format!(
                "--hold uring needs a kernel that registers gntdev's pages with io_uring, and Linux {} refuses; add --kernel 6.12 or --kernel sid",
                parts.kernel_release()
            ))));
        }
        let emulator = Emulator::find(&args.qemu, &packages)?;
        let agent = program::agent(args.agent.as_deref(), &cache, &progress)?;
        let gntdev = match args.gntdev {
            GntdevKind::Async => None,
            GntdevKind::Sync => Some(gntdev::synchronous(
                &packages,
                &parts,
                &work.path("gntdev"),
            )?),
        };
        progress.tell("building the images");
        let contents = Contents {
            agent: &agent,
            job: &job::job(args, &domains),
            domains: &domains,
            kernel_words: args.kernel_args.as_deref().unwrap_or_default(),
            suites: &suites,
            modules: &modules,
            with: &with,
            gntdev: gntdev.as_deref(),
        };
        let initramfs = images::build(&parts, &contents)?;
        drop(filling);
        if args.prepare {
            progress.tell("everything that a run needs is there");
            return Ok(None);
        }
        let path = work.path("dom0.cpio");
        fs::write(&path, &initramfs).map_err(LabError::file(&path))?;
        parts.write_xen(&work.path("xen"))?;
        Ok(Some(Lab {
            args,
            progress,
            work,
            report,
            suites,
            domains,
            parts,
            emulator,
            cache,
        }))
    }

    fn run(self) -> Result<ExitCode> {
        let begun = Instant::now();
        let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let processor = Processor::take(&self.cache)?;
        if !processor.is_alone {
            self.progress.tell(format_args!(
                "other labs use all processors: this one shares processor {} and will be slow",
                processor.number
            ));
        }
        let sockets = machine::socket_dir()?;
        let logs = self.report.path().join("machine");
        fs::create_dir_all(&logs).map_err(LabError::file(&logs))?;
        let serial = logs.join("serial.log");
        let mut course = Course::of(self.suites.clone());
        let mut lost = Vec::new();
        let mut kept = 0;
        loop {
            let disk = self.work.path("results.disk");
            results::make_disk(&disk, self.suites.len())?;
            let boot = Boot {
                emulator: &self.emulator,
                processor: processor.number,
                memory: self.domains.memory,
                xen: &self.work.path("xen"),
                xen_words: self.xen_words(),
                kernel: &self.parts.kernel,
                kernel_words: job::kernel_words(
                    &self.suites,
                    course.left(),
                    self.args.kernel_args.as_deref(),
                ),
                initramfs: &self.work.path("dom0.cpio"),
                results: &disk,
                serial: &serial,
                monitor: &sockets.path().join("monitor"),
            };
            let linux = self.parts.kernel_release();
            self.progress.tell(format_args!(
                "booting Xen {} with Linux {linux} in QEMU {} on processor {}",
                self.parts.xen_set.detail, self.emulator.version, processor.number
            ));
            if self.args.shell {
                machine::interact(&boot, &self.progress)?;
                self.keep(&disk, results::MACHINE, "")?;
                return Ok(ExitCode::SUCCESS);
            }
            let loss = {
                let name = self.args.report.display().to_string();
                let json = self.args.json;
                let mut ear = Listener::new(name, json, &self.progress, &mut course);
                machine::run(&boot, &mut ear)?
            };
            for ended in &course.ended()[kept..] {
                let place = self.suites.iter().position(|s| s.name == ended.suite);
                if let (Some(place), true) = (place, ended.is_stored) {
                    self.keep(&disk, job::slot(place), &ended.suite)?;
                }
            }
            kept = course.ended().len();
            let Some(loss) = loss else {
                self.keep(&disk, results::MACHINE, "")?;
                break;
            };
            let cause = loss.cause();
            let on = course.is_on().map(|suite| format!(" in {suite}"));
            self.progress.tell(format_args!(
                "lost the machine{}: {cause}",
                on.unwrap_or_default()
            ));
            let before = course.ended().len();
            let next = course.lost(&loss, Instant::now());
            if next == Next::Stop && before == 0 && lost.is_empty() {
                // Nothing was shown at all: the log's end says more than a table.
                self.write(&course, &lost, &processor, &started, begun)?;
                return Err(machine::lost(&boot, cause));
            }
            if next == Next::Stop {
                lost.push(cause.to_owned());
                break;
            }
            let earlier = machine::earlier(&serial, lost.len() + 1);
            fs::rename(&serial, &earlier).map_err(LabError::file(&earlier))?;
            lost.push(cause.to_owned());
            self.progress.tell("starting the machine again");
        }
        self.write(&course, &lost, &processor, &started, begun)?;
        let status = course.status();
        self.progress.tell(format_args!(
            "done, status {status}; logs are in {}",
            self.args.report.display()
        ));
        Ok(ExitCode::from(status))
    }

    fn xen_words(&self) -> String {
        let mut words = format!(
            "console=com1 dom0_mem={}M loglvl=warning guest_loglvl=warning conring_size=1M",
            DOM0_MEMORY
        );
        if let Some(more) = &self.args.xen_args {
            words.push(' ');
            words.push_str(more);
        }
        words
    }

    /// Takes what is at a place of the disk into the report.
    fn keep(&self, disk: &Path, place: u64, name: &str) -> Result<()> {
        let out = self.work.path(&format!("results-{place}"));
        if results::unpack(disk, place, &out)? {
            results::keep(&out, self.report.path(), name)?;
        }
        Ok(())
    }

    /// Writes and prints the lab's own report.
    fn write(
        &self,
        course: &Course,
        lost: &[String],
        processor: &Processor,
        started: &str,
        begun: Instant,
    ) -> Result<()> {
        let domain = |d: &Domain| format!("{} {}", d.name, d.kind.word());
        let domains = self.domains.all.iter().map(domain).collect();
        let report = LabReport {
            tool: concat!("pv-stress ", env!("CARGO_PKG_VERSION")).into(),
            started: started.to_owned(),
            command: self.args.machine(),
            machine: Machine::of(&self.parts, &self.emulator, processor, domains),
            lost: lost.to_vec(),
            suites: course.ended(),
            exit_status: course.status(),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        report.write(self.report.path())?;
        // With standard output gone nobody reads it.
        let _ = if self.args.json {
            report.print_json(self.report.path(), &mut anstream::stdout())
        } else {
            report.print(&mut anstream::stdout())
        };
        Ok(())
    }
}

/// Found out before anything is fetched.
fn check_hold(args: &LabArgs) -> Result<()> {
    let usage = |why| Err(LabError::Run(Error::Usage(why)));
    match args.hold {
        Some(hold) if hold.is_simulated() => usage(format!(
            "--hold {hold} is the simulated Xen's; in the lab use pipe, fork, uring or xdp"
        )),
        Some(HoldName::Direct) => usage(
            "--hold direct needs a disk with O_DIRECT, and the lab's domains have none; use pipe, fork, uring or xdp, or run on a Xen machine".into(),
        ),
        _ => Ok(()),
    }
}

/// Words that go into a domain's configuration and on command lines.
fn check_words(option: &str, words: Option<&str>) -> Result<()> {
    let cannot = |c: char| c == '"' || c == '\\' || c.is_control();
    match words.filter(|words| words.contains(cannot)) {
        Some(words) => Err(LabError::Run(Error::Usage(format!(
            "{option} {words:?}: quotation marks, backslashes and control characters cannot be passed on; leave them away"
        )))),
        None => Ok(()),
    }
}

/// Files and their names in the images.
fn named_files(files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    files
        .iter()
        .map(|path| {
            let meta = fs::metadata(path).map_err(LabError::file(path))?;
            let name = path.file_name().filter(|_| meta.is_file());
            let name = name.ok_or_else(|| LabError::Failed {
                doing: format!("taking {} along", path.display()),
                cause: "it is no regular file".into(),
                cure: "name a file".into(),
            })?;
            Ok((path.clone(), name.to_string_lossy().into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_would_break_a_configuration_are_refused() {
        assert!(check_words("--kernel-args", Some("a=b,c d")).is_ok());
        assert!(check_words("--kernel-args", None).is_ok());
        for words in ["a=\"b\"", "a\nb", "a\\b"] {
            assert!(
                check_words("--kernel-args", Some(words)).is_err(),
                "{words}"
            );
        }
    }

    #[test]
    fn only_files_are_taken_along() {
        assert!(named_files(&[Path::new("/").to_owned()]).is_err());
    }
}
