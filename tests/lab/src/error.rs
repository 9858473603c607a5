//! What can keep a lab from running: the thing, the cause, the cure, in a line.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The lab's result.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program that the lab runs is not installed.
    #[error("{program} is not installed; run: {install}")]
    Missing {
        /// Which.
        program: &'static str,
        /// The command that installs it.
        install: &'static str,
    },
    /// A program that the lab runs failed.
    #[error("{doing} failed: {cause}; {cure}")]
    Failed {
        /// What it was to do.
        doing: String,
        /// What it said.
        cause: String,
        /// What to do.
        cure: String,
    },
    /// No mirror answers: what the lab needs cannot be had, whatever else is right.
    #[error(
        "{doing}: the mirror is out of reach: {cause}; check the network, or name another mirror with --mirror URL"
    )]
    OutOfReach {
        /// What was to be fetched.
        doing: String,
        /// What apt said.
        cause: String,
    },
    /// A file operation failed: a full disk, say.
    #[error("{path}: {error}{}", cure(.error))]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// An unknown version was asked for.
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    /// The command line or the report's directory will not do.
    #[error(transparent)]
    Run(#[from] pv_harness::error::Error),
    /// The machine booted, but did not get to where it should.
    #[error("{what}; the serial log is {log}\n{tail}")]
    Guest {
        /// What went wrong.
        what: String,
        /// Where all of it is.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
}

/// A version that no known release has.
#[derive(Debug, thiserror::Error)]
#[error("no {what} {asked}: the lab knows {}", .known.join(", "))]
pub struct UnknownVersion {
    pub(crate) what: &'static str,
    pub(crate) asked: String,
    pub(crate) known: Vec<&'static str>,
}

fn cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; make room, or name another place with --cache or --report"
        }
        _ => "",
    }
}

impl LabError {
    /// The exit status for this: 4 where only the network is missing, 2 for everything else.
    pub fn status(&self) -> u8 {
        match self {
            LabError::OutOfReach { .. } => 4,
            _ => 2,
        }
    }

    /// For `map_err` on a file operation.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> LabError {
        let path = path.to_owned();
        move |error| LabError::File { path, error }
    }
}
