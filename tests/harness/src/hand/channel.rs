//! Waiting on an event channel's file, without the library's event loop.

use super::failure::Failure;
use libgnt::EvtchnPort;
use libgnt::platform::Evtchn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Waits for events, and reads them; none if nothing came in time. They stay masked.
///
/// # Errors
/// The platform's, and poll's.
pub fn heard(file: &dyn Evtchn, wait: Duration) -> Result<Vec<EvtchnPort>, Failure> {
    let until = Instant::now() + wait;
    let mut ports = Vec::new();
    loop {
        if file.read(&mut ports)? > 0 {
            return Ok(ports);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !readable(file, left)? {
            // Nothing may have come between the last look and now.
            file.read(&mut ports)?;
            return Ok(ports);
        }
    }
}

/// True if the file polls readable in time.
///
/// # Errors
/// poll's.
pub fn readable(file: &dyn Evtchn, wait: Duration) -> Result<bool, Failure> {
    Ok(polled(file, wait)?.contains(PollFlags::IN))
}

/// What poll says of a file: what it waits for is input.
///
/// # Errors
/// poll's.
pub fn polled(file: &dyn Evtchn, wait: Duration) -> Result<PollFlags, Failure> {
    let failed = |errno| Failure::Call {
        call: "poll",
        errno,
    };
    let fd = file.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let wait = Timespec::try_from(wait).map_err(|_| failed(Errno::OVERFLOW))?;
    loop {
        match poll(&mut fds, Some(&wait)) {
            Ok(_) => return Ok(fds[0].revents()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}
