//! The client's end of the byte stream: a Unix socket to the daemon, `/dev/xen/xenbus`, or a ring page
//! with an event channel. None of them ever waits but in [`Stream::wait`].

mod outbox;

mod outcome;

mod descriptor;

mod ring;

pub(crate) use outbox::Outbox;
pub(crate) use outcome::{Received, Sent};
pub(crate) use ring::Ring;
pub use ring::RingParts;

use crate::error::{Error, Result};
use descriptor::Descriptor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A connection's way to its daemon.
#[derive(Debug)]
pub(crate) enum Stream {
    Descriptor(Descriptor),
    Ring(Ring),
}

impl Stream {
    pub(crate) fn of_descriptor(fd: OwnedFd) -> Result<Stream> {
        Ok(Stream::Descriptor(Descriptor::new(fd)?))
    }

    /// The longest payload that one message can carry here.
    pub(crate) fn payload_max(&self) -> usize {
        match self {
            Stream::Descriptor(descriptor) => descriptor.payload_max(),
            Stream::Ring(_) => crate::wire::PAYLOAD_MAX_BYTES,
        }
    }

    /// Must a message be answered before the next one is sent?
    pub(crate) fn is_one_at_a_time(&self) -> bool {
        match self {
            Stream::Descriptor(descriptor) => descriptor.is_one_at_a_time(),
            Stream::Ring(_) => false,
        }
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    /// The stream is of no more use.
    pub(crate) fn send(&self, outbox: &mut Outbox) -> Result<Sent> {
        match self {
            Stream::Descriptor(descriptor) => descriptor.send(outbox),
            Stream::Ring(ring) => ring.send(outbox),
        }
    }

    /// Takes in what is there now. What was there before an error is taken in, too.
    ///
    /// # Errors
    /// The stream is of no more use.
    pub(crate) fn receive(&self, into: &mut Vec<u8>) -> Result<Received> {
        match self {
            Stream::Descriptor(descriptor) => descriptor.receive(into),
            Stream::Ring(ring) => ring.receive(into),
        }
    }

    /// Waits for something to receive, or (`to_send`) for room, or for the bell, or until the deadline.
    pub(crate) fn wait(&self, to_send: bool, bell: &OwnedFd, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let what = match self {
            Stream::Descriptor(_) if to_send => PollFlags::IN | PollFlags::OUT,
            // A ring's event channel rings for both.
            _ => PollFlags::IN,
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.as_fd(), what),
            PollFd::new(bell, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                let operation = "poll";
                return Err(Error::Io { operation, errno });
            }
        }
        if !fds[1].revents().is_empty() {
            // Whoever rang has said nothing else.
            let _ = rustix::io::read(bell, &mut [0_u8; 8]);
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Descriptor(descriptor) => descriptor.as_fd(),
            Stream::Ring(ring) => ring.as_fd(),
        }
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    // A year is as good as for ever, and fits everywhere.
    let duration = duration.min(Duration::from_secs(365 * 24 * 3600));
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    })
}
