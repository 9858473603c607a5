//! Why the service fails.

use super::super::state::BadState;
use std::io;
use std::path::PathBuf;

/// Why the service does not start, or no longer answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Another server answers on the socket.
    #[error("another xenstore server listens on {0}; stop it, or use another directory")]
    InUse(PathBuf),
    /// The path is taken by something that is no socket.
    #[error("{0} is there and is no socket; remove it, or use another directory")]
    NotASocket(PathBuf),
    /// The file of the kept state holds none.
    #[error(
        "{path} holds no state of a xenstore server: {cause}; remove it to begin with an empty store"
    )]
    BadState {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: BadState,
    },
    /// A system call failed.
    #[error("{operation} for the xenstore server{}: {source}", At(.path))]
    Io {
        /// Which.
        operation: &'static str,
        /// On what file.
        path: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
    /// The thread has ended.
    #[error("the xenstore server has stopped")]
    Stopped,
}

struct At<'a>(&'a Option<PathBuf>);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |path| write!(f, " on {}", path.display()))
    }
}
