//! The client side's error: which path, which operation, why, and what to do.

use rustix::io::Errno;
use std::time::Duration;

/// The client side's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a client and its xenstore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused a request.
    #[error("xenstore {operation} {path}: {errno}{}{}", Said(.said.as_deref()), Cure(*.errno))]
    Refused {
        /// `read`, `write`, ….
        operation: &'static str,
        /// On what.
        path: String,
        /// The server's reason.
        errno: Errno,
        /// The server's own word for it, where that is none of the names that xenstore knows
        /// ([`crate::wire::named`]).
        said: Option<String>,
    },
    /// The server is older than this, or of another make, and it was not asked for it.
    #[error("the xenstore server does not offer {what}")]
    NotOffered {
        /// What it lacks.
        what: &'static str,
    },
    /// As many requests as one connection carries are without an answer, or with one that nobody
    /// has taken.
    #[error("{limit} xenstore requests are in flight on this connection; take their answers first")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The server did not answer in time. The connection stays usable: a late answer is dropped.
    #[error("xenstore {operation} {path}: no answer after {waited:?}; is the server running?")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// On what.
        path: String,
        /// How long.
        waited: Duration,
    },
    /// The connection is gone; this client is of no more use.
    #[error("the xenstore connection is gone ({cause}); connect again")]
    Disconnected {
        /// What happened.
        cause: String,
    },
    /// The server broke the protocol.
    #[error("the xenstore server's answer to {operation} {path} makes no sense: {what}")]
    Protocol {
        /// What was asked.
        operation: &'static str,
        /// On what.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A node holds something else than it should.
    #[error("xenstore node {path} holds \"{value}\", which is no {expected}")]
    BadValue {
        /// The node.
        path: String,
        /// What is there, as [`crate::value::shown`].
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A transaction met other writers each time.
    #[error(
        "xenstore transaction: still in conflict with other writers after {attempts} attempts; try again later"
    )]
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// More different watch events came than the queue holds; some are lost. Read again whatever
    /// is watched.
    #[error(
        "more than {limit} watch events were left unread and some are lost; read the watched nodes again"
    )]
    EventsLost {
        /// The queue's limit.
        limit: usize,
    },
    /// A system call on the connection failed.
    #[error("xenstore connection, {operation}: {errno}")]
    Io {
        /// The system call.
        operation: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// A device is not there, or not as it has to be for this.
    #[error("{text}")]
    Device {
        /// What is wrong. A program can add how to mend it with its own commands.
        trouble: DeviceTrouble,
        /// Which device, where, and what to do.
        text: String,
    },
    /// The platform has no xenstore for us.
    #[error(transparent)]
    Platform(#[from] libgnt::Error),
    /// An argument, or a state of things, that the operation cannot work with.
    #[error("{0}")]
    Invalid(String),
}

/// What is wrong with a device, as [`Error::Device`] says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceTrouble {
    /// Neither of its two directories is there: it has to be created first.
    NotThere,
    /// The domain of its back end was given, but a toolstack's record names another one, which is there.
    OtherBack,
    /// Nothing says where its back end is: the domain has to be given.
    BackUnknown,
    /// The back end of an earlier device of this number is still there, and has to be removed first.
    LeftBehind,
}

impl Error {
    /// The errno behind this error, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } | Error::Io { errno, .. } => Some(*errno),
            Error::Platform(error) => error.errno(),
            _ => None,
        }
    }

    /// The node, or the directory above it, is not there, or not there for this domain: a domain
    /// that loses sight of another's directory because it was removed gets EACCES, not ENOENT.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Error::Refused {
                errno: Errno::NOENT | Errno::ACCESS,
                ..
            }
        )
    }
}

/// A word that no other program would say.
struct Said<'a>(Option<&'a str>);

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(said) => write!(f, " (the server said \"{said}\")"),
            None => Ok(()),
        }
    }
}

struct Cure(Errno);

impl std::fmt::Display for Cure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Errno::ACCESS => "; have the node's owner or dom0 allow it (xenstore-chmod)",
            Errno::PERM => "; only dom0 can change a node's owner",
            Errno::NOSPC | Errno::DQUOT => "; a quota of this domain is used up: remove nodes or transactions, or raise the quota in dom0",
            Errno::TOOBIG => "; too long, or too many watches: xenstore takes 4096 bytes a message and 128 watches a domain",
            Errno::INVAL => "; a path is letters, digits and -/_@, at most 2048 bytes",
            Errno::EXIST => "; it is there already",
            _ => "",
        })
    }
}
