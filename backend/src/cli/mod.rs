//! The command line: `pv-backend serve | attach | detach | status`.
//!
//! Exit status: 0 done, 1 failed while at work, 2 wrong usage or environment (arguments, no Xen,
//! an image that cannot be opened, a device that is not there).

mod values;

mod args;

mod cure;

mod commands;

pub use args::command;

use crate::config::BackConfig;
use crate::disk::Backing;
use crate::lend::PageLender;
use crate::observe::{BackEvent, BackEventKind};
use crate::run::Backend;
use args::{Cli, Command, ServeArgs};
use clap::Parser;
use libgnt::DomId;
use libgnt::observe::Observer;
use libgnt::stop::Stop;
use pv_program::{ENVIRONMENT, FAILED, Failure, end, start_log};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

/// The program: parses, runs, and says on standard error what went wrong. `args` begins with the
/// program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, None, None)
}

/// The same, with an observer and a lender for `serve`. Without an observer, events go to the log.
pub fn main_with(
    args: impl IntoIterator<Item = OsString>,
    observer: Option<Box<dyn Observer<BackEventKind>>>,
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
    end("pv-backend", result)
}

fn serve(
    args: ServeArgs,
    observer: Option<Box<dyn Observer<BackEventKind>>>,
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

impl Observer<BackEventKind> for LogObserver {
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
