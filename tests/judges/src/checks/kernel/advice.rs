//! What SIGKILL changes while a kernel stands still, and what an operator can do.

use super::stack::Stack;
use super::standstill::{AfterKill, Form, Standstill};
use super::table::wait_in;
use pv_harness::processes::{Autopsy, Blocked, Holding};
use std::time::Duration;

/// One process killed while it hung, and the second look.
#[derive(Clone, Debug)]
pub struct Kill {
    /// As it was before.
    pub process: Autopsy,
    /// When it was killed, on the timelines' clock, in nanoseconds.
    pub at: u64,
    /// When it ended after SIGKILL; `None`: not within the limit.
    pub ended: Option<Duration>,
    /// When no task of the run was blocked any more, by a look that takes time itself; `None`: some are
    /// at the limit.
    pub free: Option<Duration>,
    /// When the call that unmaps returned, by its caller's own record.
    pub returned: Option<Duration>,
    /// How long was waited.
    pub limit: Duration,
    /// What is blocked then.
    pub blocked: Vec<Blocked>,
}

impl Kill {
    fn say(&self) -> String {
        let name = format!("{} (pid {})", self.process.process, self.process.pid);
        let ended = match self.ended {
            Some(took) => format!("{name} ended {} ms after SIGKILL", took.as_millis()),
            None => format!(
                "{name} did not end within {} s of SIGKILL, since a task in state D takes no signal",
                self.limit.as_secs()
            ),
        };
        let remain = remaining(&self.blocked);
        match (self.free, remain.is_empty()) {
            (Some(_), _) if self.returned.is_some() => format!(
                "{ended}, and the call that unmaps returned {} ms after it; no task of the run is \
                 blocked any more",
                self.returned.unwrap_or_default().as_millis()
            ),
            (Some(took), _) => format!(
                "{ended}; a look that ended {} ms after it saw no task of the run blocked any more",
                took.as_millis()
            ),
            (None, true) => format!("{ended}; which tasks remain could not be read"),
            (None, false) => format!("{ended}; still blocked: {}", remain.join("; ")),
        }
    }
}

/// A stuck holder's pipes, read by another process, and the look after that.
#[derive(Clone, Debug)]
pub struct Emptied {
    /// The holder, as it was when it hung.
    pub process: Autopsy,
    /// What was run.
    pub command: String,
    /// Why it could not be.
    pub failed: Option<String>,
    /// When no task of the run was blocked any more; `None`: some are.
    pub free: Option<Duration>,
    /// Grants in use before and after, if the hypervisor said it.
    pub grants: Option<(usize, usize)>,
    /// What is blocked then.
    pub blocked: Vec<Blocked>,
}

impl Emptied {
    fn say(&self) -> String {
        let Emptied {
            process, command, ..
        } = self;
        let begin = format!(
            "the pipes of {} (pid {}) were read by another process, `{command}`",
            process.process, process.pid
        );
        let grants = self.grants.map_or(String::new(), |(before, after)| {
            format!("; of {before} grants that were in use then {after} still are")
        });
        match (&self.failed, self.free) {
            (Some(why), None) => format!("{begin}: {why}{grants}"),
            (_, Some(took)) => format!(
                "{begin}: a look {} ms later saw no task of the run blocked any more{grants}",
                took.as_millis()
            ),
            (None, None) => {
                let remain = remaining(&self.blocked).join("; ");
                format!("{begin}, and that did not help; still blocked: {remain}{grants}")
            }
        }
    }
}

/// The tasks of the run, and the kernel's, that remain: with their state and function.
fn remaining(blocked: &[Blocked]) -> Vec<String> {
    let tasks = blocked.iter().flat_map(|kernel| &kernel.tasks);
    let told = tasks.filter(|task| task.of.is_some() || task.is_kernels);
    told.map(|task| {
        let stack = Stack::of(&task.thread.stack);
        let known = wait_in(&stack).map(|waiter| waiter.function);
        let function = known.or(stack.top()).unwrap_or("an unknown function");
        let name = task.of.as_deref().unwrap_or(&task.thread.name);
        let tid = task.thread.tid;
        format!(
            "{name} (pid {tid}), state {}, in {function}",
            task.thread.state
        )
    })
    .collect()
}

/// Puts together what was seen after SIGKILL. `hung` is as it was before.
pub fn advice(
    found: &Standstill,
    hung: &[Autopsy],
    kills: &[Kill],
    emptied: &[Emptied],
    left: Vec<String>,
) -> AfterKill {
    let freed = kills.iter().find(|kill| kill.free.is_some());
    let mut cures = Vec::new();
    if let Some(kill) = freed {
        let (process, pid) = (&kill.process.process, kill.process.pid);
        cures.push(format!(
            "kill whoever holds the pages, here {process} (pid {pid}): its kernel does not keep it, its \
             references end with it, and the unmap returns"
        ));
    } else {
        let has_ended = |process: &Autopsy| {
            let mut ended = kills.iter().filter(|kill| kill.ended.is_some());
            ended.any(|kill| kill.process.pid == process.pid)
        };
        let stuck = hung.iter().filter(|process| !has_ended(process));
        cures.extend(stuck.filter_map(|process| empty_the_pipe(process, emptied)));
        if cures.is_empty() {
            cures.push(
                "end what holds the references, if it is another process: the unmap returns when \
                 the last one goes"
                    .into(),
            );
        }
    }
    cures.push(match &found.domain {
        Some(domain) => format!(
            "restart the domain: `xl destroy {domain}`, then `xl create` with its configuration; Xen \
             then ends what it has mapped. If it is dom0 that stands still, only a reboot of the \
             machine helps"
        ),
        None => "restart the machine: what its kernel keeps ends with it".into(),
    });
    let pv = if found.guest_type.as_deref() == Some("PV") || found.form == Form::Notifier {
        ". On a PV guest that kernel damages its own books instead while a page is held: see \
         docs/findings/gntdev-pv-deferred-unmap.md"
    } else {
        ""
    };
    cures.push(format!(
        "run a kernel that unmaps asynchronously: Linux 5.19 and later, 5.18.8, 5.15.51, \
         5.10.129 and 5.4.204 of the stable series{pv}"
    ));
    cures.push(
        "be told in time: the kernel complains of a task that is blocked for longer than \
         kernel.hung_task_timeout_secs (120 as a rule, 0 for never), and restarts a machine that \
         nobody watches with kernel.hung_task_panic=1 and kernel.panic=10"
            .into(),
    );
    AfterKill {
        killed: kills.iter().map(Kill::say).collect(),
        tried: emptied.iter().map(Emptied::say).collect(),
        left,
        cures,
    }
}

/// The command that empties the pipes of a holder, as root in its domain. References in a pipe go when its
/// bytes are read, and any process that may look at the holder's descriptors can read them, even those of
/// one that is stuck. `None`: it holds nothing so.
pub fn emptying(process: &Autopsy) -> Option<String> {
    let spliced = |held: &Holding| held.kind.is_in_a_pipe();
    if !process.holds.iter().any(spliced) || process.pipes.is_empty() {
        return None;
    }
    let pid = process.pid;
    // The pipe's other end is open as long as the holder is stuck, so it never says that it ends.
    let ends: Vec<String> = (process.pipes.iter())
        .map(|fd| format!("timeout 2 cat /proc/{pid}/fd/{fd} >/dev/null"))
        .collect();
    Some(ends.join("; "))
}

fn empty_the_pipe(process: &Autopsy, emptied: &[Emptied]) -> Option<String> {
    let command = emptying(process)?;
    let place = match &process.domain {
        Some(domain) => format!("in domain {domain}, as root"),
        None => "as root".into(),
    };
    let tried = emptied
        .iter()
        .find(|tried| tried.process.pid == process.pid);
    let outcome = match tried.map(|tried| tried.free.is_some()) {
        Some(true) => "the unmap returns (so it was here, see above)",
        Some(false) => "the unmap returns, as a rule (here it did not help, see above)",
        None => "the unmap returns",
    };
    Some(format!(
        "let another process empty the pipe that holds the pages: {place}, `{command}` reads what {} has, \
         although that is stuck, and {outcome}",
        process.process
    ))
}
