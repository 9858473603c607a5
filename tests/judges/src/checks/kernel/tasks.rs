//! The tasks of one kernel that a cycle can be made of: those that it keeps, and those that hold pages.

use super::stack::Stack;
use super::table::{Wait, Waiter, invalidation_in, wait_in};
use pv_harness::processes::{Autopsy, Blocked, HoldState, Thread};

/// One that waits in the kernel.
pub struct Waiting {
    /// As it is named in an edge.
    pub name: String,
    /// The process of the run.
    pub of: Option<String>,
    /// Which process it is a thread of.
    pub pid: u32,
    /// A worker of the kernel.
    pub is_kernels: bool,
    /// The function that waits.
    pub waiter: Waiter,
    /// In which call, with the function.
    pub call: String,
    /// The function that runs an invalidation, if it is within one.
    pub invalidates: Option<&'static str>,
    /// It is within the last put of a mapping.
    pub puts: bool,
}

/// A process that holds pages.
pub struct Holder {
    /// As it is named in an edge.
    pub name: String,
    /// The holds, in words.
    pub holds: String,
    /// What its first thread does.
    pub state: String,
    /// A hold is due, and waits for the return of the unmap.
    pub awaits_unmap: bool,
    /// A release has begun.
    pub is_releasing: bool,
}

/// All of one kernel.
#[derive(Default)]
pub struct Tasks {
    /// They.
    pub waiting: Vec<Waiting>,
    /// And they.
    pub holders: Vec<Holder>,
}

impl Tasks {
    /// Of one domain, by what was seen of its kernel and of the run's processes in it.
    pub fn of(domain: Option<&str>, hung: &[Autopsy], blocked: &[Blocked]) -> Tasks {
        let mut tasks = Tasks::default();
        let here = |other: &Option<String>| other.as_deref() == domain;
        for task in blocked.iter().filter(|kernel| here(&kernel.domain)) {
            for task in &task.tasks {
                tasks.add(task.of.as_deref(), task.pid, task.is_kernels, &task.thread);
            }
        }
        for process in hung.iter().filter(|process| here(&process.domain)) {
            // Those that were seen twice are one.
            let seen = tasks.waiting.iter().any(|task| task.pid == process.pid);
            for thread in process.threads.iter().filter(|_| !seen) {
                tasks.add(Some(&process.process), process.pid, false, thread);
            }
        }
        // A cycle is told from the unmap on.
        let unmaps = |task: &Waiting| task.waiter.wait == Wait::References;
        tasks.waiting.sort_by_key(|task| !unmaps(task));
        for process in hung.iter().filter(|process| here(&process.domain)) {
            tasks.holders.extend(tasks.holder(process));
        }
        tasks
    }

    fn add(&mut self, of: Option<&str>, pid: u32, is_kernels: bool, thread: &Thread) {
        if !thread.is_blocked() {
            return;
        }
        let stack = Stack::of(&thread.stack);
        let Some(waiter) = wait_in(&stack) else {
            return;
        };
        let own = of.unwrap_or(&thread.name);
        let name = if thread.tid == pid || thread.tid == 0 {
            format!("{own} (pid {pid})")
        } else {
            format!("{own}'s thread {} (pid {})", thread.name, thread.tid)
        };
        let callback = stack.first_of(&["gntdev_invalidate"]);
        let below = match (callback, stack.first_of(&["gntdev_put_map"])) {
            (Some(callback), _) => format!(", below {callback}, gntdev's notifier callback"),
            (None, Some(put)) => format!(", below {put}, the mapping's last put"),
            (None, None) => String::new(),
        };
        self.waiting.push(Waiting {
            name,
            of: of.map(str::to_owned),
            pid,
            is_kernels,
            call: format!("{} (state D in {}{below})", stack.way_in(), waiter.function),
            invalidates: invalidation_in(&stack),
            puts: stack.has("gntdev_put_map"),
            waiter,
        });
    }

    fn holder(&self, process: &Autopsy) -> Option<Holder> {
        let holds: Vec<String> = (process.holds.iter())
            .map(|held| format!("{} {}", held.kind, held.hold))
            .collect();
        let is = |state| process.holds.iter().any(|held| held.state == state);
        let own = self.waiting.iter().find(|task| task.pid == process.pid);
        let name = own.map_or_else(
            || format!("{} (pid {})", process.process, process.pid),
            |task| task.name.clone(),
        );
        (!holds.is_empty()).then(|| Holder {
            name,
            holds: holds.join(", "),
            state: process.threads.first().map_or_else(String::new, state),
            awaits_unmap: is(HoldState::AwaitsUnmap),
            is_releasing: is(HoldState::Releasing),
        })
    }

    /// Those that wait for this.
    pub fn that_wait(&self, wait: Wait) -> impl Iterator<Item = &Waiting> {
        let is = move |task: &&Waiting| task.waiter.wait == wait;
        self.waiting.iter().filter(is)
    }
}

/// A thread's state, with the function that it sleeps in.
fn state(thread: &Thread) -> String {
    let letter = thread.state.chars().next().unwrap_or('?');
    let stack = Stack::of(&thread.stack);
    match stack.top().or(thread.wchan.as_deref()) {
        Some(function) => format!("state {letter} in {function}; "),
        None => format!("state {letter}; "),
    }
}
