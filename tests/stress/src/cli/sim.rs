//! `pv-stress sim`: the host alone, for agents started by hand.

use super::log::log_to_stderr;
use libgnt::DomId;
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::sim::wire::XENSTORE_SOCKET;
use mio::{Events, Interest, Poll, Token};
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_harness::host;
use pv_harness::processes::Signals;
use pv_harness::settings::{Guest, Unmap, quote};
use pv_harness::timeline::Timeline;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The options of `sim`.
#[derive(Debug, clap::Args)]
pub struct SimArgs {
    /// The directory to serve: its sockets appear there, and go when the host ends
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// When the simulated kernels unmap: async as Linux since 5.19, sync as before
    #[arg(long, default_value = "async")]
    unmap: Unmap,
    /// What the domains are (default: pvh, and pv with --unmap sync)
    #[arg(long, value_name = "KIND")]
    guest: Option<Guest>,
    /// Domains to create beside dom0, as a toolstack would
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=1000))]
    domains: u16,
    /// How much to log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: tracing_subscriber::filter::LevelFilter,
}

pub(super) fn run(args: &SimArgs) -> Result<ExitCode> {
    log_to_stderr(args.log);
    let failed = |error| Error::environment("signals and polling", error, "see errno");
    // Before the host, so that a signal at any time ends it cleanly.
    let mut signals = Signals::register().map_err(failed)?;
    let mut poll = Poll::new().map_err(failed)?;
    poll.registry()
        .register(signals.source(), Token(0), Interest::READABLE)
        .map_err(failed)?;
    let mut config = Config::default();
    config.unmap = args.unmap.into();
    config.guest = args.guest.unwrap_or(Guest::usual(args.unmap)).into();
    let host = host::start(&args.dir, config, None, Timeline::none())
        .map_err(|error| Error::Usage(format!("--dir {}: {error}", args.dir.display())))?;
    create_domains(args).map_err(|error| Error::Usage(error.to_string()))?;
    closed_pipe_is_fine(instructions(&args.dir, &mut anstream::stdout()))?;
    let mut events = Events::with_capacity(8);
    while signals.caught().is_none() {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    host.stop()
        .map_err(|error| Error::environment("the host", error, "see its log"))?;
    Ok(ExitCode::SUCCESS)
}

/// They live as long as the host.
fn create_domains(args: &SimArgs) -> libgnt::Result<()> {
    let toolstack = SimPlatform::connect(&args.dir, Some(DomId::DOM0), "pv-stress sim", false)?;
    for number in 1..=args.domains {
        toolstack.create_domain(DomId(number), &format!("domain-{number}"))?;
    }
    Ok(())
}

/// How a person starts one of the agents' programs.
fn program(name: &str) -> String {
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(name));
    match beside {
        Some(path) if path.is_file() => quote(&path.display().to_string()),
        _ => format!("cargo run --release -p {name} --"),
    }
}

/// The commands for the other terminals.
fn instructions(dir: &Path, out: &mut dyn Write) -> std::io::Result<()> {
    let dir = std::path::absolute(dir)?.display().to_string();
    let at = format!("--platform {} ", quote(&format!("sim:{dir}")));
    let xenstored = quote(&format!("{dir}/{XENSTORE_SOCKET}"));
    let (back, front) = (program("pv-backend"), program("pv-frontend"));
    write!(
        out,
        "The simulated Xen serves {dir}, with domain 1 created. In other terminals:

  truncate -s 64M disk.img
  {back} attach {at}--front 1 --device xvda
  {back} serve {at}--front 1 --device xvda --image disk.img
  {front} copy {at}--domain 1 --device xvda --input some-file
  XENSTORED_PATH={xenstored} xenstore-ls

Ctrl-C ends it.
"
    )?;
    out.flush()
}
