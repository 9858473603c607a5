//! What stops a run before it has a verdict: wrong usage, or an environment that cannot run it.
//! Both leave the process with exit status 2.

use std::fmt::Display;
use std::path::Path;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing could be judged. Every message names the thing, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The machine refuses something that a run needs.
    #[error("{what}: {cause}; {cure}")]
    Environment {
        /// The thing.
        what: String,
        /// What was wrong with it.
        cause: String,
        /// What to do.
        cure: String,
    },
    /// A signal asked the run to end; everything has been cleaned up.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

/// What came of printing. Whoever reads our output may stop reading.
pub fn closed_pipe_is_fine(printed: std::io::Result<()>) -> Result<()> {
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::environment(
            "standard output",
            error,
            "redirect it elsewhere",
        )),
        _ => Ok(()),
    }
}

impl Error {
    /// Builds [`Error::Environment`].
    pub fn environment(what: impl Display, cause: impl Display, cure: impl Display) -> Error {
        Error::Environment {
            what: what.to_string(),
            cause: cause.to_string(),
            cure: cure.to_string(),
        }
    }

    /// An [`Error::Environment`] about a file or directory.
    pub fn file(path: &Path, cause: impl Display, cure: impl Display) -> Error {
        Error::environment(path.display(), cause, cure)
    }
}
