//! Processes killed while their kernel keeps one of them, and a second look at what remains.

use super::Stage;
use pv_harness::processes::{Autopsy, Blocked, ChildId, Thread};
use pv_harness::timeline::{Event, now_ns};
use pv_judges::checks::{Emptied, Kill, emptying};
use std::time::{Duration, Instant};

/// What SIGKILL ends, it ends within this, in software emulation, too.
const LIMIT: Duration = Duration::from_secs(10);
/// A command of some seconds ends within this, in software emulation, too.
const SHELL: Duration = Duration::from_secs(60);
/// Nobody tells when another process's call returns: the kernel is asked as often.
const STEP: Duration = Duration::from_millis(100);

impl Stage<'_> {
    /// Kills those that hold pages, then those that the kernel keeps, until it keeps none any more.
    pub(in crate::scenario) fn kill_hung(&mut self, hung: &[Autopsy]) -> Vec<Kill> {
        let holds = |process: &&Autopsy| !process.holds.is_empty();
        let is_kept = |process: &&Autopsy| process.threads.iter().any(Thread::is_blocked);
        let holders = hung.iter().filter(holds);
        let kept = hung
            .iter()
            .filter(|process| is_kept(process) && !holds(process));
        let mut kills = Vec::new();
        for process in holders.chain(kept) {
            let mut children = self.processes.children();
            let is_it = |id: &ChildId| self.processes.child(*id).name == process.process;
            let Some(id) = children.find(is_it) else {
                continue;
            };
            let kill = self.kill_and_look(id, process);
            let is_over = kill.free.is_some() || self.processes.interrupted().is_some();
            kills.push(kill);
            if is_over {
                break;
            }
        }
        kills
    }

    fn kill_and_look(&mut self, id: ChildId, process: &Autopsy) -> Kill {
        let (began, at) = (Instant::now(), now_ns());
        let who = process.process.clone();
        self.timeline.log(Event::Killed { who });
        let ended = self.processes.kill_hung(id, LIMIT);
        let (free, blocked) = self.look(began);
        Kill {
            process: process.clone(),
            at,
            ended,
            free,
            // Known when its caller's records are here.
            returned: None,
            limit: LIMIT,
            blocked,
        }
    }

    /// Looks until no task of the run is blocked, or the limit: when that was, and what is blocked then.
    fn look(&mut self, since: Instant) -> (Option<Duration>, Vec<Blocked>) {
        loop {
            let blocked = self.processes.blocked();
            let is_clear = |tasks: &Blocked| {
                tasks.missing.is_empty() && tasks.tasks.iter().all(|task| task.of.is_none())
            };
            let free = blocked.iter().all(is_clear).then(|| since.elapsed());
            let is_over = free.is_some()
                || since.elapsed() >= LIMIT
                || self.processes.interrupted().is_some();
            if is_over {
                return (free, blocked);
            }
            self.processes.idle(STEP);
        }
    }

    /// Has another process in the domain of each stuck holder read its pipes, until nothing is blocked.
    pub(in crate::scenario) fn empty_pipes(&mut self, hung: &[Autopsy]) -> Vec<Emptied> {
        let Some(xen) = self.xen.clone() else {
            return Vec::new();
        };
        let mut emptied = Vec::new();
        for process in hung {
            let domains = xen.domains();
            let domain = domains
                .into_iter()
                .find(|domain| process.domain.as_ref() == Some(&domain.name));
            let (Some(domain), Some(command)) = (domain, emptying(process)) else {
                continue;
            };
            let grants = || Some(xen.inspect().ok()?.grants.len());
            let before = grants();
            let began = Instant::now();
            let failed = domain.shell(&command, SHELL).err();
            let (free, blocked) = self.look(began);
            let is_over = free.is_some() || self.processes.interrupted().is_some();
            emptied.push(Emptied {
                process: process.clone(),
                command,
                failed: failed.map(|error| error.to_string()),
                free,
                grants: before.zip(grants()),
                blocked,
            });
            if is_over {
                break;
            }
        }
        emptied
    }
}
