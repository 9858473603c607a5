//! The raw disk that dom0 writes its results to: a place for the machine, and one for each suite.

use crate::error::{LabError, Result};
use std::fs::File;
use std::path::Path;

/// The place of the machine's own logs.
pub const MACHINE: u64 = 0;
/// How far places are apart, as in `run-suites.sh`; the file is sparse.
pub const PLACE_BYTES: u64 = 128 << 20;

/// The place of a suite's results on the disk; the machine's own come first.
pub fn place(suite: usize) -> u64 {
    suite as u64 + 1
}

/// Makes an empty disk with room for so many suites.
///
/// # Errors
/// What the file system says.
pub fn make(path: &Path, suites: usize) -> Result<()> {
    let disk = File::create(path).map_err(LabError::file(path))?;
    disk.set_len(PLACE_BYTES * (suites as u64 + 1))
        .map_err(LabError::file(path))
}
