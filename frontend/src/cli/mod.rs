//! The command line of `pv-frontend`, as a library so that another binary can offer it too.

mod bench;
mod copy;
mod histogram;
mod interrupt;
mod plain;
mod progress;

use crate::agent::DeviceError;
use crate::config::{DEFAULT_CLOSE, FrontConfig, LONGEST};
use crate::counters::Counters;
use crate::disk::Disk;
use crate::error::FrontError;
use crate::stop::Stop;
use clap::{Args, Parser, Subcommand};
use libgnt::{DomId, PlatformChoice};
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use serde::Serialize;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// What the close of a device may take at the end of a command's work.
const ORDERLY_CLOSE: Duration = Duration::from_secs(5);

/// A Xen block front end in userspace: looks at, reads, writes, copies through or measures the
/// disk that a back end serves.
///
/// Exit status: 0 done, 1 failed or data differ, 2 usage or environment.
#[derive(Debug, Parser)]
#[command(name = "pv-frontend", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// `linux` for the real devices, or `sim:DIR` for the simulated Xen that serves DIR.
    #[arg(long, global = true, default_value = "linux")]
    platform: PlatformChoice,
    /// The domain to be, on a simulated Xen; the lowest free one if not given.
    #[arg(long, global = true, value_name = "N")]
    domain: Option<u16>,
    /// The device: xvda, xvdb, ..., or its number.
    #[arg(long, global = true, default_value = "xvda")]
    device: DeviceId,
    /// The device's class, as the toolstack created it.
    #[arg(long, global = true, value_name = "NAME", default_value_t = DeviceClass::VBD)]
    class: DeviceClass,
    /// Keep grants mapped between requests, if the back end can.
    #[arg(long, global = true)]
    persistent: bool,
    /// Pages granted for data.
    #[arg(long, global = true, value_name = "PAGES", default_value_t = 352)]
    pool_pages: usize,
    /// Seconds that one I/O may take.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    deadline: Duration,
    /// Seconds to wait for a back end, at first and after it went.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    reconnect: Duration,
    /// Seconds that the end may take, for I/O that is under way and for the back end to close
    /// [default: 5, and 0.6 after a signal]. A second signal ends at once.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    close: Option<Duration>,
    /// Check at each response that the pages are unmapped (simulated Xen only).
    #[arg(long, global = true)]
    verify_release: bool,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// What to log on standard error: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the disk's size and features.
    Info,
    /// Copy bytes of the disk to standard output or a file.
    Read(plain::Read),
    /// Copy standard input or a file to the disk, and flush.
    Write(plain::Write),
    /// Write a file to the disk, flush, read it back, and compare SHA-256 sums.
    Copy(copy::Copy),
    /// Measure I/O per second and latency.
    Bench(bench::Bench),
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is no number of seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration.is_zero() => Err("it must be more than 0".into()),
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ if seconds > 0.0 => Err("it must be ten years at most".into()),
        _ => Err("it must be more than 0".into()),
    }
}

/// How a command ends when it does not end well.
#[derive(Debug)]
enum Failure {
    /// Exit status 2: nothing was tried.
    Environment(String),
    /// Exit status 1.
    Failed(String),
}

impl Failure {
    /// A back end that is not there is the environment's fault.
    fn at_open(error: FrontError) -> Self {
        match error {
            FrontError::Device(DeviceError::Gone(why)) => Failure::Environment(why),
            other => other.into(),
        }
    }
}

impl From<FrontError> for Failure {
    fn from(error: FrontError) -> Self {
        match error {
            FrontError::Xen(libgnt::Error::NotAvailable { .. })
            | FrontError::KernelDriver(_)
            | FrontError::NoDevice { .. } => Failure::Environment(error.to_string()),
            other => Failure::Failed(other.to_string()),
        }
    }
}

impl From<libgnt::Error> for Failure {
    fn from(error: libgnt::Error) -> Self {
        FrontError::from(error).into()
    }
}

/// A file's failure, named.
fn file_failure(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Environment(format!("{what} {}: {error}", path.display()))
}

type Outcome = Result<(), Failure>;

/// What the commands share.
struct Context {
    config: FrontConfig,
    json: bool,
    stop: Stop,
}

impl Context {
    fn stopped(&self) -> bool {
        self.stop.is_asked()
    }

    fn interrupted() -> Failure {
        Failure::Failed("interrupted".into())
    }

    /// How a command ends whose device is closed: by its own first failure, or the close's. After
    /// a signal every I/O fails, and the signal is the reason.
    fn ended<T>(
        &self,
        work: Result<T, Failure>,
        closed: Result<Counters, FrontError>,
    ) -> Result<T, Failure> {
        match (work, closed) {
            (Err(_), Ok(_)) if self.stopped() => {
                let message = "interrupted; the device was closed cleanly";
                Err(Failure::Failed(message.into()))
            }
            (Err(_), Err(error)) if self.stopped() => {
                Err(Failure::Failed(format!("interrupted; {error}")))
            }
            (work, closed) => {
                let value = work?;
                closed?;
                Ok(value)
            }
        }
    }

    fn device(&self) -> String {
        crate::bus::name(self.config.device)
    }

    fn open(&self) -> Result<Disk, Failure> {
        Disk::open(self.config.clone()).map_err(Failure::at_open)
    }

    /// Closes the disk whatever became of the work, and reports the first failure.
    fn finish<T>(&self, disk: Disk, work: Result<T, Failure>) -> Result<T, Failure> {
        self.ended(work, disk.close())
    }

    /// Prints the result, as text or JSON.
    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Outcome {
        use std::io::Write;
        let line = match self.json {
            true => serde_json::to_string(value)
                .map_err(|e| Failure::Failed(format!("cannot write JSON: {e}")))?,
            false => text(value),
        };
        writeln!(std::io::stdout().lock(), "{line}")
            .map_err(|e| Failure::Failed(format!("standard output: {e}")))
    }
}

/// Runs the command line, the program's name first. Prints errors to standard error.
pub fn main_from<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure; nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (status, message) = match failure {
                Failure::Environment(message) => (2, message),
                Failure::Failed(message) => (1, message),
            };
            eprintln!("pv-frontend: {message}");
            ExitCode::from(status)
        }
    }
}

fn run(cli: Cli) -> Outcome {
    let common = cli.common;
    let filter = tracing_subscriber::EnvFilter::try_new(&common.log)
        .map_err(|e| Failure::Environment(format!("--log {:?}: {e}", common.log)))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Another subscriber is there already when a larger program runs this command line.
    let _ = log.try_init();
    let stop = Stop::new();
    let asked = stop.clone();
    // Who sends a signal does not want to wait; who lets a command end by itself wants it done.
    let interrupted = common.close.unwrap_or(DEFAULT_CLOSE);
    let close = common.close.unwrap_or(ORDERLY_CLOSE);
    let command = move || perform(cli.command, &common, close, asked);
    interrupt::run(&stop, interrupted, command)
}

fn perform(command: Command, common: &Common, close: Duration, stop: Stop) -> Outcome {
    let platform = libgnt::open(&common.platform, common.domain.map(DomId), "pv-frontend")
        .map_err(|error| error.with_cure("`pv-stress sim --dir DIR` starts a simulated Xen"))?;
    let config = FrontConfig {
        class: common.class.clone(),
        persistent: common.persistent,
        pool_pages: common.pool_pages,
        deadline: common.deadline,
        reconnect: common.reconnect,
        close,
        verify_release: common.verify_release,
        stop: stop.clone(),
        ..FrontConfig::new(platform, common.device)
    };
    let context = Context {
        config,
        json: common.json,
        stop,
    };
    match command {
        Command::Info => plain::info(&context),
        Command::Read(args) => plain::read(&context, &args),
        Command::Write(args) => plain::write(&context, &args),
        Command::Copy(args) => copy::run(&context, &args),
        Command::Bench(args) => bench::run(&context, &args),
    }
}

/// Where data goes or comes from: a file, or `-`.
fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_arguments_are_exit_status_2() {
        for bad in [
            &["pv-frontend"][..],
            &["pv-frontend", "info", "--device", "sda"],
            &["pv-frontend", "info", "--platform", "vmware"],
            &["pv-frontend", "info", "--deadline", "0"],
            &["pv-frontend", "info", "--close", "-1"],
            &["pv-frontend", "info", "--reconnect", "1e300"],
            &["pv-frontend", "info", "--deadline", "18446744073709551615"],
            &["pv-frontend", "info", "--platform", "sim:/nonexistent"],
            &["pv-frontend", "info", "--log", "=x="],
        ] {
            let status = format!("{:?}", main_from(bad));
            assert_eq!(status, format!("{:?}", ExitCode::from(2)), "{bad:?}");
        }
    }

    #[test]
    fn help_is_exit_status_0() {
        let status = format!("{:?}", main_from(["pv-frontend", "--help"]));
        assert_eq!(status, format!("{:?}", ExitCode::SUCCESS));
    }
}
