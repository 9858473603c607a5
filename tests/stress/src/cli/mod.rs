//! The command line.

mod log;
mod run;
mod sim;

use log::log_to_stderr;
use run::RunArgs;

use crate::settings::RunSabotage;
use crate::{role, scenario};
use clap::{Parser, Subcommand};
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_harness::settings::PlatformKind;
use pv_judges::report::print_listing;
use pv_lab::{LabCommand, LabError};
use pv_remote::{supervise, xen};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Stress PV drivers: asynchronous unmap while a third consumer holds the pages
///
/// Without a command: every scenario, on the simulated Xen, with the defaults of `run`.
///
/// Exit status: 0 all as required, 1 a check failed, 2 wrong usage or environment, 3 a deadlock
/// where none may be.
#[derive(Debug, Parser)]
#[command(name = "pv-stress", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// The whole command line, for whoever holds documents against it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which scenarios there are
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Run scenarios
    Run(RunArgs),
    /// Run just the simulated Xen, for agents started by hand
    Sim(sim::SimArgs),
    /// Boot a real Xen in QEMU and run there
    ///
    /// Exit status: that of the suites, or of the command: 0 all as required, 1 a check failed, 2 it
    /// could not run, or the machine was lost, 3 a deadlock, 4 packages cannot be had because no
    /// mirror answers.
    Lab(Box<LabCommand>),
    /// Run in a domain of a real Xen: start the roles of a run in dom0, over the domain's console
    Supervise {
        /// The console; nobody else may use it
        #[arg(default_value = "/dev/hvc0")]
        console: PathBuf,
    },
    /// Run a shell command in a domain that `supervise` runs in, from dom0
    On {
        /// The domain's name or number
        domain: String,
        /// The command; options come before the domain
        #[arg(required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
        /// How long it may take
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
        deadline: Duration,
    },
    /// The six discussions as models, checked in every interleaving
    Model {
        #[command(subcommand)]
        command: pv_models::cli::ModelCommand,
    },
    /// Test the platform itself, rule by rule: the simulated Xen against what a real one does
    ///
    /// Exit status: 0 every rule agrees, 1 one does not, 2 wrong usage or environment.
    Conform(pv_conform::cli::ConformArgs),
    /// One process of `conform`; started by pv-stress itself
    #[command(hide = true)]
    ConformProcess {
        #[command(subcommand)]
        process: pv_conform::process::Process,
    },
    /// xenstore on a real Xen: the client's cases, random requests beside our server, an echo device
    ///
    /// Exit status: 0 all held, 1 a check failed, 2 wrong usage or environment.
    Xenstore {
        #[command(subcommand)]
        command: pv_store::cli::StoreCommand,
    },
    /// The suite `peers` of the lab, in dom0; started by the lab
    #[command(hide = true)]
    Peers(pv_lab::peers::PeersArgs),
    /// A front end of that suite, as a boot loader's
    #[command(hide = true)]
    DirectFrontEnd(pv_lab::peers::direct_front::DirectFrontArgs),
    /// One process of a run; started by pv-stress itself
    #[command(hide = true)]
    Agent {
        /// Who it is and what it is to do: one argument
        #[arg(num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
        assignment: Vec<OsString>,
    },
}

/// The whole program.
pub fn main() -> ExitCode {
    // The agents' own command lines, for who has only this executable: `pv-stress pv-backend ...`.
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|word| word.to_str()) {
        Some("pv-backend") => return pv_backend::cli::main_from(args),
        Some("pv-frontend") => return pv_frontend::cli::main_from(args),
        _ => {}
    }
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(Error::Interrupted(signal)) => {
            complain("interrupted; every process has been ended");
            // Everything is cleaned up: now end as the signal would have it.
            if let Err(error) = signal_hook::low_level::emulate_default_handler(signal) {
                complain(&error.to_string());
            }
            ExitCode::from(2)
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

fn complain(what: &str) {
    // With standard error gone there is nobody to tell.
    let _ = writeln!(anstream::stderr(), "pv-stress: {what}");
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        None => {
            let defaults = Cli::parse_from(["pv-stress", "run"]);
            match defaults.command {
                Some(Command::Run(args)) => run::run(args),
                _ => Err(Error::Usage("use `pv-stress run`".into())),
            }
        }
        Some(Command::Run(args)) => run::run(args),
        Some(Command::List { json }) => list(json),
        Some(Command::Sim(args)) => sim::run(&args),
        Some(Command::Supervise { console }) => {
            log_to_stderr(tracing_subscriber::filter::LevelFilter::WARN);
            supervise(&console)
                .map_err(|error| Error::file(&console, error, "name the domain's console"))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::On {
            domain,
            command,
            deadline,
        }) => {
            log_to_stderr(tracing_subscriber::filter::LevelFilter::WARN);
            xen::on(&domain, &command.join(" "), deadline)
        }
        Some(Command::Lab(command)) => {
            check_sabotage(command.sabotage())?;
            match pv_lab::run(&command, &count_scenarios) {
                Err(LabError::Run(error)) => Err(error),
                Err(error) => {
                    complain(&error.to_string());
                    Ok(ExitCode::from(error.status()))
                }
                Ok(code) => Ok(code),
            }
        }
        Some(Command::Model { command }) => pv_models::cli::run(command),
        Some(Command::Conform(args)) => pv_conform::cli::run(&args, role::start_hand),
        Some(Command::ConformProcess { process }) => {
            pv_conform::process::run(process, role::start_hand)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Xenstore { command }) => {
            log_to_stderr(tracing_subscriber::filter::LevelFilter::INFO);
            pv_store::cli::run(&command)
        }
        Some(Command::Peers(args)) => {
            log_to_stderr(tracing_subscriber::filter::LevelFilter::INFO);
            pv_lab::peers::run(&args)
        }
        Some(Command::DirectFrontEnd(args)) => {
            log_to_stderr(tracing_subscriber::filter::LevelFilter::INFO);
            pv_lab::peers::direct_front::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Agent { assignment }) => {
            log_to_stderr(tracing_subscriber::filter::LevelFilter::INFO);
            role::run(&assignment)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn count_scenarios(names: &[String]) -> Result<usize> {
    scenario::chosen(names, PlatformKind::Xen).map(|chosen| chosen.len())
}

/// Before a machine is booted for it.
fn check_sabotage(name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    let sabotage = <RunSabotage as clap::ValueEnum>::from_str(name, false);
    let sabotage = sabotage.map_err(|_| Error::Usage(format!("there is no --sabotage {name}")))?;
    sabotage.check(PlatformKind::Xen)
}

fn list(json: bool) -> Result<ExitCode> {
    let scenarios: Vec<(&str, &str)> = scenario::all()
        .iter()
        .map(|s| (s.name(), s.summary()))
        .collect();
    let printed = if json {
        let list: Vec<_> = scenarios
            .iter()
            .map(|(name, summary)| serde_json::json!({ "name": name, "summary": summary }))
            .collect();
        writeln!(anstream::stdout(), "{}", serde_json::Value::Array(list))
    } else {
        print_listing(&scenarios, &mut anstream::stdout())
    };
    closed_pipe_is_fine(printed)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_lab_is_not_booted_for_a_sabotage_that_it_cannot_show() {
        assert!(check_sabotage(None).is_ok());
        assert!(check_sabotage(Some("map-behind-ledger")).is_ok());
        let refused = |name| check_sabotage(Some(name)).unwrap_err().to_string();
        assert!(refused("early-event").contains("simulated"));
        assert!(refused("nonsense").contains("no --sabotage nonsense"));
    }

    #[test]
    fn scenarios_come_with_commas_or_spaces() {
        let cli = Cli::parse_from([
            "pv-stress",
            "run",
            "--scenario",
            "copy",
            "a,b",
            "--seed",
            "3",
        ]);
        let Some(Command::Run(args)) = cli.command else {
            panic!()
        };
        assert_eq!(args.scenario, ["copy", "a", "b"]);
        assert_eq!(args.seed, Some(3));
    }
}
