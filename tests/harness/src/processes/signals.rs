//! Ctrl-C and SIGTERM as something to poll: a run ends its children, removes what it made, and
//! only then dies of the signal.

use mio::net::UnixStream;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The signals that end a run.
const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// The signal that came. Noted for the whole process and for good: one that comes while nobody
/// listens, between two scenarios, ends the run all the same.
static CAUGHT: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

fn caught_flag() -> io::Result<&'static Arc<AtomicUsize>> {
    if let Some(flag) = CAUGHT.get() {
        return Ok(flag);
    }
    let flag = Arc::new(AtomicUsize::new(0));
    for signal in ENDING {
        let number = usize::try_from(signal).unwrap_or(0);
        signal_hook::flag::register_usize(signal, flag.clone(), number)?;
    }
    // Should two threads come here at once, both flags are set by each signal.
    Ok(CAUGHT.get_or_init(|| flag))
}

/// Becomes readable at a signal.
#[derive(Debug)]
pub struct Signals {
    readable: UnixStream,
    caught: &'static Arc<AtomicUsize>,
    registered: Vec<signal_hook::SigId>,
}

impl Signals {
    /// Takes the signals over: they no longer end the process by themselves.
    ///
    /// # Errors
    /// What `sigaction` or `socketpair` say.
    pub fn register() -> io::Result<Signals> {
        // The flag first: who is woken by the pipe must find it set.
        let caught = caught_flag()?;
        let (readable, writable) = std::os::unix::net::UnixStream::pair()?;
        readable.set_nonblocking(true)?;
        let mut registered = Vec::new();
        for signal in ENDING {
            registered.push(signal_hook::low_level::pipe::register(
                signal,
                writable.try_clone()?,
            )?);
        }
        Ok(Signals {
            readable: UnixStream::from_std(readable),
            caught,
            registered,
        })
    }

    /// The signal that came, if one did.
    pub fn caught(&self) -> Option<i32> {
        match self.caught.load(Ordering::SeqCst) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// Empties the pipe after a wake-up.
    pub fn drain(&mut self) {
        let mut buffer = [0; 64];
        while matches!(self.readable.read(&mut buffer), Ok(n) if n > 0) {}
    }

    /// For registering with mio.
    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.readable
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
