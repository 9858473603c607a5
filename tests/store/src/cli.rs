//! The command line: `pv-stress xenstore`.

use crate::histories::{self, Plan};
use crate::over::Over;
use crate::suite::SuiteArgs;
use crate::{cases, echo, suite};
use clap::Subcommand;
use libgnt::DomId;
use pv_harness::error::{Error, Result};
use pv_rivals::daemon::Rival;
use pv_suite::Many;
use std::process::ExitCode;
use std::time::Duration;

/// `pv-stress xenstore`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Run the client's cases on the daemon of this machine
    Cases {
        /// socket: dom0's; device: /dev/xen/xenbus; or a socket's path
        #[arg(long, value_name = "WAY", default_value = "socket")]
        over: String,
        /// A tenth of the requests, for a slow machine
        #[arg(long)]
        few: bool,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Send random requests to the daemon of this machine and to our server, and compare all answers and
    /// events
    Histories {
        /// socket: dom0's; device: /dev/xen/xenbus; or a socket's path
        #[arg(long, value_name = "WAY", default_value = "socket")]
        over: String,
        /// Which daemon it is, such as xenstored-4.17
        #[arg(long, value_name = "NAME")]
        daemon: String,
        /// The first history's seed
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// How many requests
        #[arg(long, value_name = "N", default_value_t = 2000)]
        requests: u64,
        /// Requests in one history
        #[arg(long, value_name = "N", default_value_t = 2000)]
        each: usize,
        /// Other domains that there are
        #[arg(long, value_name = "DOMID", num_args = 1..)]
        others: Vec<u16>,
        /// Runs that the search for the shortest history may take
        #[arg(long, value_name = "N", default_value_t = 200)]
        shrinking: usize,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Be the back end of the echo device until it is removed
    EchoBack {
        /// The front end's domain
        #[arg(long, value_name = "DOMID")]
        front: u16,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Be the front end of the echo device
    EchoFront {
        /// How many texts
        #[arg(long, value_name = "N", default_value_t = 100)]
        texts: u32,
        /// How long each may take to come back
        #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
        patience: Duration,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// All of it, in dom0; started by the lab
    #[command(hide = true)]
    Suite(SuiteArgs),
}

/// The whole command.
///
/// # Errors
/// Exit status 2: nothing could be found out.
pub fn run(command: &StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Cases { over, few, json } => {
            let many = if *few { Many::Few } else { Many::Usual };
            cases(&Over::named(over), many)?.print(*json)
        }
        StoreCommand::Histories {
            over,
            daemon,
            seed,
            requests,
            each,
            others,
            shrinking,
            json,
        } => {
            let rival = Rival::named(daemon).map_err(|error| Error::Usage(error.to_string()))?;
            let plan = Plan {
                over: Over::named(over),
                rival,
                seed: *seed,
                requests: *requests,
                each: *each,
                others: others.iter().copied().map(DomId).collect(),
                shrinking: *shrinking,
                sabotage: None,
            };
            histories::histories(&plan)?.print(*json)
        }
        StoreCommand::EchoBack { front, json } => echo::serve(DomId(*front))?.print(*json),
        StoreCommand::EchoFront {
            texts,
            patience,
            json,
        } => echo::echo(*texts, *patience)?.print(*json),
        StoreCommand::Suite(args) => suite::run(args),
    }
}
