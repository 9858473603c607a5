//! A model: actors with their programs, locks, variables and laws; and how it moves. This is what
//! the checker (stateright) explores.

use super::lock::{Lock, MAX_ACTORS, Mode};
use super::program::{Law, Op, Program, Step};
use super::subject::{Move, Subject};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

/// How many locks a model may have.
pub const MAX_LOCKS: usize = 3;

/// A model's variables.
pub trait Vars: Clone + Eq + Hash + Debug + Send + Sync + 'static {}
impl<V: Clone + Eq + Hash + Debug + Send + Sync + 'static> Vars for V {}

/// Where everybody is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<V> {
    pub(super) at: [u8; MAX_ACTORS],
    pub(super) locks: [Lock; MAX_LOCKS],
    /// The model's own.
    pub vars: V,
    /// Laws broken on the way here, a bit each.
    pub(super) broken: u16,
    /// Nothing can follow.
    pub(super) crashed: bool,
}

/// What actors have in hand besides locks, for diagrams.
pub type Holdings<V> = Arc<dyn Fn(&V, usize) -> Vec<String> + Send + Sync>;

/// A model.
pub struct Model<V: Vars> {
    pub(super) actors: Vec<Program<V>>,
    pub(super) locks: &'static [&'static str],
    pub(super) init: V,
    pub(super) laws: Vec<Law<V>>,
    /// What is left over at the end that should not be.
    pub(super) leak: fn(&V) -> Option<String>,
    pub(super) holdings: Holdings<V>,
}

impl<V: Vars> Model<V> {
    /// A model of these actors.
    pub fn new(
        locks: &'static [&'static str],
        laws: Vec<Law<V>>,
        init: V,
        actors: Vec<Program<V>>,
    ) -> Self {
        debug_assert!(actors.len() <= MAX_ACTORS && locks.len() <= MAX_LOCKS);
        Model {
            actors: actors.into_iter().map(Program::build).collect(),
            locks,
            init,
            laws,
            leak: |_| None,
            holdings: Arc::new(|_, _| Vec::new()),
        }
    }

    /// Says what must not be left over at the end.
    pub fn leak(mut self, leak: fn(&V) -> Option<String>) -> Self {
        self.leak = leak;
        self
    }

    /// Says what actors hold besides locks.
    pub fn holdings(
        mut self,
        holdings: impl Fn(&V, usize) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.holdings = Arc::new(holdings);
        self
    }

    fn op(&self, state: &State<V>, actor: usize) -> &Op<V> {
        &self.actors[actor].ops[usize::from(state.at[actor])]
    }

    /// In how many ways an actor can move now.
    fn ways(&self, state: &State<V>, actor: usize) -> u8 {
        match self.op(state, actor) {
            Op::Take { lock, mode } => {
                let lock = &state.locks[*lock];
                // One more step to join the queue: the others see it there.
                u8::from(lock.obtainable(actor, *mode) || !lock.queued(actor))
            }
            Op::Wait { until, .. } => u8::from(until(&state.vars)),
            Op::Choose { ways } => narrow(ways.len()),
            Op::End => 0,
            Op::Try { .. } | Op::Release { .. } | Op::Act { .. } | Op::Ask { .. } => 1,
            Op::Goto { .. } => 0,
        }
    }

    fn bit(&self, key: &'static str) -> u16 {
        let at = self.laws.iter().position(|law| law.key == key);
        debug_assert!(at.is_some(), "no law {key}");
        at.map_or(0, |at| 1 << at)
    }

    /// Has this actor nothing more to do?
    fn finished(&self, state: &State<V>, actor: usize) -> bool {
        match self.op(state, actor) {
            Op::End => true,
            Op::Wait { until, rest, .. } => {
                let idle = rest.as_ref().is_some_and(|idle| idle(&state.vars));
                idle && !until(&state.vars)
            }
            _ => false,
        }
    }
}

impl<V: Vars> Subject for Model<V> {
    type State = State<V>;

    fn start(&self) -> State<V> {
        let mut at = [0; MAX_ACTORS];
        for (place, actor) in at.iter_mut().zip(&self.actors) {
            *place = narrow(actor.settle(0));
        }
        State {
            at,
            locks: Default::default(),
            vars: self.init.clone(),
            broken: 0,
            crashed: false,
        }
    }

    fn moves(&self, state: &State<V>, moves: &mut Vec<Move>) {
        if state.crashed {
            return;
        }
        for actor in 0..self.actors.len() {
            for way in 0..self.ways(state, actor) {
                moves.push(Move {
                    actor: narrow(actor),
                    at: state.at[actor],
                    way,
                });
            }
        }
    }

    fn make(&self, last: &State<V>, step: Move) -> State<V> {
        let actor = usize::from(step.actor);
        let mut next = last.clone();
        let here = usize::from(last.at[actor]);
        let mut to = here + 1;
        match self.op(last, actor) {
            Op::Take { lock, mode } => {
                let lock = &mut next.locks[*lock];
                if lock.obtainable(actor, *mode) {
                    lock.take(actor, *mode);
                } else {
                    lock.queue(actor, *mode);
                    to = here;
                }
            }
            Op::Try { lock, mode, or } => {
                let lock = &mut next.locks[*lock];
                if lock.obtainable(actor, *mode) {
                    lock.take(actor, *mode);
                } else {
                    to = *or;
                }
            }
            Op::Release { lock } => next.locks[*lock].release(actor),
            Op::Act { effect, .. } | Op::Wait { effect, .. } => {
                let mut broken = Vec::new();
                let mut made = Step {
                    me: actor,
                    vars: &mut next.vars,
                    broken: &mut broken,
                    crashed: false,
                };
                effect(&mut made);
                next.crashed = made.crashed;
                for key in broken {
                    next.broken |= self.bit(key);
                }
            }
            Op::Ask { test, or, .. } => {
                if !test(&last.vars) {
                    to = *or;
                }
            }
            Op::Choose { ways } => to = ways[usize::from(step.way)].1,
            Op::Goto { .. } | Op::End => {}
        }
        next.at[actor] = narrow(self.actors[actor].settle(to));
        for (i, law) in self.laws.iter().enumerate() {
            if law.holds.is_some_and(|holds| !holds(&next.vars)) {
                next.broken |= 1 << i;
            }
        }
        next
    }

    fn is_end(&self, state: &State<V>) -> bool {
        state.crashed || (0..self.actors.len()).all(|actor| self.finished(state, actor))
    }

    fn leaked(&self, state: &State<V>) -> Option<String> {
        if state.crashed || !self.is_end(state) {
            return None;
        }
        let lock = state.locks.iter().position(|lock| !lock.idle());
        match lock {
            Some(at) => Some(format!("{} is still held", self.locks[at])),
            None => (self.leak)(&state.vars),
        }
    }

    fn order(&self, last: &State<V>, step: Move) -> Vec<(usize, usize)> {
        let actor = usize::from(step.actor);
        let Op::Take { lock, .. } = self.op(last, actor) else {
            return Vec::new();
        };
        let held = |at: &usize| last.locks[*at].held_by(actor).is_some();
        (0..self.locks.len())
            .filter(held)
            .map(|held| (held, *lock))
            .collect()
    }

    fn describe(&self, last: &State<V>, step: Move) -> String {
        let actor = usize::from(step.actor);
        let how = |mode: &Mode| match mode {
            Mode::Read => "reading",
            Mode::Write => "writing",
        };
        match self.op(last, actor) {
            Op::Take { lock, mode } => {
                let name = self.locks[*lock];
                if last.locks[*lock].obtainable(actor, *mode) {
                    format!("takes {name} for {}", how(mode))
                } else {
                    format!("queues for {name} for {}", how(mode))
                }
            }
            Op::Try { lock, mode, .. } => {
                let name = self.locks[*lock];
                let got = if last.locks[*lock].obtainable(actor, *mode) {
                    "gets it"
                } else {
                    "is refused"
                };
                format!("tries {name} for {}: {got}", how(mode))
            }
            Op::Release { lock } => format!("lets go of {}", self.locks[*lock]),
            Op::Act { text, .. } => (*text).to_owned(),
            Op::Wait { text, did, .. } => {
                did.map_or_else(|| format!("wait over: {text}"), str::to_owned)
            }
            Op::Ask { text, test, .. } => {
                let answer = if test(&last.vars) { "yes" } else { "no" };
                format!("{text} {answer}")
            }
            Op::Choose { ways } => ways[usize::from(step.way)].0.to_owned(),
            Op::Goto { .. } | Op::End => String::new(),
        }
    }

    fn label(&self, step: Move) -> String {
        let actor = &self.actors[usize::from(step.actor)];
        let what = match &actor.ops[usize::from(step.at)] {
            Op::Take { lock, mode } => format!("take {} ({mode:?})", self.locks[*lock]),
            Op::Try { lock, mode, .. } => format!("try {} ({mode:?})", self.locks[*lock]),
            Op::Release { lock } => format!("let go of {}", self.locks[*lock]),
            Op::Act { text, .. } | Op::Wait { text, .. } | Op::Ask { text, .. } => {
                (*text).to_owned()
            }
            Op::Choose { ways } => ways[usize::from(step.way)].0.to_owned(),
            Op::Goto { .. } | Op::End => String::new(),
        };
        format!("{}: {what}", actor.name)
    }

    fn held(&self, state: &State<V>, actor: usize) -> Vec<String> {
        let mut held = Vec::new();
        for (lock, name) in state.locks.iter().zip(self.locks) {
            match lock.held_by(actor) {
                Some((Mode::Write, _)) => held.push(format!("{name} (w)")),
                Some((Mode::Read, 1)) => held.push(format!("{name} (r)")),
                Some((Mode::Read, n)) => held.push(format!("{name} (r ×{n})")),
                None => {}
            }
        }
        held.extend((self.holdings)(&state.vars, actor));
        held
    }

    fn waits(&self, state: &State<V>, actor: usize) -> Option<(String, Vec<usize>)> {
        if state.crashed || self.finished(state, actor) || self.ways(state, actor) > 0 {
            return None;
        }
        match self.op(state, actor) {
            Op::Take { lock, mode } => Some((
                self.locks[*lock].to_owned(),
                state.locks[*lock].in_the_way(actor, *mode),
            )),
            Op::Wait { text, owners, .. } => Some(((*text).to_owned(), owners(&state.vars))),
            _ => None,
        }
    }

    fn laws(&self) -> Vec<(&'static str, &'static str)> {
        self.laws.iter().map(|law| (law.key, law.says)).collect()
    }

    fn broken(&self, state: &State<V>) -> u16 {
        state.broken
    }

    fn actors(&self) -> Vec<String> {
        self.actors.iter().map(|actor| actor.name.clone()).collect()
    }

    fn print(&self, state: &State<V>) -> String {
        format!("{:#?}", state.vars)
    }
}

/// Actors, steps and ways are few: see [`MAX_ACTORS`] and [`super::program`].
fn narrow(n: usize) -> u8 {
    debug_assert!(n <= usize::from(u8::MAX));
    n as u8
}
