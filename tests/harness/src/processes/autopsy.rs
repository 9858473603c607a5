//! What a process that does not end was waiting for, from `/proc` and its own timeline.

use crate::timeline::{self, Event};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fmt, fs};

/// A hung process, described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autopsy {
    /// Its name.
    pub process: String,
    /// Its pid.
    pub pid: u32,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// The last thing it said it was about to wait for, or did.
    pub last_event: Option<String>,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// `S (sleeping)`, `D (disk sleep)`...
    pub state: String,
    /// The kernel function it sleeps in, where the kernel says.
    pub wchan: Option<String>,
    /// The system call it is in, by number, and its arguments.
    pub syscall: Option<String>,
    /// The kernel stack, where the kernel says (to root).
    pub stack: Vec<String>,
}

impl Autopsy {
    /// Looks at a living process. What cannot be read is left out.
    pub fn of(process: &str, pid: u32, timeline: &Path) -> Autopsy {
        Autopsy {
            process: process.to_owned(),
            pid,
            threads: threads(pid),
            last_event: last_event(timeline),
        }
    }
}

fn threads(pid: u32) -> Vec<Thread> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = tasks.flatten().map(|task| task.path()).collect();
    paths.sort();
    paths.iter().map(|path| thread(path)).collect()
}

fn thread(task: &Path) -> Thread {
    let text = |name: &str| {
        let text = fs::read_to_string(task.join(name)).unwrap_or_default();
        let text = text
            .trim_matches(|c: char| c.is_whitespace() || c == '\0')
            .to_owned();
        (!text.is_empty()).then_some(text)
    };
    let status = text("status").unwrap_or_default();
    let field = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map_or_else(|| "gone".to_owned(), |value| value.trim().to_owned())
    };
    Thread {
        name: field("Name:"),
        state: field("State:"),
        wchan: text("wchan").filter(|w| w != "0"),
        syscall: text("syscall").filter(|s| s != "running"),
        stack: text("stack").map_or_else(Vec::new, |s| s.lines().map(str::to_owned).collect()),
    }
}

fn last_event(timeline: &Path) -> Option<String> {
    let records = timeline::read_file(timeline).ok()?;
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
    fn a_process_that_is_gone_has_no_threads() {
        let autopsy = Autopsy::of("nobody", u32::MAX, Path::new("/nonexistent"));
        assert!(autopsy.threads.is_empty());
        assert!(autopsy.last_event.is_none());
    }
}
