//! Which processor of this machine a QEMU runs on.

use crate::error::{LabError, Result};
use crate::fetch::cache::Cache;
use rustix::thread::{CpuSet, sched_getaffinity};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A processor of this machine for one QEMU, as long as this lives. Labs with one cache take
/// different ones, if there are enough.
#[derive(Debug)]
pub struct Processor {
    /// Its number.
    pub number: usize,
    /// Nobody else took it.
    pub is_alone: bool,
    _lock: Option<File>,
}

impl Processor {
    /// Takes one that we may run on, the last first.
    ///
    /// # Errors
    /// The kernel does not say which those are.
    pub fn take(cache: &Cache) -> Result<Processor> {
        let ours = sched_getaffinity(None)
            .map_err(|errno| LabError::file(Path::new("sched_getaffinity"))(errno.into()))?;
        let ours = (0..CpuSet::MAX_CPU).rev().filter(|cpu| ours.is_set(*cpu));
        let mut last = None;
        for number in ours {
            last.get_or_insert(number);
            let path: PathBuf = cache.path(format!("processor-{number}.lock"));
            let lock = File::create(&path).map_err(LabError::file(&path))?;
            if lock.try_lock().is_ok() {
                return Ok(Processor {
                    number,
                    is_alone: true,
                    _lock: Some(lock),
                });
            }
        }
        Ok(Processor {
            number: last.unwrap_or(0),
            is_alone: false,
            _lock: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_take_different_processors_and_share_when_there_are_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let all = sched_getaffinity(None).unwrap().count() as usize;
        let taken: Vec<Processor> = (0..all).map(|_| Processor::take(&cache).unwrap()).collect();
        let mut numbers: Vec<usize> = taken.iter().map(|p| p.number).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        assert!(taken.iter().all(|p| p.is_alone));
        let more = Processor::take(&cache).unwrap();
        assert!(!more.is_alone && more.number == taken[0].number);
        drop(taken);
        assert!(Processor::take(&cache).unwrap().is_alone);
    }
}
