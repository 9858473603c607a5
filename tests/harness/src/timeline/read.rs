//! Reading timelines back.

use super::Record;
use std::io;
use std::path::Path;

/// Reads one process's file. A last line without its end (a killed process) is dropped.
///
/// # Errors
/// What `read` says; `InvalidData` for a complete line that is no record.
pub fn read_file(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = std::fs::read(path)?;
    let mut records = Vec::new();
    for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else {
            break;
        };
        let record = serde_json::from_slice(line).map_err(|error| {
            let at = format!("{}, line {}: {error}", path.display(), number + 1);
            io::Error::new(io::ErrorKind::InvalidData, at)
        })?;
        records.push(record);
    }
    Ok(records)
}

/// Puts several timelines into one, by time.
pub fn merge(timelines: Vec<Vec<Record>>) -> Vec<Record> {
    let mut all: Vec<Record> = timelines.into_iter().flatten().collect();
    // Stable: events of one process with the same stamp stay in their order.
    all.sort_by_key(|record| record.ns);
    all
}
