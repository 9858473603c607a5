//! The whole graph of states, gathered while the checker explores; and what only the whole graph
//! can say: whether from every state the end can still be reached, and in which order locks are
//! taken.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;

/// A state's name in the graph.
pub type Name = u64;

/// The name of a state: a hash with fixed keys, the same in every run. The checker, too, tells
/// states apart by 64-bit hashes; with a million states, two collide once in 10⁷ runs.
pub fn name<S: Hash>(state: &S) -> Name {
    ahash::RandomState::with_seeds(7, 4, 8, 1).hash_one(state)
}

/// Names are hashes already.
#[derive(Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// A set of names.
pub type Names = HashSet<Name, BuildHasherDefault<Plain>>;

/// What the checker's threads write down as they go.
#[derive(Debug, Default)]
pub struct Recorder {
    edges: [Mutex<Vec<(Name, Name)>>; SHARDS],
    ends: Mutex<Vec<Name>>,
    stuck: Mutex<Vec<Name>>,
    order: AtomicU64,
    /// States whose moves have been looked at.
    pub expanded: AtomicUsize,
    /// Moves seen.
    pub moves: AtomicUsize,
    deadline: Mutex<Option<Instant>>,
    max_states: AtomicUsize,
    stopped: AtomicBool,
    over: AtomicBool,
}

impl Recorder {
    /// Stops the exploration after so many states, or so long.
    pub fn limit(&self, max_states: usize, time: Duration) {
        self.max_states.store(max_states, Ordering::Relaxed);
        *lock(&self.deadline) = Instant::now().checked_add(time);
    }

    /// Is it time to stop? Asked before each state.
    pub fn stopped(&self) -> bool {
        if self.cut() {
            return true;
        }
        let expanded = self.expanded.load(Ordering::Relaxed);
        // The clock is not free: a look at it now and then is enough.
        let late = expanded.is_multiple_of(1024)
            && lock(&self.deadline).is_some_and(|deadline| Instant::now() >= deadline);
        if late || expanded >= self.max_states.load(Ordering::Relaxed) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.cut()
    }

    /// The exploration has ended: what the checker asks from now on, to tell how it came to a
    /// state, is not part of it.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Has it ended?
    pub fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Was the exploration stopped before its end?
    pub fn cut(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// A state was looked at: is it an end, and can it move?
    pub fn state(&self, name: impl FnOnce() -> Name, end: bool, moves: usize) {
        self.expanded.fetch_add(1, Ordering::Relaxed);
        let list = match (end, moves) {
            (true, _) => &self.ends,
            (false, 0) => &self.stuck,
            (false, _) => return,
        };
        lock(list).push(name());
    }

    /// A move leads from one state to another.
    pub fn edge(&self, from: Name, to: Name) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        lock(&self.edges[(from % SHARDS as u64) as usize]).push((from, to));
    }

    /// A lock was asked for while another was held. Locks are few: see `MAX_LOCKS`.
    pub fn order(&self, held: usize, taken: usize) {
        self.order
            .fetch_or(1 << (held * 8 + taken), Ordering::Relaxed);
    }

    /// Every pair (held, taken) that occurred.
    pub fn orders(&self) -> Vec<(usize, usize)> {
        let order = self.order.load(Ordering::Relaxed);
        (0..64)
            .filter(|bit| order & (1 << bit) != 0)
            .map(|bit| (bit / 8, bit % 8))
            .collect()
    }

    /// States that are not the end and have no move.
    pub fn stuck(&self) -> Names {
        lock(&self.stuck).iter().copied().collect()
    }

    /// What the whole graph says. Takes it apart.
    pub fn analyse(&self, start: Name) -> Analysis {
        let mut index: HashMap<Name, u32, BuildHasherDefault<Plain>> = HashMap::default();
        let mut names = Vec::new();
        let mut number = |name: Name| {
            *index.entry(name).or_insert_with(|| {
                names.push(name);
                (names.len() - 1) as u32
            })
        };
        let start = number(start);
        let mut pairs = Vec::new();
        for shard in &self.edges {
            for (from, to) in std::mem::take(&mut *lock(shard)) {
                pairs.push((number(from), number(to)));
            }
        }
        let ends: Vec<u32> = lock(&self.ends).iter().map(|end| number(*end)).collect();
        for stuck in lock(&self.stuck).iter() {
            number(*stuck);
        }
        let depth = Neighbours::of(&pairs, names.len()).levels(&[start]).1;
        pairs
            .iter_mut()
            .for_each(|(from, to)| std::mem::swap(from, to));
        let (reaches, _) = Neighbours::of(&pairs, names.len()).levels(&ends);
        let doomed = names.into_iter().zip(reaches);
        Analysis {
            doomed: doomed
                .filter(|(_, reaches)| !reaches)
                .map(|(name, _)| name)
                .collect(),
            depth,
        }
    }
}

/// What only the whole graph can say.
#[derive(Debug)]
pub struct Analysis {
    /// States from which the end cannot be reached: found by walking back from every end, over
    /// every edge.
    pub doomed: Names,
    /// Steps from the start to the farthest state, each reached the shortest way.
    pub depth: usize,
}

/// Where the edges of each state lead, packed.
struct Neighbours {
    first: Vec<u32>,
    lead_to: Vec<u32>,
}

impl Neighbours {
    fn of(pairs: &[(u32, u32)], states: usize) -> Neighbours {
        let mut first = vec![0_u32; states + 1];
        for (from, _) in pairs {
            first[*from as usize + 1] += 1;
        }
        for i in 1..first.len() {
            first[i] += first[i - 1];
        }
        let mut fill = first.clone();
        let mut lead_to = vec![0_u32; pairs.len()];
        for (from, to) in pairs {
            let slot = &mut fill[*from as usize];
            lead_to[*slot as usize] = *to;
            *slot += 1;
        }
        Neighbours { first, lead_to }
    }

    /// What can be reached, and in how many steps at most.
    fn levels(&self, from: &[u32]) -> (Vec<bool>, usize) {
        let mut reached = vec![false; self.first.len() - 1];
        let mut level = Vec::new();
        for state in from {
            if !std::mem::replace(&mut reached[*state as usize], true) {
                level.push(*state);
            }
        }
        let mut depth = 0;
        loop {
            let mut next = Vec::new();
            for state in level {
                let range = self.first[state as usize]..self.first[state as usize + 1];
                for to in &self.lead_to[range.start as usize..range.end as usize] {
                    if !std::mem::replace(&mut reached[*to as usize], true) {
                        next.push(*to);
                    }
                }
            }
            if next.is_empty() {
                return (reached, depth);
            }
            depth += 1;
            level = next;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doomed_states_are_those_that_cannot_come_to_the_end() {
        // 1 → 2 → 3 (end); 1 → 4 ⇄ 5 (livelock); 2 → 6 (stuck).
        let recorder = Recorder::default();
        for (from, to) in [(1, 2), (2, 3), (1, 4), (4, 5), (5, 4), (2, 6)] {
            recorder.edge(from, to);
        }
        recorder.state(|| 3, true, 0);
        recorder.state(|| 6, false, 0);
        assert_eq!(recorder.stuck(), Names::from_iter([6]));
        let analysis = recorder.analyse(1);
        assert_eq!(analysis.doomed, Names::from_iter([4, 5, 6]));
        assert_eq!(analysis.depth, 2);
    }
}
