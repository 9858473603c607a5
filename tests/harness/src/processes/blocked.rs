//! Every task that a kernel keeps in state D: of our processes, of others, and the kernel's own
//! threads and workers. Where a run hangs in a kernel, whoever it waits for is among them.

use super::thread::{PATIENCE, Thread, numbered};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{fmt, fs};

/// Tasks that are told. Behind one lock there can be hundreds.
const MOST_TASKS: usize = 32;
/// `PF_KTHREAD` (`include/linux/sched.h`).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The blocked tasks of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The domain; `None`: this machine.
    pub domain: Option<String>,
    /// `uname -r`.
    pub kernel: String,
    /// `PV`, `PVH` or `HVM`, where it is a guest of Xen.
    pub guest_type: Option<String>,
    /// They, ours first.
    pub tasks: Vec<Task>,
    /// What is not among them, and why.
    pub missing: Vec<String>,
}

/// A blocked task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The process of the run that it belongs to; `None`: it is not ours.
    pub of: Option<String>,
    /// The process's number, which all of its threads share.
    pub pid: u32,
    /// It is the kernel's own, and has no process.
    pub is_kernels: bool,
    /// What it does.
    pub thread: Thread,
}

impl Task {
    /// Whose it is, in words.
    pub fn whose(&self) -> String {
        match &self.of {
            Some(process) => format!("of {process}"),
            None if self.is_kernels => "the kernel's own".into(),
            None => "not of this run".into(),
        }
    }
}

impl Blocked {
    /// Looks at this machine's kernel. `ours` are the run's processes: name, and process group.
    pub fn here(ours: &[(String, u32)]) -> Blocked {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let guest_type = text("/sys/hypervisor/guest_type");
        Blocked {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            guest_type: (!guest_type.is_empty()).then(|| guest_type.trim().to_owned()),
            ..Blocked::below(Path::new("/proc"), ours, PATIENCE)
        }
    }

    fn below(proc: &Path, ours: &[(String, u32)], limit: Duration) -> Blocked {
        let (sender, receiver) = channel();
        let (proc, ours) = (proc.to_owned(), ours.to_vec());
        let scan = move || scan(&proc, &ours, &sender);
        let started = std::thread::Builder::new().name("look".into()).spawn(scan);
        let mut found = Blocked::default();
        if let Err(error) = started {
            found.missing.push(format!("all of them: {error}"));
            return found;
        }
        let until = Instant::now() + limit;
        let mut reading = None;
        loop {
            match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Seen::Reading(task)) => reading = Some(task),
                Ok(Seen::Blocked(task)) => found.tasks.push(task),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let task = reading.map_or("tasks".into(), |task| task.display().to_string());
                    found.missing.push(format!(
                        "{task} and those after it: reading it took more than {limit:?}, so that it \
                         waits for what the reader waits for, too"
                    ));
                    break;
                }
            }
        }
        found
            .tasks
            .sort_by_key(|task| (task.of.is_none(), !task.is_kernels));
        if let Some(more) = found.tasks.len().checked_sub(MOST_TASKS).filter(|n| *n > 0) {
            found.tasks.truncate(MOST_TASKS);
            found.missing.push(format!("{more} more"));
        }
        found
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.domain {
            Some(domain) => write!(f, "domain {domain}")?,
            None => write!(f, "this machine")?,
        }
        write!(f, ", Linux {}", self.kernel)?;
        match &self.guest_type {
            Some(guest_type) => write!(f, " ({guest_type})"),
            None => Ok(()),
        }
    }
}

/// What the scan says as it goes: should it get stuck, the last word says where.
enum Seen {
    Reading(PathBuf),
    Blocked(Task),
}

fn scan(proc: &Path, ours: &[(String, u32)], tell: &Sender<Seen>) {
    for process in numbered(proc) {
        for path in numbered(&process.join("task")) {
            // A closed channel: nobody waits any more.
            if tell.send(Seen::Reading(path.clone())).is_err() {
                return;
            }
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            let Some(stat) = Stat::parse(&stat).filter(|stat| stat.state == "D") else {
                continue;
            };
            let thread = Thread::read(&path);
            if !thread.is_blocked() {
                continue;
            }
            let of = ours.iter().find(|(_, group)| *group == stat.group);
            let task = Task {
                of: of.map(|(name, _)| name.clone()),
                pid: super::thread::number(&process).unwrap_or(0),
                is_kernels: stat.flags & KERNEL_THREAD != 0,
                thread,
            };
            if tell.send(Seen::Blocked(task)).is_err() {
                return;
            }
        }
    }
}

/// What `/proc/PID/stat` says, as far as it is needed (`do_task_stat`, `fs/proc/array.c`).
pub(super) struct Stat<'a> {
    pub(super) state: &'a str,
    /// The process group.
    pub(super) group: u32,
    pub(super) flags: u32,
}

impl Stat<'_> {
    pub(super) fn parse(text: &str) -> Option<Stat<'_>> {
        // pid (name) state ppid pgrp session tty tpgid flags: the name may hold anything,
        // parentheses too.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..]
            .split_ascii_whitespace()
            .take(7)
            .collect();
        let [state, _, group, _, _, _, flags] = fields[..] else {
            return None;
        };
        Some(Stat {
            state,
            group: group.parse().ok()?,
            flags: flags.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(proc: &Path, pid: u32, tid: u32, state: &str, group: u32, flags: u32) {
        let task = proc.join(format!("{pid}/task/{tid}"));
        fs::create_dir_all(&task).unwrap();
        let stat = format!("{tid} (a) b) {state} 1 {group} 0 0 -1 {flags} 0 0");
        fs::write(task.join("stat"), stat).unwrap();
        let status = format!("Name:\tt{tid}\nState:\t{state} (whatever)\n");
        fs::write(task.join("status"), status).unwrap();
        fs::write(task.join("stack"), "[<0>] gnttab_unmap_refs_sync+0x1/0x2\n").unwrap();
    }

    #[test]
    fn all_blocked_tasks_are_found_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        fs::create_dir(proc.join("sys")).unwrap();
        task(proc, 5, 5, "D", 0, KERNEL_THREAD | 0x40);
        task(proc, 6, 6, "I", 0, KERNEL_THREAD);
        task(proc, 9, 9, "S", 9, 0);
        task(proc, 9, 10, "D", 9, 0x40);
        task(proc, 700, 700, "D", 700, 0);
        task(proc, 11, 12, "D", 9, 0);
        let ours = [("back-end".to_owned(), 9)];
        let found = Blocked::below(proc, &ours, PATIENCE);
        let told: Vec<_> = found
            .tasks
            .iter()
            .map(|task| (task.pid, task.thread.tid, task.whose()))
            .collect();
        let expected = [
            (9, 10, "of back-end"),
            (11, 12, "of back-end"),
            (5, 5, "the kernel's own"),
            (700, 700, "not of this run"),
        ];
        assert_eq!(
            told,
            expected.map(|(pid, tid, whose)| (pid, tid, whose.to_owned()))
        );
        assert!(found.tasks[0].thread.stack[0].contains("gnttab_unmap_refs_sync"));
        assert!(found.missing.is_empty());
    }

    #[test]
    fn too_many_are_counted_and_ours_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for tid in 100..140 {
            task(dir.path(), tid, tid, "D", tid, 0);
        }
        let ours = [("consumer".to_owned(), 139)];
        let found = Blocked::below(dir.path(), &ours, PATIENCE);
        assert_eq!((found.tasks.len(), found.tasks[0].pid), (MOST_TASKS, 139));
        assert_eq!(found.missing, ["8 more"]);
    }

    #[test]
    fn a_task_that_cannot_be_read_is_named_and_what_came_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        task(dir.path(), 3, 3, "D", 3, 0);
        task(dir.path(), 4, 4, "D", 4, 0);
        // A FIFO that nobody writes to: the read does not return.
        let stat = dir.path().join("4/task/4/stat");
        fs::remove_file(&stat).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &stat,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let found = Blocked::below(dir.path(), &[], Duration::from_millis(200));
        assert_eq!(found.tasks.len(), 1);
        assert!(found.missing[0].contains("4/task/4 "), "{found:?}");
        // Ends the reader.
        drop(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&stat)
                .unwrap(),
        );
    }

    #[test]
    fn this_machine_says_what_it_is() {
        let found = Blocked::here(&[]);
        assert!(!found.kernel.is_empty());
        assert!(found.to_string().starts_with("this machine, Linux "));
    }
}
