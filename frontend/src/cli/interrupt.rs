//! Signals: the first asks the command to end and bounds what it may take for that, the second
//! ends the process at once.

use super::context::Outcome;
use crossbeam::channel::{TryRecvError, bounded};
use libgnt::stop::Stop;
use pv_program::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What the command has beyond the time that the device's close may take.
const GRACE: Duration = Duration::from_millis(150);

/// Tells when it is dropped, by a panic too.
struct TellEnd(UnixStream);

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Nobody listens after a signal.
        let _ = self.0.write_all(b"e");
    }
}

/// Runs a command on a thread of its own: whatever it hangs on (a terminal, a pipe, xenstored, a
/// kernel), this one hears of signals and returns. The first signal asks `stop`, which closes the
/// device; the command then has `close`, and a little more.
pub(super) fn run(
    stop: &Stop,
    close: Duration,
    command: impl FnOnce() -> Outcome + Send + 'static,
) -> Outcome {
    let system = |e: std::io::Error| Failure::environment(format!("signal handler: {e}"));
    let (mut news, tell) = UnixStream::pair().map_err(system)?;
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal passes the first of these, and the second does not.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&signalled))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&signalled)))
            .and_then(|_| signal_hook::low_level::pipe::register(signal, tell.try_clone()?))
            .map_err(system)?;
    }
    let (sender, outcome) = bounded(1);
    let thread = std::thread::Builder::new()
        .name("command".into())
        .spawn(move || {
            let _tell = TellEnd(tell);
            // After a signal nobody may wait any more.
            let _ = sender.try_send(command());
        })
        .map_err(system)?;
    while let Err(error) = news.read_exact(&mut [0]) {
        if error.kind() != ErrorKind::Interrupted {
            return Err(system(error));
        }
    }
    match outcome.try_recv() {
        Ok(outcome) => return outcome,
        Err(TryRecvError::Disconnected) => {
            // It panicked: so does the program.
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        Err(TryRecvError::Empty) => {}
    }
    stop.ask_within(close);
    outcome.recv_timeout(close.saturating_add(GRACE)).unwrap_or_else(|_| {
        let message = "interrupted; the command waits for its input, its output or xenstored, and \
                       is not waited for: what is left of the device ends with this process";
        Err(Failure::at_work(message))
    })
}
