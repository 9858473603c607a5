//! What keeps a daemon from being tried.

use std::path::{Path, PathBuf};

/// This crate's result.
pub type Result<T, E = RivalError> = std::result::Result<T, E>;

/// Why a run ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum RivalError {
    /// A file, FIFO or socket of the daemon's world.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The daemon did not come up, or is gone.
    #[error("{daemon} {what}: {said}; its files were in {}", dir.display())]
    Daemon {
        /// Which.
        daemon: String,
        /// What happened to it.
        what: String,
        /// Its last words.
        said: String,
        /// Its world.
        dir: PathBuf,
    },
    /// The memory of a ring page.
    #[error("a ring page: {0}")]
    Ring(#[from] libgnt::Error),
    /// Its packages could not be had.
    #[error(transparent)]
    Packages(#[from] pv_lab::LabError),
    /// Our server's program is not there.
    #[error("{} is not there; build it: cargo build --release -p pv-xenstored", .0.display())]
    NotBuilt(PathBuf),
    /// A request that every daemon grants was refused.
    #[error("a daemon refused a request of the benchmark: {0}")]
    Refused(String),
    /// A daemon takes longer than anybody waits.
    #[error("a daemon is too slow")]
    Slow,
    /// Something of a benchmark could not be measured.
    #[error("{server}, {row}: {error}")]
    Row {
        /// Of which server.
        server: String,
        /// What.
        row: String,
        /// Why.
        error: Box<RivalError>,
    },
    /// No such daemon.
    #[error("no daemon {asked}; there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl RivalError {
    /// For `map_err` on a file operation.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> RivalError {
        let path = path.to_owned();
        move |error| RivalError::File { path, error }
    }
}
