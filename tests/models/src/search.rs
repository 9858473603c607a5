//! Runs the checker over a model, and finds the shortest history to what it found.

use super::graph::{self, Name, Names, Plain, Recorder};
use super::subject::{Move, Subject};
use stateright::{Checker, Model, Property};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The law that needs the whole graph: from every state that can be reached, the end can be.
pub const NOBODY_WAITS: &str = "nobody-waits-for-ever";
/// Nothing is left over when everybody is done.
pub const NOTHING_LEAKS: &str = "nothing-leaks";
/// The order in which locks are taken has no cycle. Like lockdep, this objects to an order that
/// could deadlock even where this model's actors cannot make it happen.
pub const LOCK_ORDER: &str = "lock-order";

/// The laws of every model.
pub const COMMON_LAWS: &[(&str, &str)] = &[
    (
        NOBODY_WAITS,
        "from every state that can be reached, the end can be: no deadlock, no livelock",
    ),
    (NOTHING_LEAKS, "nothing is left over when everybody is done"),
    (
        LOCK_ORDER,
        "the order in which locks are taken has no cycle",
    ),
];

/// Threads of the checker: as many as the smallest machine it is meant for has cores.
const THREADS: usize = 2;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Stop when this many distinct states have been seen.
    pub max_states: usize,
    /// Stop after this long.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // About 130 bytes a state and 24 a move: well inside 4 GiB.
        Limits {
            max_states: 5_000_000,
            time: Duration::from_secs(120),
        }
    }
}

/// What the checker found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The laws that were broken, sorted.
    pub broken: Vec<&'static str>,
    /// Every state that can be reached was looked at.
    pub exhaustive: bool,
    /// Distinct states.
    pub states: usize,
    /// Moves between them.
    pub moves: usize,
    /// The longest of the shortest ways to any state, as the search went.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
}

/// A subject as the checker takes it, with somebody to write down what it sees.
pub struct Checked<S> {
    subject: S,
    recorder: Option<Arc<Recorder>>,
}

impl<S: Subject> Checked<S> {
    /// For the explorer: nothing is written down.
    pub fn plain(subject: S) -> Self {
        Checked {
            subject,
            recorder: None,
        }
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref().filter(|recorder| !recorder.over())
    }
}

impl<S: Subject> Model for Checked<S> {
    type State = S::State;
    type Action = Move;

    fn init_states(&self) -> Vec<S::State> {
        vec![self.subject.start()]
    }

    fn actions(&self, state: &S::State, actions: &mut Vec<Move>) {
        let Some(recorder) = self.recorder() else {
            return self.subject.moves(state, actions);
        };
        if recorder.stopped() {
            return;
        }
        self.subject.moves(state, actions);
        let end = self.subject.is_end(state);
        recorder.state(|| graph::name(state), end, actions.len());
    }

    fn next_state(&self, last: &S::State, action: Move) -> Option<S::State> {
        let next = self.subject.make(last, action);
        if let Some(recorder) = self.recorder() {
            recorder.edge(graph::name(last), graph::name(&next));
            for (held, taken) in self.subject.order(last, action) {
                recorder.order(held, taken);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let laws = self.subject.laws().into_iter();
        let mut properties: Vec<_> = laws
            .zip(by_number::<S>())
            .map(|((key, _), condition)| Property::always(key, condition))
            .collect();
        properties.push(Property::always(NOTHING_LEAKS, |model: &Self, state| {
            model.subject.leaked(state).is_none()
        }));
        properties.push(Property::always("no-deadlock", |model: &Self, state| {
            let mut moves = Vec::new();
            model.subject.moves(state, &mut moves);
            model.subject.is_end(state) || !moves.is_empty()
        }));
        if self.recorder.is_some() {
            // The checker stops when every property has failed. The graph has to be whole.
            properties.push(Property::always("goes-on", |_: &Self, _| true));
        }
        properties
    }

    fn format_action(&self, action: &Move) -> String {
        self.subject.label(*action)
    }

    fn format_step(&self, last: &S::State, action: Move) -> Option<String> {
        let subject = &self.subject;
        let names = subject.actors();
        let did = subject.describe(last, action);
        let next = subject.make(last, action);
        let mut text = format!("{} {did}\n", names[usize::from(action.actor)]);
        for (i, name) in names.iter().enumerate() {
            let held = subject.held(&next, i).join(", ");
            let waits = subject.waits(&next, i).map(|(what, _)| what);
            let waits = waits.map_or(String::new(), |what| format!(", waits: {what}"));
            text += &format!("{name}: holds [{held}]{waits}\n");
        }
        Some(text + &subject.print(&next))
    }
}

type Condition<S> = fn(&Checked<S>, &<S as Subject>::State) -> bool;

/// A property is a plain function to the checker, so each law's number is part of its type.
fn by_number<S: Subject>() -> [Condition<S>; 12] {
    fn kept<const N: usize, S: Subject>(model: &Checked<S>, state: &S::State) -> bool {
        model.subject.broken(state) & (1 << N) == 0
    }
    [
        kept::<0, S>,
        kept::<1, S>,
        kept::<2, S>,
        kept::<3, S>,
        kept::<4, S>,
        kept::<5, S>,
        kept::<6, S>,
        kept::<7, S>,
        kept::<8, S>,
        kept::<9, S>,
        kept::<10, S>,
        kept::<11, S>,
    ]
}

/// Explores the whole model with stateright and says which laws it breaks.
pub fn run<S: Subject>(build: &dyn Fn() -> S, limits: Limits, recorder: &Arc<Recorder>) -> Found {
    explore(build, limits, recorder).0
}

/// The same, and the states from which the end cannot be reached.
fn explore<S: Subject>(
    build: &dyn Fn() -> S,
    limits: Limits,
    recorder: &Arc<Recorder>,
) -> (Found, Names) {
    let began = Instant::now();
    recorder.limit(limits.max_states, limits.time);
    let subject = build();
    let start = graph::name(&subject.start());
    let checked = Checked {
        subject,
        recorder: Some(Arc::clone(recorder)),
    };
    let checker = checked.checker().threads(THREADS).spawn_bfs().join();
    recorder.end();
    let states = checker.unique_state_count();
    let exhaustive = !recorder.cut() && recorder.expanded.load(Ordering::Relaxed) == states;
    let mut broken: Vec<&'static str> = checker
        .discoveries()
        .into_keys()
        .filter(|key| *key != "no-deadlock")
        .collect();
    let analysis = recorder.analyse(start);
    // A part of the graph has ends that lie outside: it says nothing of what cannot be reached.
    if !recorder.stuck().is_empty() || (exhaustive && !analysis.doomed.is_empty()) {
        broken.push(NOBODY_WAITS);
    }
    if pv_harness::cycle::cycle(&recorder.orders()).is_some() {
        broken.push(LOCK_ORDER);
    }
    broken.sort_unstable();
    let found = Found {
        broken,
        exhaustive,
        states,
        moves: recorder.moves.load(Ordering::Relaxed),
        depth: analysis.depth,
        time: began.elapsed(),
    };
    (found, analysis.doomed)
}

/// A history: from the start, each move and the state after it.
pub type Path<S> = Vec<(Move, <S as Subject>::State)>;

/// The shortest history whose last step satisfies `goal`: breadth first, one thread, so that it
/// is the same each time.
pub fn shortest<S: Subject>(
    subject: &S,
    max_states: usize,
    goal: impl Fn(&S::State, Move, &S::State) -> bool,
) -> Option<Path<S>> {
    let start = subject.start();
    let mut came: HashMap<Name, (Name, Move), BuildHasherDefault<Plain>> = HashMap::default();
    let mut seen = Names::default();
    seen.insert(graph::name(&start));
    let mut todo = VecDeque::from([start]);
    let mut moves = Vec::new();
    while let Some(state) = todo.pop_front() {
        let from = graph::name(&state);
        moves.clear();
        subject.moves(&state, &mut moves);
        for step in &moves {
            let next = subject.make(&state, *step);
            let to = graph::name(&next);
            let reached = goal(&state, *step, &next);
            if seen.insert(to) {
                came.insert(to, (from, *step));
                if seen.len() > max_states {
                    return None;
                }
                if !reached {
                    todo.push_back(next);
                }
            }
            if reached {
                let mut steps = vec![*step];
                let mut at = from;
                while let Some((before, step)) = came.get(&at) {
                    steps.push(*step);
                    at = *before;
                }
                steps.reverse();
                return Some(replay(subject, &steps));
            }
        }
    }
    None
}

fn replay<S: Subject>(subject: &S, steps: &[Move]) -> Path<S> {
    let mut state = subject.start();
    steps
        .iter()
        .map(|step| {
            state = subject.make(&state, *step);
            (*step, state.clone())
        })
        .collect()
}

/// The shortest history that breaks a law.
pub fn shortest_to<S: Subject>(
    build: &dyn Fn() -> S,
    law: &str,
    max_states: usize,
) -> Option<Path<S>> {
    let subject = build();
    match law {
        NOTHING_LEAKS => shortest(&subject, max_states, |_, _, next| {
            subject.leaked(next).is_some()
        }),
        NOBODY_WAITS => {
            let stuck = shortest(&subject, max_states, |_, _, next| {
                let mut moves = Vec::new();
                subject.moves(next, &mut moves);
                moves.is_empty() && !subject.is_end(next)
            });
            stuck.or_else(|| {
                // A livelock: everybody can move, and to no avail.
                let recorder = Arc::default();
                let limits = Limits {
                    max_states,
                    ..Limits::default()
                };
                let (_, doomed) = explore(build, limits, &recorder);
                shortest(&subject, max_states, |_, _, next| {
                    doomed.contains(&graph::name(next))
                })
            })
        }
        LOCK_ORDER => {
            let recorder = Arc::default();
            let limits = Limits {
                max_states,
                ..Limits::default()
            };
            run(build, limits, &recorder);
            let cycle = pv_harness::cycle::cycle(&recorder.orders())?;
            // The step that takes the cycle's first lock while holding its last.
            let (first, last) = (*cycle.first()?, *cycle.last()?);
            shortest(&subject, max_states, |state, step, _| {
                subject.order(state, step).contains(&(last, first))
            })
        }
        _ => {
            let bit = 1 << subject.laws().iter().position(|(key, _)| *key == law)?;
            shortest(&subject, max_states, |_, _, next| {
                subject.broken(next) & bit != 0
            })
        }
    }
}

/// A run in which actors take these turns as far as they can move, and then everybody in turn.
pub fn follow<S: Subject>(subject: &S, turns: &[usize]) -> Path<S> {
    // More than any run of any model is long.
    const ENOUGH: usize = 400;
    let everybody = (0..subject.actors().len()).cycle().take(ENOUGH);
    let mut state = subject.start();
    let mut path = Vec::new();
    let mut moves = Vec::new();
    for actor in turns.iter().copied().chain(everybody) {
        moves.clear();
        subject.moves(&state, &mut moves);
        if let Some(step) = moves.iter().find(|step| usize::from(step.actor) == actor) {
            state = subject.make(&state, *step);
            path.push((*step, state.clone()));
        }
        if subject.is_end(&state) {
            break;
        }
    }
    path
}
