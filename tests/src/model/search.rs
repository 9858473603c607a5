//! Runs the checker over a model, and finds the shortest history to what it found.

use super::graph::{self, Name, Names, Plain, Recorder};
use super::world::{Move, State, Vars, World};
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

impl<V: Vars> Model for World<V> {
    type State = State<V>;
    type Action = Move;

    fn init_states(&self) -> Vec<State<V>> {
        vec![self.start()]
    }

    fn actions(&self, state: &State<V>, actions: &mut Vec<Move>) {
        let Some(recorder) = self.recorder.as_ref().filter(|r| !r.over()) else {
            return self.moves(state, actions);
        };
        if recorder.stopped() {
            return;
        }
        self.moves(state, actions);
        recorder.state(|| graph::name(state), self.is_end(state), actions.len());
    }

    fn next_state(&self, last: &State<V>, action: Move) -> Option<State<V>> {
        let next = self.make(last, action);
        if let Some(recorder) = self.recorder.as_ref().filter(|r| !r.over()) {
            recorder.edge(graph::name(last), graph::name(&next));
            for (held, taken) in self.order(last, action) {
                recorder.order(held, taken);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<_> = (self.laws.iter().zip(by_number::<V>()))
            .map(|(law, condition)| Property::always(law.key, condition))
            .collect();
        properties.push(Property::always(NOTHING_LEAKS, |world: &Self, state| {
            world.leaked(state).is_none()
        }));
        properties.push(Property::always("no-deadlock", |world: &Self, state| {
            let mut moves = Vec::new();
            world.moves(state, &mut moves);
            world.is_end(state) || !moves.is_empty()
        }));
        if self.recorder.is_some() {
            // The checker stops when every property has failed. The graph has to be whole.
            properties.push(Property::always("goes-on", |_: &Self, _| true));
        }
        properties
    }

    fn format_action(&self, action: &Move) -> String {
        self.label(*action)
    }

    fn format_step(&self, last: &State<V>, action: Move) -> Option<String> {
        let actor = usize::from(action.actor);
        let did = self.describe(last, action);
        let next = self.make(last, action);
        let mut text = format!("{} {did}\n", self.actors[actor].name);
        for (i, program) in self.actors.iter().enumerate() {
            let held = self.held(&next, i).join(", ");
            let waits = self.waits(&next, i).map(|(what, _)| what);
            text += &format!(
                "{}: holds [{held}]{}\n",
                program.name,
                waits.map_or(String::new(), |what| format!(", waits: {what}"))
            );
        }
        Some(text + &format!("{:#?}", next.vars))
    }
}

type Condition<V> = fn(&World<V>, &State<V>) -> bool;

/// A property is a plain function to the checker, so each law's number is part of its type.
fn by_number<V: Vars>() -> [Condition<V>; 12] {
    fn kept<const N: usize, V: Vars>(_: &World<V>, state: &State<V>) -> bool {
        state.broken & (1 << N) == 0
    }
    [
        kept::<0, V>,
        kept::<1, V>,
        kept::<2, V>,
        kept::<3, V>,
        kept::<4, V>,
        kept::<5, V>,
        kept::<6, V>,
        kept::<7, V>,
        kept::<8, V>,
        kept::<9, V>,
        kept::<10, V>,
        kept::<11, V>,
    ]
}

/// Explores the whole model with stateright and says which laws it breaks.
pub fn run<V: Vars>(
    build: &dyn Fn() -> World<V>,
    limits: Limits,
    recorder: &Arc<Recorder>,
) -> Found {
    let began = Instant::now();
    recorder.limit(limits.max_states, limits.time);
    let mut world = build();
    world.recorder = Some(Arc::clone(recorder));
    let checker = world.checker().threads(THREADS).spawn_bfs().join();
    recorder.end();
    let states = checker.unique_state_count();
    let exhaustive = !recorder.cut() && recorder.expanded.load(Ordering::Relaxed) == states;
    let mut broken: Vec<&'static str> = checker
        .discoveries()
        .into_keys()
        .filter(|key| *key != "no-deadlock")
        .collect();
    if !recorder.stuck().is_empty() || (exhaustive && !recorder.doomed().is_empty()) {
        broken.push(NOBODY_WAITS);
    }
    if graph::cycle(&recorder.orders()).is_some() {
        broken.push(LOCK_ORDER);
    }
    broken.sort_unstable();
    Found {
        broken,
        exhaustive,
        states,
        moves: recorder.moves.load(Ordering::Relaxed),
        depth: checker.max_depth().saturating_sub(1),
        time: began.elapsed(),
    }
}

/// A history: from the start, each move and the state after it.
pub type Path<V> = Vec<(Move, State<V>)>;

/// The shortest history whose last step satisfies `goal`: breadth first, one thread, so that it
/// is the same each time.
pub fn shortest<V: Vars>(
    world: &World<V>,
    max_states: usize,
    goal: impl Fn(&State<V>, Move, &State<V>) -> bool,
) -> Option<Path<V>> {
    let start = world.start();
    let mut came: HashMap<Name, (Name, Move), BuildHasherDefault<Plain>> = HashMap::default();
    let mut seen = Names::default();
    seen.insert(graph::name(&start));
    let mut todo = VecDeque::from([start]);
    let mut moves = Vec::new();
    while let Some(state) = todo.pop_front() {
        let from = graph::name(&state);
        moves.clear();
        world.moves(&state, &mut moves);
        for step in &moves {
            let next = world.make(&state, *step);
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
                return Some(replay(world, &steps));
            }
        }
    }
    None
}

fn replay<V: Vars>(world: &World<V>, steps: &[Move]) -> Path<V> {
    let mut state = world.start();
    steps
        .iter()
        .map(|step| {
            state = world.make(&state, *step);
            (*step, state.clone())
        })
        .collect()
}

/// The shortest history that breaks a law.
pub fn shortest_to<V: Vars>(
    build: &dyn Fn() -> World<V>,
    law: &str,
    max_states: usize,
) -> Option<Path<V>> {
    let world = build();
    match law {
        NOTHING_LEAKS => shortest(&world, max_states, |_, _, next| {
            world.leaked(next).is_some()
        }),
        NOBODY_WAITS => {
            let stuck = shortest(&world, max_states, |_, _, next| {
                let mut moves = Vec::new();
                world.moves(next, &mut moves);
                moves.is_empty() && !world.is_end(next)
            });
            stuck.or_else(|| {
                // A livelock: everybody can move, and to no avail.
                let recorder = Arc::default();
                let limits = Limits {
                    max_states,
                    ..Limits::default()
                };
                run(build, limits, &recorder);
                let doomed = recorder.doomed();
                shortest(&world, max_states, |_, _, next| {
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
            let cycle = graph::cycle(&recorder.orders())?;
            // The step that takes the cycle's first lock while holding its last.
            let (first, last) = (*cycle.first()?, *cycle.last()?);
            shortest(&world, max_states, |state, step, _| {
                world.order(state, step).contains(&(last, first))
            })
        }
        _ => {
            let bit = 1 << world.laws.iter().position(|l| l.key == law)?;
            shortest(&world, max_states, |_, _, next| next.broken & bit != 0)
        }
    }
}

/// A run in which actors take these turns as far as they can move, and then everybody in turn.
pub fn follow<V: Vars>(world: &World<V>, turns: &[usize]) -> Path<V> {
    // More than any run of any model is long.
    const ENOUGH: usize = 400;
    let everybody = (0..world.actors.len()).cycle().take(ENOUGH);
    let mut state = world.start();
    let mut path = Vec::new();
    let mut moves = Vec::new();
    for actor in turns.iter().copied().chain(everybody) {
        moves.clear();
        world.moves(&state, &mut moves);
        if let Some(step) = moves.iter().find(|step| usize::from(step.actor) == actor) {
            state = world.make(&state, *step);
            path.push((*step, state.clone()));
        }
        if world.is_end(&state) {
            break;
        }
    }
    path
}
