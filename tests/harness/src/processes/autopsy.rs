//! What a process that does not end was waiting for, from `/proc` and its own timeline.

use super::thread::{PATIENCE, Thread, in_time, number, numbered};
use crate::settings::HoldName;
use crate::timeline::{self, Event, Record};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// A hung process, described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autopsy {
    /// Its name.
    pub process: String,
    /// Its pid.
    pub pid: u32,
    /// The domain that it is in; `None`: on this machine.
    #[serde(default)]
    pub domain: Option<String>,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// The last thing it said it was about to wait for, or did.
    pub last_event: Option<String>,
    /// Pages of others that it holds.
    #[serde(default)]
    pub holds: Vec<Holding>,
    /// Descriptors that are the read ends of pipes.
    #[serde(default)]
    pub pipes: Vec<u32>,
}

/// Pages that a process holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Names the hold in all timelines.
    pub hold: u64,
    /// How.
    pub kind: HoldName,
    /// How far it is with it.
    pub state: HoldState,
}

/// How far a holder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldState {
    /// It has the pages.
    Held,
    /// It would let go, and may not before the call that unmaps them has returned.
    AwaitsUnmap,
    /// It has begun to let go.
    Releasing,
}

impl Autopsy {
    /// Looks at a living process. What cannot be read is left out.
    pub fn of(process: &str, pid: u32, timeline: &Path) -> Autopsy {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let read = move || {
            let threads = numbered(&directory.join("task"));
            let threads = threads.iter().map(|task| Thread::read(task)).collect();
            (threads, pipes(&directory))
        };
        let (threads, pipes) = in_time(PATIENCE, read).unwrap_or_default();
        let records = timeline::read_file(timeline).unwrap_or_default();
        Autopsy {
            process: process.to_owned(),
            pid,
            domain: None,
            threads,
            last_event: last_event(&records),
            holds: holds(&records),
            pipes,
        }
    }
}

/// The descriptors that are read ends of pipes. The links and their flags take no lock of the address
/// space.
fn pipes(process: &Path) -> Vec<u32> {
    let is_read_end = |fd: &PathBuf| {
        let link = fs::read_link(fd).unwrap_or_default();
        if !link.to_string_lossy().starts_with("pipe:") {
            return false;
        }
        let info = process
            .join("fdinfo")
            .join(fd.file_name().unwrap_or_default());
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_ACCMODE == libc::O_RDONLY)
    };
    let fds = numbered(&process.join("fd"));
    fds.iter()
        .filter(|fd| is_read_end(fd))
        .filter_map(|fd| number(fd))
        .collect()
}

/// What was taken over and not let go of.
fn holds(records: &[Record]) -> Vec<Holding> {
    let mut holds: Vec<Holding> = Vec::new();
    let set = |holds: &mut Vec<Holding>, hold: u64, state| {
        for held in holds.iter_mut().filter(|held| held.hold == hold) {
            held.state = state;
        }
    };
    for record in records {
        match record.event {
            Event::Held { hold, kind, .. } => holds.push(Holding {
                hold,
                kind,
                state: HoldState::Held,
            }),
            Event::AwaitsUnmap { hold } => set(&mut holds, hold, HoldState::AwaitsUnmap),
            Event::HoldReleasing { hold } => set(&mut holds, hold, HoldState::Releasing),
            Event::HoldReleased { hold, .. } => holds.retain(|held| held.hold != hold),
            _ => {}
        }
    }
    holds
}

fn last_event(records: &[Record]) -> Option<String> {
    let waiting = records.iter().rev().find_map(|record| match &record.event {
        Event::Waiting { what } => Some(format!("waiting for {what}")),
        _ => None,
    });
    let last = serde_json::to_string(&records.last()?.event).ok()?;
    Some(match waiting {
        Some(waiting) => format!("{waiting}; last event {last}"),
        None => last,
    })
}

impl fmt::Display for Autopsy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) did not end", self.process, self.pid)?;
        if let Some(last) = &self.last_event {
            write!(f, ": {last}")?;
        }
        for thread in &self.threads {
            write!(f, "; thread {} is {}", thread.name, thread.state)?;
            if let Some(wchan) = &thread.wchan {
                write!(f, " in {wchan}")?;
            }
            if let Some(syscall) = &thread.syscall {
                let number = syscall.split(' ').next().unwrap_or(syscall);
                write!(f, ", system call {number}")?;
            }
            if let Some(top) = thread.stack.first() {
                write!(f, ", kernel stack from {top}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Timeline;
    use std::process::{Command, Stdio};

    #[test]
    fn a_hung_process_is_described_by_what_it_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let timeline = Timeline::create(&path, "reader").unwrap();
        timeline.waiting("a byte that never comes");
        timeline.log(Event::Note { text: "n".into() });
        let mut cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat runs");
        // An echoed byte shows that cat has begun; from then on it is in its loop.
        let mut stdin = cat.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"x").unwrap();
        let mut echo = [0];
        std::io::Read::read_exact(cat.stdout.as_mut().unwrap(), &mut echo).unwrap();
        let autopsy = Autopsy::of("reader", cat.id(), &path);
        cat.kill().unwrap();
        cat.wait().unwrap();
        assert_eq!(autopsy.threads.len(), 1);
        assert_eq!(autopsy.threads[0].name, "cat");
        let text = autopsy.to_string();
        assert!(
            text.contains("waiting for a byte that never comes"),
            "{text}"
        );
        assert!(text.contains("note"), "{text}");
    }

    #[test]
    fn what_a_process_holds_and_how_far_it_is_comes_from_its_timeline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let timeline = Timeline::create(&path, "consumer").unwrap();
        for hold in 1..=4 {
            timeline.log(Event::Held {
                hold,
                kind: HoldName::Pipe,
                pages: 1,
            });
        }
        timeline.log(Event::AwaitsUnmap { hold: 2 });
        timeline.log(Event::AwaitsUnmap { hold: 3 });
        timeline.log(Event::HoldReleasing { hold: 3 });
        timeline.log(Event::HoldReleasing { hold: 4 });
        timeline.log(Event::HoldReleased {
            hold: 4,
            error: None,
        });
        let (read, _write) = std::io::pipe().unwrap();
        let autopsy = Autopsy::of("consumer", std::process::id(), &path);
        let told: Vec<_> = autopsy.holds.iter().map(|h| (h.hold, h.state)).collect();
        use HoldState::{AwaitsUnmap, Held, Releasing};
        assert_eq!(told, [(1, Held), (2, AwaitsUnmap), (3, Releasing)]);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&read);
        assert!(autopsy.pipes.contains(&u32::try_from(fd).unwrap()));
        let fd = std::os::fd::AsRawFd::as_raw_fd(&_write);
        assert!(!autopsy.pipes.contains(&u32::try_from(fd).unwrap()));
    }

    #[test]
    fn a_process_that_is_gone_has_no_threads() {
        let autopsy = Autopsy::of("nobody", u32::MAX, Path::new("/nonexistent"));
        assert!(autopsy.threads.is_empty());
        assert!(autopsy.last_event.is_none());
    }
}
