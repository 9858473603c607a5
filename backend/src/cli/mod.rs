//! The command line: `pv-backend serve | attach | detach | status`.
//!
//! Exit status: 0 done, 1 failed while at work, 2 wrong usage or environment (arguments, no Xen,
//! an image that cannot be opened, a device that is not there).

mod commands;
mod cure;
mod values;

use crate::config::{BackConfig, Mode};
use crate::disk::{Backing, pool};
use crate::lend::PageLender;
use crate::machine::{DEFAULT_CACHE, DEFAULT_MAX_ZOMBIES};
use crate::observe::{BackEvent, Observer};
use crate::run::Backend;
use clap::{Args, Parser, Subcommand};
use libgnt::stop::Stop;
use libgnt::{DomId, Platform, PlatformChoice};
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Something went wrong while at work.
const FAILED: u8 = 1;
/// Wrong usage, or the environment does not have what is needed.
const ENVIRONMENT: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  Create xvda of domain 1, served from dom0, and serve it (Xen, as root):
    pv-backend attach --front 1 --device xvda
    pv-backend serve --front 1 --device xvda --image disk.img

  The same on a simulated Xen that `pv-stress sim --dir /tmp/xen` serves:
    pv-backend attach --platform sim:/tmp/xen --front 1 --device xvda
    pv-backend serve --platform sim:/tmp/xen --front 1 --device xvda --memory 64M

Exit status: 0 done, 1 failed while at work, 2 wrong usage or environment.";

#[derive(Debug, Parser)]
#[command(name = "pv-backend", about = "A Xen block back end in userspace", after_help = EXAMPLES)]
struct Cli {
    /// What to log on standard error: error, warn, info, debug, trace, or a filter of `tracing`.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

/// The whole command line, for whoever holds documents against it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a device until it is removed, or until Ctrl-C.
    ///
    /// The device must be in xenstore: `attach` puts it there, as a toolstack does. Ctrl-C or
    /// SIGTERM closes the device; a second one ends the process at once. After a crash, or SIGKILL,
    /// start it again: it takes over the ring of a front end that waits.
    #[command(after_help = EXAMPLES)]
    Serve(ServeArgs),
    /// Create a device in xenstore, as a toolstack does.
    Attach(AttachArgs),
    /// Remove a device: ask both ends to close it, then remove its nodes.
    ///
    /// Where its back end is, the toolstack's record says: what `attach` left in /pvpair, or what xl
    /// left in /libxl. An end that never connected is not waited for.
    Detach(DetachArgs),
    /// Show what xenstore says about a device.
    Status(DeviceArgs),
}

#[derive(Debug, Args)]
struct PlatformArgs {
    /// `linux` for the real /dev/xen, or `sim:DIR` for the simulated Xen that serves DIR.
    #[arg(long, default_value = "linux", value_name = "linux|sim:DIR")]
    platform: PlatformChoice,
    /// The domain that this process belongs to (simulated Xen only; a real one knows).
    #[arg(long, default_value_t = 0, value_name = "DOMID")]
    domain: u16,
}

#[derive(Debug, Args)]
struct DeviceArgs {
    #[command(flatten)]
    platform: PlatformArgs,
    /// The front end's domain.
    #[arg(long, value_name = "DOMID")]
    front: u16,
    /// The device: a name like xvda, or a number like 51712.
    #[arg(long, default_value = "xvda", value_name = "NAME|NUMBER")]
    device: DeviceId,
    /// The device's class. In one of its own, such as pvstress, no kernel's driver takes the device.
    #[arg(long, default_value_t = DeviceClass::VBD, value_name = "NAME")]
    class: DeviceClass,
    /// The back end's domain. Default: for `attach` the one this runs in, else what the toolstack's
    /// records say.
    #[arg(long, value_name = "DOMID")]
    back: Option<u16>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    platform: PlatformArgs,
    /// The front end's domain.
    #[arg(long, value_name = "DOMID")]
    front: u16,
    /// The device: a name like xvda, or a number like 51712.
    #[arg(long, default_value = "xvda", value_name = "NAME|NUMBER")]
    device: DeviceId,
    /// The device's class, as it was attached.
    #[arg(long, default_value_t = DeviceClass::VBD, value_name = "NAME")]
    class: DeviceClass,
    #[command(flatten)]
    backing: BackingArgs,
    /// Refuse writes, as for a device that the toolstack has made read-only (`mode` in xenstore). The
    /// image is then opened for reading only, and may be shared with readers.
    #[arg(long)]
    read_only: bool,
    /// How data travels: persistent grants if the front has them, else a map for each request
    /// (auto); a map for each request; grant copy; persistent grants.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Unmaps that may be outstanding before no more requests are taken.
    #[arg(long, default_value_t = DEFAULT_MAX_ZOMBIES, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    max_zombies: usize,
    /// Persistent grants to keep mapped.
    #[arg(long, default_value_t = DEFAULT_CACHE, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(352..=4096))]
    cache: usize,
    /// Threads for an image's I/O.
    #[arg(long, default_value_t = pool::DEFAULT_THREADS, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    disk_threads: usize,
    /// How long to poll for more requests before sleeping, in microseconds; 0 never polls.
    #[arg(long, default_value_t = 50, value_name = "MICROSECONDS",
          value_parser = clap::value_parser!(u64).range(..=10_000))]
    spin: u64,
    /// How long the front end may take to close after Ctrl-C or SIGTERM; then it is left alone.
    #[arg(long, default_value = "0.5", value_name = "SECONDS", value_parser = values::seconds)]
    close_deadline: Duration,
    /// At Ctrl-C or SIGTERM leave a ring in service as it is, for the next back end to go on with: for
    /// an upgrade, or `systemctl restart`. The guest notices a pause. Until somebody serves the
    /// device again, its requests wait.
    #[arg(long, conflicts_with = "memory")]
    hand_over: bool,
    /// Where the device is claimed, and requests in flight are recorded, so that a back end that is
    /// started again after a crash goes on where this one was. All back ends of a domain must have
    /// the same: in a container, mount the host's. Default: /run.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct BackingArgs {
    /// A regular file or a block device.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Memory of this process instead, gone with it: 64M, 1G.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    memory: Option<u64>,
}

#[derive(Debug, Args)]
struct AttachArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Create a read-only device: `serve` refuses its writes.
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, Args)]
struct DetachArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// How long the ends may take to close, in seconds. After it the nodes are removed all the same.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    deadline: u64,
}

/// An error on its way to a person, with the exit status it deserves.
#[derive(Debug)]
struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    fn at_work(error: impl std::fmt::Display) -> Self {
        Failure {
            status: FAILED,
            text: error.to_string(),
        }
    }

    fn environment(error: impl std::fmt::Display) -> Self {
        Failure {
            status: ENVIRONMENT,
            text: error.to_string(),
        }
    }
}

/// The program: parses, runs, and says on standard error what went wrong. `args` begins with the
/// program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, None, None)
}

/// The same, with an observer and a lender for `serve`. Without an observer, events go to the log.
pub fn main_with(
    args: impl IntoIterator<Item = OsString>,
    observer: Option<Box<dyn Observer>>,
    lender: Option<Box<dyn PageLender>>,
) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come here too, for standard output and status 0.
            let status = if error.use_stderr() { ENVIRONMENT } else { 0 };
            if error.print().is_err() {
                return ExitCode::from(FAILED);
            }
            return ExitCode::from(status);
        }
    };
    let result = start_log(&cli.log).and_then(|()| match cli.command {
        Command::Serve(args) => serve(args, observer, lender),
        Command::Attach(args) => commands::attach(&args),
        Command::Detach(args) => commands::detach(&args),
        Command::Status(args) => commands::status(&args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { status, text }) => {
            eprintln!("pv-backend: {text}");
            ExitCode::from(status)
        }
    }
}

fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Failure::environment(format!("--log {filter}: {e}; use a level like info")))?;
    // Somebody who embeds this may have set up a log: that one is used, then.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    Ok(())
}

impl PlatformArgs {
    fn open(&self, process: &str) -> Result<Arc<dyn Platform>, Failure> {
        libgnt::open(&self.platform, Some(DomId(self.domain)), process)
            .map_err(|error| error.with_cure("`pv-stress sim --dir DIR` starts a simulated Xen"))
            .map_err(Failure::environment)
    }
}

fn serve(
    args: ServeArgs,
    observer: Option<Box<dyn Observer>>,
    lender: Option<Box<dyn PageLender>>,
) -> Result<(), Failure> {
    let backing = match (args.backing.image, args.backing.memory) {
        (Some(image), _) => Backing::File(image),
        (None, bytes) => Backing::Memory {
            bytes: bytes.unwrap_or(0),
        },
    };
    let stop = Stop::new();
    stop_on_signals(stop.clone())?;
    let platform = args.platform.open("pv-backend")?;
    let mut config = BackConfig::new(platform, DomId(args.front), args.device, backing);
    config.class = args.class;
    config.read_only = args.read_only;
    config.mode = args.mode;
    config.max_zombies = args.max_zombies;
    config.cache = args.cache;
    config.disk_threads = args.disk_threads;
    config.spin = Duration::from_micros(args.spin);
    config.close = args.close_deadline;
    config.hand_over = args.hand_over;
    config.run_dir = args.run_dir;
    config.stop = stop;
    config.observer = observer.or_else(|| Some(Box::new(LogObserver)));
    config.lender = lender;
    let backend = Backend::open(config).map_err(|error| Failure::environment(cure::of(&error)))?;
    backend
        .run()
        .map_err(|error| Failure::at_work(cure::of(&error)))
}

/// The first signal closes the device, the second ends the process.
fn stop_on_signals(stop: Stop) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| Failure::environment(format!("cannot listen for signals: {e}")))?;
    let listen = move || {
        for signal in signals.forever() {
            if stop.is_asked() {
                eprintln!("pv-backend: a second signal ({signal}): the device is not closed");
                std::process::exit(i32::from(FAILED));
            }
            stop.ask();
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .map(drop)
        .map_err(|e| Failure::environment(format!("cannot start a thread: {e}")))
}

/// Events in the log: each request's at trace, the rest at debug, for the loop logs what matters.
struct LogObserver;

impl Observer for LogObserver {
    fn event(&mut self, event: BackEvent) {
        if event.kind.is_rare() {
            tracing::debug!(event = ?event.kind);
        } else {
            tracing::trace!(event = ?event.kind);
        }
    }

    fn each_request(&self) -> bool {
        tracing::enabled!(tracing::Level::TRACE)
    }
}
