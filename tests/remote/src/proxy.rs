//! A process in dom0 that stands for one in a domain: its control socket, its end, and its death
//! are the other's.

use pv_harness::error::{Error, Result};
use pv_harness::processes::{Control, Start, die_with_parent};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The first line on the relay's socket: what it is asked to start. The timeline is where the process's
/// records go here.
pub(super) type ToStart = Start<serde_json::Value>;

/// From the relay, one a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProxy {
    /// For our control socket.
    News(String),
    /// It ended with this status.
    Code(i32),
    /// It ended by this signal.
    Signal(i32),
    /// There is no process, and why.
    Refused(String),
}

/// Stands for a process of this name and assignment in another domain, until its end, and ends as it
/// did.
///
/// # Errors
/// The relay is gone, or refuses.
pub fn stand_for(start: &ToStart, relay: &Path) -> Result<()> {
    let failed = |cause: String| Error::environment(&start.name, cause, "see the domain's console");
    match until_end(start, relay).map_err(|error| failed(error.to_string()))? {
        ToProxy::News(_) | ToProxy::Code(0) => Ok(()),
        ToProxy::Code(code) => std::process::exit(code),
        ToProxy::Signal(signal) => {
            let died = signal_hook::low_level::emulate_default_handler(signal);
            Err(failed(format!(
                "it was killed by signal {signal}; dying of it here: {died:?}"
            )))
        }
        ToProxy::Refused(why) => Err(failed(why)),
    }
}

fn until_end(start: &ToStart, relay: &Path) -> io::Result<ToProxy> {
    die_with_parent(start.parent)?;
    let control = Control::from_stdin()?;
    let mut stream = UnixStream::connect(relay)?;
    writeln!(stream, "{}", serde_json::to_string(start)?)?;
    let mut from_relay = BufReader::new(stream.try_clone()?);
    loop {
        let mut fds = [
            PollFd::new(&control, PollFlags::IN),
            PollFd::new(&stream, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        let (orders, news) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if orders {
            while let Some(order) = control.try_recv::<serde_json::Value>()? {
                writeln!(stream, "{order}")?;
            }
        }
        if news {
            // Whole lines: the relay writes each at once. What is buffered would not wake the poll.
            loop {
                let mut line = String::new();
                if from_relay.read_line(&mut line)? == 0 {
                    return Err(io::Error::other("the run's relay is gone"));
                }
                match serde_json::from_str(&line)? {
                    ToProxy::News(news) => {
                        control.send(&serde_json::from_str::<serde_json::Value>(&news)?)?;
                    }
                    end => return Ok(end),
                }
                if from_relay.buffer().is_empty() {
                    break;
                }
            }
        }
    }
}
