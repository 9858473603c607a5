//! What can be written on the command line.

use clap::Parser;
use libgnt::DomId;
use pv_xenstore::Daemon;
use pv_xenstore::server::quota::QuotaSetting;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  A xenstore for Debian's tools (package xenstore-utils), in another terminal:
    pv-xenstored --socket ./xs.sock
    XENSTORED_PATH=./xs.sock xenstore-write /a/b value
    XENSTORED_PATH=./xs.sock xenstore-ls -f -p

  With a domain 1, whose programs connect to a socket of their own:
    pv-xenstored --socket ./xs.sock --domain 1=./dom1.sock

Exit status: 0 stopped by a signal, 1 failed while at work, 2 wrong usage or environment.";

/// Serve a xenstore on a socket, without Xen.
///
/// Who connects to the socket has dom0's rights, as with Xen's own xenstored. Ctrl-C or SIGTERM ends
/// it, and removes the socket.
#[derive(Debug, Parser)]
#[command(name = "pv-xenstored", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Where to listen for dom0. A socket that a dead server left is replaced. Only its owner may
    /// connect.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Where to keep the store, so that it outlives this program: clients that connect again find all
    /// as it was. Written at most five times a second, and at the end; a crash leaves the last whole one.
    /// Where it cannot be written (a full disk), it is tried again every second, and status 1 says that it was
    /// not written at the end.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Whose answers to give, where daemons differ: c-4.14, c-4.17 or c-4.20 for xenstored of that Xen, and
    /// o-4.14, o-4.17 or o-4.20 for its oxenstored; c-4.22 is from its documentation, and compared with no
    /// daemon.
    #[arg(long, default_value_t = Daemon::default(), value_name = "DAEMON")]
    pub(crate) daemon: Daemon,
    /// A limit on every domain but dom0, by xenstored's name for it: nodes, watches, outstanding, memory,
    /// transactions, transaction-nodes, node-permissions, path-max, node-size.
    #[arg(long, value_name = "NAME=NUMBER")]
    pub(crate) quota: Vec<QuotaSetting>,
    /// Let domains write as fast as they like. Else writes that can be in the way of others'
    /// transactions are limited, as xenstored limits them.
    #[arg(long)]
    pub(crate) no_write_limit: bool,
    /// A domain that is there from the start, and where its programs connect: they have its rights
    /// then. INTRODUCE makes more domains (without a ring: they can own nodes, and cannot connect).
    #[arg(long, value_name = "DOMID[=PATH]", value_parser = domain)]
    pub(crate) domain: Vec<Domain>,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter of `tracing`.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(crate) log: String,
}

/// The whole command line, for whoever holds documents against it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// One `--domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) domid: DomId,
    pub(crate) socket: Option<PathBuf>,
}

fn domain(text: &str) -> Result<Domain, String> {
    let (number, socket) = match text.split_once('=') {
        Some((_, "")) => return Err("a path has to follow the =".into()),
        Some((number, path)) => (number, Some(PathBuf::from(path))),
        None => (text, None),
    };
    let number: Option<u16> = number.parse().ok();
    match number.map(DomId) {
        Some(domid) if domid < DomId::FIRST_RESERVED && domid != DomId::DOM0 => {
            Ok(Domain { domid, socket })
        }
        _ => Err(format!(
            "a domain's number is 1 to {}",
            DomId::FIRST_RESERVED.0 - 1
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_number_and_perhaps_a_socket() {
        let of = |number, path: Option<&str>| Domain {
            domid: DomId(number),
            socket: path.map(PathBuf::from),
        };
        assert_eq!(domain("1"), Ok(of(1, None)));
        assert_eq!(domain("32751=a=b"), Ok(of(32751, Some("a=b"))));
        for wrong in ["", "0", "x", "1=", "32752", "70000", "-1", "=a"] {
            assert!(domain(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
