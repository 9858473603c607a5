//! What each process did and when: the evidence that the judges read.
//!
//! One file a process, one JSON object a line, stamped with `CLOCK_MONOTONIC`, which all
//! processes of a machine share. A line is one `write`, so a process that is killed loses at most
//! the line it was writing. Files are bounded; a full one says so in its last line, and judges
//! refuse a timeline that ends that way.

mod event;
mod kernel;
mod read;

pub use event::{Event, IoKind};
pub use kernel::{KernelCounts, KernelEvent};
pub use read::{merge, read_file};

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A timeline file's limit. A request writes about 1 KiB in all processes together.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ns: u64,
    /// The process's name.
    pub process: String,
    /// Its pid.
    pub pid: u32,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Where a process writes its events. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct Timeline {
    inner: Option<Arc<Mutex<Inner>>>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    process: String,
    pid: u32,
    written: u64,
    limit: u64,
    full: bool,
}

impl Timeline {
    /// Begins a file; an existing one is continued.
    ///
    /// # Errors
    /// What `open` says.
    pub fn create(path: &Path, process: &str) -> io::Result<Timeline> {
        Self::with_limit(path, process, MAX_FILE_BYTES)
    }

    fn with_limit(path: &Path, process: &str, limit: u64) -> io::Result<Timeline> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        let inner = Inner {
            file,
            process: process.to_owned(),
            pid: std::process::id(),
            written,
            limit,
            full: false,
        };
        Ok(Timeline {
            inner: Some(Arc::new(Mutex::new(inner))),
        })
    }

    /// One that forgets everything.
    pub fn none() -> Timeline {
        Timeline { inner: None }
    }

    /// Records an event, now.
    pub fn log(&self, event: Event) {
        // Stamped under the lock, so that a file's lines are in order.
        self.append(now_ns, event);
    }

    /// Records what happened at an earlier moment of the same clock.
    pub fn log_at(&self, ns: u64, event: Event) {
        self.append(|| ns, event);
    }

    fn append(&self, stamp: impl FnOnce() -> u64, event: Event) {
        let Some(inner) = &self.inner else { return };
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        let ns = stamp();
        if let Err(error) = inner.append(ns, event) {
            tracing::warn!(%error, "timeline: stops here");
            inner.full = true;
        }
    }

    /// Says what the process is about to wait for.
    pub fn waiting(&self, what: impl Into<String>) {
        self.log(Event::Waiting { what: what.into() });
    }
}

impl Inner {
    fn append(&mut self, ns: u64, event: Event) -> io::Result<()> {
        /// Kept free for the line that says the file is full.
        const RESERVE: u64 = 256;
        if self.full {
            return Ok(());
        }
        let mut line = self.line(ns, event)?;
        if self.written + line.len() as u64 + RESERVE > self.limit {
            self.full = true;
            line = self.line(ns, Event::Truncated)?;
        }
        self.file.write_all(&line)?;
        self.written += line.len() as u64;
        Ok(())
    }

    fn line(&self, ns: u64, event: Event) -> io::Result<Vec<u8>> {
        let record = Record {
            ns,
            process: self.process.clone(),
            pid: self.pid,
            event,
        };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is ever negative for this clock.
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::types::ForeignGrant;

    #[test]
    fn what_is_written_is_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let timeline = Timeline::create(&path, "back-end").unwrap();
        let grants = vec![ForeignGrant {
            domid: libgnt::DomId(1),
            gref: libgnt::GrantRef(0x200),
        }];
        timeline.log(Event::Mapped {
            request: 7,
            id: 70,
            grants: grants.clone(),
        });
        timeline.clone().log(Event::Released { request: 7 });
        let read = read_file(&path).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(
            read[0].event,
            Event::Mapped {
                request: 7,
                id: 70,
                grants
            }
        );
        assert!(read[0].ns <= read[1].ns);
        assert_eq!(
            (read[1].process.as_str(), read[1].pid),
            ("back-end", std::process::id())
        );
    }

    #[test]
    fn what_a_kernel_did_is_recorded_at_the_kernels_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let timeline = Timeline::create(&path, "observer").unwrap();
        let first = libgnt::types::ForeignGrant {
            domid: libgnt::DomId(1),
            gref: libgnt::GrantRef(0x200),
        };
        let unmapped = KernelEvent::Unmapped {
            first: Some(first),
            pages: 11,
            after_ns: 1_000_000_000,
            put_off: 20,
        };
        let counts = KernelCounts {
            late: vec![first.gref],
            ..KernelCounts::default()
        };
        let events = [unmapped, KernelEvent::Counted(counts)].map(Event::Kernel);
        for event in &events {
            timeline.log_at(7, event.clone());
        }
        let read = read_file(&path).unwrap();
        assert!(read.iter().all(|record| record.ns == 7));
        let read: Vec<Event> = read.into_iter().map(|record| record.event).collect();
        assert_eq!(read, events);
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_garbage_in_the_middle_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let timeline = Timeline::create(&path, "x").unwrap();
        timeline.log(Event::Finished);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..10]].concat()).unwrap();
        assert_eq!(read_file(&path).unwrap().len(), 1);
        std::fs::write(&path, [&whole[..10], b"\n", &whole[..]].concat()).unwrap();
        assert!(read_file(&path).is_err());
    }

    #[test]
    fn a_full_file_says_so_once_and_stays_within_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let timeline = Timeline::with_limit(&path, "x", 2000).unwrap();
        for _ in 0..100 {
            timeline.log(Event::Note {
                text: "something".into(),
            });
        }
        let read = read_file(&path).unwrap();
        assert_eq!(read.last().unwrap().event, Event::Truncated);
        assert_eq!(
            read.iter().filter(|r| r.event == Event::Truncated).count(),
            1
        );
        assert!(std::fs::metadata(&path).unwrap().len() <= 2000);
    }

    #[test]
    fn merged_timelines_are_in_order_of_time() {
        let record = |ns| Record {
            ns,
            process: "p".into(),
            pid: 1,
            event: Event::Finished,
        };
        let merged = merge(vec![vec![record(1), record(5)], vec![record(2), record(3)]]);
        assert_eq!(
            merged.iter().map(|r| r.ns).collect::<Vec<_>>(),
            [1, 2, 3, 5]
        );
    }
}
