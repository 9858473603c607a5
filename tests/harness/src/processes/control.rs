//! What a run and its child processes say to each other: a socket pair, the child's end of which
//! is its standard input. Each message is one packet of JSON. The child's end closing is the
//! run's end for it, so a child never outlives a run that vanished.

use super::Fact;
use crate::hand::{self, Answer};
use libgnt::grant::Totals;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// No message is longer.
const MAX_MESSAGE: usize = 64 << 10;

/// From a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// Ready for whatever comes next: the host listens, the back end waits for its peer...
    Ready,
    /// Work done so far, in bytes.
    Progress {
        /// So much.
        done: u64,
        /// Of so much.
        total: u64,
    },
    /// Something a scenario waits for, or judges by.
    Fact(Fact),
    /// What the child still has mapped, unmapping or granted, by its own ledger.
    Ledger {
        /// One sentence an entry, for people; empty when nothing is left.
        entries: Vec<String>,
        /// What it has mapped and given back in all.
        totals: Totals,
    },
    /// A hand's answer to an order.
    Answer(Answer),
}

/// To a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Finish cleanly.
    Stop,
    /// For a process that plays a hand.
    Hand(hand::Order),
}

/// One end.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
}

impl Control {
    /// Both ends, non-blocking.
    ///
    /// # Errors
    /// What `socketpair` says.
    pub fn pair() -> io::Result<(Control, Control)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Control { fd: a }, Control { fd: b }))
    }

    /// The child's end.
    ///
    /// # Errors
    /// If standard input is no such socket: the process was not started by a run.
    pub fn from_stdin() -> io::Result<Control> {
        let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&fd) != Ok(SocketType::SEQPACKET) {
            return Err(io::Error::other(
                "standard input is not a run's control socket: `pv-stress agent` is for pv-stress itself, use `pv-stress run`",
            ));
        }
        Ok(Control { fd })
    }

    /// Another handle on the same end.
    ///
    /// # Errors
    /// What `dup` says.
    pub fn try_clone(&self) -> io::Result<Control> {
        Ok(Control {
            fd: self.fd.try_clone()?,
        })
    }

    /// The descriptor, for the child's standard input.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends a message. Progress that the reader has no room for is dropped: more will follow.
    ///
    /// # Errors
    /// What `send` says; the other end is gone.
    pub fn send<M: Serialize>(&self, message: &M) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(io::Error::other(format!(
                "a message of {} bytes",
                bytes.len()
            )));
        }
        loop {
            match send(&self.fd, &bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// The next message, if one is there. `Ok(None)`: not yet.
    ///
    /// # Errors
    /// `UnexpectedEof`: the other end is gone. `InvalidData`: nonsense.
    pub fn try_recv<M: DeserializeOwned>(&self) -> io::Result<Option<M>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno.into()),
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((n, whole)) if n == whole => {
                    return Ok(Some(serde_json::from_slice(&buffer[..n])?));
                }
                Ok((_, whole)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("a message of {whole} bytes"),
                    ));
                }
            }
        }
    }

    /// The next message, waiting for it.
    ///
    /// # Errors
    /// As [`Control::try_recv`].
    pub fn recv<M: DeserializeOwned>(&self) -> io::Result<M> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            if let Some(message) = self.try_recv()? {
                return Ok(message);
            }
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_borders_and_the_end_is_seen() {
        let (a, b) = Control::pair().unwrap();
        assert!(b.try_recv::<News>().unwrap().is_none());
        a.send(&News::Ready).unwrap();
        a.send(&News::Progress { done: 1, total: 2 }).unwrap();
        assert_eq!(b.try_recv::<News>().unwrap(), Some(News::Ready));
        assert_eq!(
            b.recv::<News>().unwrap(),
            News::Progress { done: 1, total: 2 }
        );
        drop(a);
        assert_eq!(
            b.try_recv::<News>().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        let (a, b) = Control::pair().unwrap();
        a.send(&"what?").unwrap();
        assert!(b.try_recv::<Order>().is_err());
    }
}
