//! The command line of `pv-frontend`, as a library so that another binary can offer it too.

mod cure;

mod context;

mod histogram;
mod interrupt;
mod progress;

mod plain;

mod bench;
mod copy;

use crate::config::DEFAULT_CLOSE;
use crate::error::FrontError;
use clap::{Parser, Subcommand};
use context::{Common, Context, Outcome};
use libgnt::DomId;
use libgnt::stop::Stop;
use pv_program::{end, start_log};
use std::ffi::OsString;
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

/// The whole command line, for whoever holds documents against it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
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
    end("pv-frontend", run(cli))
}

fn run(cli: Cli) -> Outcome {
    let common = cli.common;
    start_log(&common.log)?;
    let stop = Stop::new();
    let asked = stop.clone();
    // Who sends a signal does not want to wait; who lets a command end by itself wants it done.
    let interrupted = common.close.unwrap_or(DEFAULT_CLOSE);
    let close = common.close.unwrap_or(ORDERLY_CLOSE);
    let command = move || perform(cli.command, common, close, asked);
    interrupt::run(&stop, interrupted, command)
}

fn perform(command: Command, common: Common, close: Duration, stop: Stop) -> Outcome {
    let domain = common.domain.map(DomId);
    let platform = libgnt::open(&common.platform, domain, "pv-frontend")
        .map_err(|error| FrontError::from(error.with_cure(cure::NO_PLATFORM)))?;
    let context = Context {
        platform,
        json: common.json,
        common,
        close,
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
