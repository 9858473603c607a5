//! The command line of `pv-rivals`.

use crate::bench::{self, server::Which};
use crate::campaign::{self, HISTORY, Plan};
use crate::daemon::Rival;
use crate::error::{Result, RivalError};
use clap::{CommandFactory, Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Debian's xenstore daemons without Xen, and our server held against them
#[derive(Debug, Parser)]
#[command(name = "pv-rivals")]
pub struct Args {
    #[command(subcommand)]
    command: Ask,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// Fetches Debian's daemons into the cache
    Fetch {
        /// Of which Xen; all that there are if not given
        #[arg(long, value_name = "VERSION")]
        xen: Vec<String>,
        /// Where packages are kept
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
        /// Which mirror to fetch from
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
    },
    /// Sends random requests to a daemon and to our server, and compares all answers and events
    Run {
        /// Which daemon, such as xenstored-4.17; all that are kept if not given
        #[arg(long, value_name = "NAME")]
        daemon: Vec<String>,
        /// The first history's seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many requests to each daemon
        #[arg(long, default_value_t = 100_000)]
        requests: u64,
        /// Requests in one history, for which a daemon is started
        #[arg(long, default_value_t = HISTORY)]
        each: usize,
        /// Where packages are kept
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
    },
    /// Measures our server and Debian's daemons in the same run
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
struct BenchArgs {
    /// Which daemon to measure beside ours, such as xenstored-4.20; 4.17 and 4.20 that are kept if not given
    #[arg(long, value_name = "NAME")]
    daemon: Vec<String>,
    /// Our server's program; the one beside this program if not given
    #[arg(long, value_name = "PATH")]
    ours: Option<PathBuf>,
    /// Nodes of the large tree
    #[arg(long, default_value_t = 100_000)]
    nodes: usize,
    /// How often each row is measured, with all servers in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// For how many milliseconds each time
    #[arg(long, default_value_t = 300, value_name = "MS")]
    span: u64,
    /// Only rows whose names have this in them
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// All figures of all rounds, as JSON
    #[arg(long)]
    json: bool,
    /// Where packages are kept
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// The command line, for whoever wants to look at it.
pub fn command() -> clap::Command {
    Args::command()
}

/// Exit status 0: no difference that is not known; 1: one; 2: it could not be found out.
pub fn run(args: Args) -> ExitCode {
    let mut out = anstream::stdout();
    let result = match args.command {
        Ask::Fetch { xen, cache, mirror } => fetch(&xen, cache, mirror, &mut out),
        Ask::Run {
            daemon,
            seed,
            requests,
            each,
            cache,
        } => {
            let plan = Plan {
                seed,
                requests,
                each,
                sabotage: None,
            };
            compare(&daemon, plan, cache, &mut out)
        }
        Ask::Bench(args) => measure(args, &mut out),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // With standard error gone there is nobody to tell.
            let _ = writeln!(anstream::stderr(), "pv-rivals: {error}");
            ExitCode::from(2)
        }
    }
}

fn fetch(
    versions: &[String],
    cache: Option<PathBuf>,
    mirror: Option<String>,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let all: Vec<String> = if versions.is_empty() {
        let all = pv_lab::daemons::versions();
        all.into_iter().map(str::to_owned).collect()
    } else {
        versions.to_vec()
    };
    for version in all {
        let tree = pv_lab::daemons::fetch(&version, cache.as_deref(), mirror.as_deref())?;
        let _ = writeln!(out, "{version}: {}", tree.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(
    names: &[String],
    plan: Plan,
    cache: Option<PathBuf>,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let asked: Vec<Rival> = if names.is_empty() {
        Rival::all()
    } else {
        let named = names.iter().map(|name| Rival::named(name));
        named.collect::<Result<_, RivalError>>()?
    };
    let mut code = ExitCode::SUCCESS;
    for rival in asked {
        let Some(place) = rival.kept(cache.as_deref()) else {
            let _ = writeln!(
                out,
                "{rival}: skipped: it is not in the cache; fetch it with: pv-rivals fetch --xen {}",
                rival.version
            );
            if !names.is_empty() {
                code = ExitCode::from(2);
            }
            continue;
        };
        let tally = campaign::run(rival, &place, plan)?;
        let _ = writeln!(
            out,
            "{rival}: {} requests in {} histories, {} of them cut short by a known difference; hash {}",
            tally.requests, tally.histories, tally.ended, tally.hash
        );
        for (id, count) in &tally.explained {
            let _ = writeln!(out, "  known: {id}, {count} times");
        }
        if let Some(found) = tally.found {
            let _ = write!(out, "{}", found.lines(rival, plan.each));
            code = ExitCode::from(1);
        }
    }
    Ok(code)
}

fn measure(args: BenchArgs, out: &mut impl Write) -> Result<ExitCode> {
    let asked: Vec<Rival> = if args.daemon.is_empty() {
        let all = Rival::all().into_iter();
        all.filter(|rival| rival.version != "4.14").collect()
    } else {
        let named = args.daemon.iter().map(|name| Rival::named(name));
        named.collect::<Result<_, RivalError>>()?
    };
    let beside = std::env::current_exe().map_err(RivalError::file(Path::new("/proc/self/exe")))?;
    let ours = args
        .ours
        .unwrap_or_else(|| beside.with_file_name("pv-xenstored"));
    let mut servers = vec![Which::Ours(ours)];
    for rival in asked {
        match rival.kept(args.cache.as_deref()) {
            Some(place) => servers.push(Which::Rival(rival, place)),
            None => {
                let _ = writeln!(
                    anstream::stderr(),
                    "{rival}: left out: it is not in the cache; fetch it with: pv-rivals fetch --xen {}",
                    rival.version
                );
            }
        }
    }
    let plan = bench::Plan {
        nodes: args.nodes,
        rounds: args.rounds,
        span: Duration::from_millis(args.span),
        only: args.only,
    };
    let report = bench::run(servers, &plan, |row| {
        let _ = writeln!(anstream::stderr(), "{row}");
    })?;
    let _ = match args.json {
        true => writeln!(out, "{}", report.json()),
        false => write!(out, "{}", report.text()),
    };
    Ok(ExitCode::SUCCESS)
}
