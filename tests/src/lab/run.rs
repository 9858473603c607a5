//! A lab from nothing to its results.

use super::error::{LabError, Result};
use super::images::{self, Contents};
use super::job::DOMAINS;
use super::listener::Listener;
use super::machine::{Boot, Machine, tail};
use super::options::{DEADLINE, GntdevKind, LabArgs};
use super::packages::Archive;
use super::parts::Parts;
use super::release::Release;
use super::work::Work;
use super::{gntdev, job, program, results};
use crate::error::Error;
use crate::holder::HoldName;
use crate::report::ReportDir;
use crate::settings::PlatformKind;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For the boot of the machine and its domains, and for what follows the last scenario.
const BOOT: Duration = Duration::from_secs(240);
/// Beside each scenario's deadline: ending what hangs, and asking what is left.
const BESIDE: Duration = Duration::from_secs(45);
/// The conformance suite takes as long as so many scenarios.
const CONFORM_RUNS: u32 = 5;
/// A shell has as long as it likes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs the lab. The exit status is that of the run, or of the command.
///
/// # Errors
/// [`LabError`]: what was missing, or what went wrong before there was a result.
pub fn run(args: &LabArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let mut tell = |what: &str| {
        let seconds = started.elapsed().as_secs();
        // With standard error gone there is nobody to tell.
        let _ = writeln!(anstream::stderr(), "lab {seconds:>4} s: {what}");
    };
    let (xen, kernel) = (
        Release::with_xen(&args.xen)?,
        Release::with_kernel(&args.kernel)?,
    );
    let limit = limit(args)?;
    check_hold(args)?;
    super::machine::check_installed()?;
    let report = ReportDir::claim(&args.report)?;
    let cache = std::path::absolute(&args.cache).map_err(LabError::file(&args.cache))?;
    let work = Work::new(&cache)?;
    let mut with = named_files(&args.with)?;
    let input = named_files(args.input.as_slice())?;
    with.extend(
        input
            .into_iter()
            .map(|(path, _)| (path, job::INPUT.to_owned())),
    );
    let preparing = lock(&cache, &mut tell)?;
    let parts = Parts::fetch(&cache, xen, kernel, args.mirror.as_deref(), &mut tell)?;
    let agent = program::agent(args.agent.as_deref(), &cache, &mut tell)?;
    let gntdev = match args.gntdev {
        GntdevKind::Async => None,
        GntdevKind::Sync => {
            let archive = Archive::open(&cache, kernel, args.mirror.as_deref(), &mut tell)?;
            Some(gntdev::synchronous(
                &archive,
                &parts.kernel_release,
                &mut tell,
            )?)
        }
    };
    tell("building the images");
    let configs = DOMAINS.map(|name| (format!("{name}.cfg"), job::config(name, args.guest)));
    let contents = Contents {
        agent: &agent,
        job: &job::job(args),
        configs: &configs,
        with: &with,
        gntdev: gntdev.as_deref(),
    };
    let initramfs = images::build(&parts, &contents)?;
    drop(preparing);
    if args.prepare {
        tell("everything that a run needs is there");
        return Ok(ExitCode::SUCCESS);
    }
    let machine = report.path().join("machine");
    fs::create_dir_all(&machine).map_err(LabError::file(&machine))?;
    let boot = Boot {
        xen: &parts.xen,
        kernel: &parts.kernel,
        initramfs: &work.path("dom0.cpio"),
        results: &work.path("results.disk"),
        serial: &machine.join("serial.log"),
        interactive: args.shell,
    };
    fs::write(boot.initramfs, &initramfs).map_err(LabError::file(boot.initramfs))?;
    results::make_disk(boot.results)?;
    tell(&format!(
        "booting Xen {} with Linux {} in QEMU",
        xen.xen, parts.kernel_release
    ));
    let mut listener = Listener {
        report: args.report.display().to_string(),
        json: args.json,
        tell: &mut tell,
    };
    boot_and_watch(&boot, limit, &mut listener)?;
    let out = work.path("results");
    if !results::unpack(boot.results, &out)? {
        return Err(LabError::Guest {
            what: "the machine ended without storing its results".into(),
            log: boot.serial.to_owned(),
            tail: tail(boot.serial, 25),
        });
    }
    let status = out.join("status");
    let status = fs::read_to_string(&status).map_err(LabError::file(&status))?;
    let status = status.trim().parse().unwrap_or(2);
    results::keep(&out, report.path())?;
    let logs = args.report.display();
    tell(&format!("done, status {status}; logs are in {logs}"));
    if args.json {
        print_json(report.path())?;
    }
    Ok(ExitCode::from(status))
}

/// Two labs may run at once, but not fill the cache at once.
fn lock(cache: &Path, tell: &mut dyn FnMut(&str)) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).map_err(LabError::file(&path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => tell("waiting for another lab to prepare the cache"),
        Err(TryLockError::Error(error)) => return Err(LabError::file(&path)(error)),
    }
    file.lock().map_err(LabError::file(&path))?;
    Ok(file)
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
        Some(HoldName::Uring) if args.kernel != "6.12" => usage(format!(
            "--hold uring needs a kernel that registers gntdev's pages with io_uring, and Linux {} refuses; add --kernel 6.12",
            args.kernel
        )),
        _ => Ok(()),
    }
}

/// How long the machine may take.
fn limit(args: &LabArgs) -> Result<Duration> {
    if args.shell {
        return Ok(FOR_EVER);
    }
    let runs = if args.run.is_some() {
        1
    } else if args.conform {
        CONFORM_RUNS
    } else {
        let chosen = crate::cli::chosen(&args.scenario, PlatformKind::Xen)?;
        u32::try_from(chosen.len()).unwrap_or(u32::MAX)
    };
    let each = args.deadline.unwrap_or(DEADLINE) + BESIDE;
    Ok(BOOT + each.saturating_mul(runs))
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

fn boot_and_watch(boot: &Boot<'_>, limit: Duration, listener: &mut Listener<'_>) -> Result<()> {
    let begun = Instant::now();
    let mut machine = Machine::start(boot)?;
    if boot.interactive {
        return machine.wait();
    }
    machine.watch(begun + limit, &mut |line| {
        let slow = listener.line(line)?;
        Ok(slow.map(|times| begun + limit.saturating_mul(times)))
    })
}

/// The report that dom0 wrote, on standard output.
fn print_json(report: &Path) -> Result<()> {
    let found = ["report.json", job::CONFORM_REPORT].map(|name| report.join(name));
    let Some(path) = found.iter().find(|path| path.exists()) else {
        return Ok(());
    };
    let text = fs::read_to_string(path).map_err(LabError::file(path))?;
    // With standard output gone nobody reads it.
    let _ = writeln!(anstream::stdout(), "{}", text.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_taken_along() {
        assert!(named_files(&[Path::new("/").to_owned()]).is_err());
    }
}
