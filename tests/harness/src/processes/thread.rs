//! One thread, from `/proc/PID/task/TID`.
//!
//! What is never read: `cmdline`, `environ`, `maps` and `smaps`, which take the address space's lock,
//! and a process that is stuck in an unmap may hold it. What is read takes no lock of an address
//! space, but a process's `exec_update_lock` (`stack`, `syscall`; `fs/proc/base.c`), and may be the
//! last to let go of an address space that ends in this moment. So [`in_time`] has a limit.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Reading what a kernel says of its tasks takes milliseconds; an emulated processor is slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Frames of a stack that are kept. The kernel gives 64 (`MAX_STACK_TRACE_DEPTH`, `fs/proc/base.c`).
const MOST_FRAMES: usize = 40;
/// Bytes of one line that are kept.
const LONGEST_LINE: usize = 200;

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number; 0 if it is not known.
    #[serde(default)]
    pub tid: u32,
    /// Its name; a kernel worker's has the queue that it works for.
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

impl Thread {
    /// Reads a thread's directory. What cannot be read is left out.
    pub(super) fn read(task: &Path) -> Thread {
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
                .map_or_else(|| "gone".to_owned(), |value| cut(value.trim()))
        };
        let frames = |stack: String| stack.lines().take(MOST_FRAMES).map(cut).collect();
        Thread {
            tid: number(task).unwrap_or(0),
            name: field("Name:"),
            state: field("State:"),
            wchan: text("wchan").filter(|w| w != "0"),
            syscall: text("syscall").filter(|s| s != "running"),
            stack: text("stack").map_or_else(Vec::new, frames),
        }
    }

    /// Does its kernel keep it, deaf to signals?
    pub fn is_blocked(&self) -> bool {
        self.state.starts_with('D')
    }
}

/// A text of a bounded length.
fn cut(text: &str) -> String {
    text.chars().take(LONGEST_LINE).collect()
}

/// The number that a directory of `/proc` is named after.
pub(super) fn number(directory: &Path) -> Option<u32> {
    directory.file_name()?.to_str()?.parse().ok()
}

/// The numbered directories in one, in order.
pub(super) fn numbered(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| number(path).is_some())
        .collect();
    found.sort_by_key(|path| number(path));
    found
}

/// What `look` gives, or `None` if it is not done in time: then its thread stays behind, with whatever
/// it ran into.
pub(super) fn in_time<T: Send + 'static>(
    limit: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    let spawned = std::thread::Builder::new()
        .name("look".into())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _late = sender.send(look());
        });
    spawned.ok()?;
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_files_are_read_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let task = dir.path().join("77");
        fs::create_dir(&task).unwrap();
        let frames = "[<0>] f+0x1/0x2 [xen_gntdev]\n".repeat(64);
        for (name, text) in [
            (
                "status",
                "Name:\tkworker/u5:0+rxe_wq\nState:\tD (disk sleep)\n",
            ),
            ("wchan", "mmu_interval_read_begin"),
            ("syscall", "running\n"),
            ("stack", &frames),
        ] {
            fs::write(task.join(name), text).unwrap();
        }
        let thread = Thread::read(&task);
        assert_eq!((thread.tid, thread.stack.len()), (77, MOST_FRAMES));
        assert_eq!(thread.name, "kworker/u5:0+rxe_wq");
        assert_eq!(thread.wchan.as_deref(), Some("mmu_interval_read_begin"));
        assert!(thread.is_blocked() && thread.syscall.is_none());
        let gone = Thread::read(&dir.path().join("78"));
        assert_eq!((gone.state.as_str(), gone.is_blocked()), ("gone", false));
    }

    #[test]
    fn a_look_that_does_not_return_is_given_up() {
        let (keep, wait) = std::sync::mpsc::channel::<()>();
        let stuck = in_time(Duration::from_millis(10), move || {
            let _ended = wait.recv();
        });
        assert_eq!(stuck, None);
        drop(keep);
        assert_eq!(in_time(PATIENCE, || 5), Some(5));
    }
}
