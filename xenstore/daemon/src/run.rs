//! Starts the server, and waits for a signal.

use crate::args::Cli;
use clap::Parser;
use pv_program::{ENVIRONMENT, FAILED, Failure, end, start_log};
use pv_xenstore::server::quota::Quotas;
use pv_xenstore::server::rate::WriteRate;
use pv_xenstore::{DomainSocket, ServerConfig, ServerHandle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::process::ExitCode;

/// The program: parses, serves, and says on standard error what went wrong. `args` begins with the
/// program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            eprintln!("pv-xenstored: {}", in_one_line(&error));
            return ExitCode::from(ENVIRONMENT);
        }
        // Help and version come here too, for standard output.
        Err(error) => {
            return ExitCode::from(if error.print().is_err() { FAILED } else { 0 });
        }
    };
    end("pv-xenstored", serve(cli))
}

/// What clap says in a paragraph.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    format!("{}; see `pv-xenstored --help`", said.join(" "))
}

fn serve(cli: Cli) -> Result<(), Failure> {
    start_log(&cli.log)?;
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| Failure::environment(format!("cannot listen for signals: {e}")))?;
    let mut config = ServerConfig::default();
    config.socket = Some(cli.socket.clone());
    config.daemon = cli.daemon;
    config.quotas = Quotas::of(cli.daemon);
    config.state = cli.state;
    for setting in &cli.quota {
        config.quotas.set(setting);
    }
    config.write_rate = (!cli.no_write_limit).then(WriteRate::default);
    for domain in &cli.domain {
        if let Some(path) = &domain.socket {
            config
                .domain_sockets
                .push(DomainSocket::new(domain.domid, path.clone()));
        }
    }
    let server = ServerHandle::start(config).map_err(Failure::environment)?;
    for domain in &cli.domain {
        server
            .introduce(domain.domid, &format!("Domain-{}", domain.domid.0))
            .map_err(Failure::at_work)?;
    }
    tracing::info!(socket = %cli.socket.display(), daemon = %cli.daemon, "listening");
    let stops = server.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                stops.stop();
            }
        })
        .map_err(|e| Failure::environment(format!("cannot start a thread: {e}")))?;
    server.wait().map_err(Failure::at_work)
}
