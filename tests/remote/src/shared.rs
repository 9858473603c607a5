//! What a relay's thread knows, for the run to see and wait on.

use super::clock::Clock;
use super::message::About;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Behind a lock, with something to wait on.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is known.
#[derive(Debug, Default)]
pub struct State {
    /// Who is there; `None` before it said so.
    pub about: Option<About>,
    /// Why nothing more will come.
    pub failure: Option<String>,
    /// The last lines on the console that were not for us.
    pub strays: VecDeque<String>,
    /// How many lines and messages came in all.
    pub said: u64,
    /// The domain's clock.
    pub clock: Clock,
    /// The first series of exchanges is over.
    pub clock_is_settled: bool,
    /// What should not have been left.
    pub left_over: Vec<String>,
    /// Living processes: name, and whether we killed it.
    processes: BTreeMap<u32, (String, bool)>,
}

impl State {
    /// Somebody else's line came.
    pub fn stray(&mut self, line: String) {
        const MOST: usize = 1000;
        if self.strays.len() == MOST {
            self.strays.pop_front();
        }
        self.strays.push_back(line);
    }

    /// A process was asked for.
    pub fn begin(&mut self, id: u32, name: &str) {
        self.processes.insert(id, (name.to_owned(), false));
    }

    /// It was killed.
    pub fn kill(&mut self, id: u32) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.1 = true;
        }
    }

    /// It ended, and these of its children had to be killed.
    pub fn end(&mut self, id: u32, stragglers: &[u32]) {
        if let Some((name, killed)) = self.processes.remove(&id)
            && !killed
            && !stragglers.is_empty()
        {
            self.left_over
                .push(format!("processes that {name} forked: {stragglers:?}"));
        }
    }

    /// Was a living process killed?
    pub fn is_killed(&self, id: u32) -> bool {
        self.processes.get(&id).is_some_and(|process| process.1)
    }

    /// The living process of a name.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.processes
            .iter()
            .rev()
            .find(|(_, process)| process.0 == name)
            .map(|(id, _)| *id)
    }

    /// Names of those that live.
    pub fn living(&self) -> Vec<String> {
        self.processes
            .values()
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl Shared {
    /// Looks.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and wakes whoever waits.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Says that nothing more will come. The first reason counts.
    pub fn fail(&self, why: &str) {
        self.update(|state| {
            state.failure.get_or_insert_with(|| why.to_owned());
        });
    }

    /// Why nothing more will come.
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// The supervisor is there.
    pub fn is_welcome(&self) -> bool {
        self.state().about.is_some()
    }

    /// Waits until something is so, or nothing more will come, or the deadline. Was it so?
    pub fn wait(&self, until: Instant, is_so: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state();
        loop {
            if is_so(&state) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.failure.is_some() {
                return false;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
