//! Everything that a small model can become.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

/// What is wrong, and the steps that led to it.
pub type Finding = String;

/// What can happen to it.
pub trait Rules {
    type State: Clone + Debug + Eq + Hash;
    type Step: Copy + Debug + PartialEq + 'static;

    /// What happens by itself, sooner or later.
    const PROGRESS: &'static [Self::Step];

    /// The state after a step; `None` if the step cannot happen now.
    ///
    /// # Errors
    /// What the step broke.
    fn step(&self, state: &Self::State, step: Self::Step) -> Result<Option<Self::State>, Finding>;

    /// Where every state must be able to get to by progress alone.
    fn is_goal(&self, state: &Self::State) -> bool;

    /// What may happen, but only so often in all.
    fn trouble(&self) -> &[Self::Step];
}

/// Explores everything reachable with so much trouble at most; the number of states, or what is wrong
/// and how to get there.
pub fn search<R: Rules>(rules: &R, start: R::State, limit: u8) -> Result<usize, Finding> {
    // Each with the trouble that is left to it.
    let mut index = HashMap::from([((start.clone(), limit), 0)]);
    let mut states = vec![(start, limit)];
    let mut from: Vec<Option<(usize, R::Step)>> = vec![None];
    // Progress edges, backwards.
    let mut reached_from: Vec<Vec<usize>> = vec![Vec::new()];
    let path = |from: &[Option<(usize, R::Step)>], mut at: usize| {
        let mut steps = Vec::new();
        while let Some((before, step)) = from[at] {
            steps.push(format!("{step:?}"));
            at = before;
        }
        steps.reverse();
        steps.join(", ")
    };
    let mut at = 0;
    while at < states.len() {
        let (state, left) = states[at].clone();
        let trouble = if left > 0 { rules.trouble() } else { &[] };
        for step in R::PROGRESS.iter().chain(trouble) {
            let next = match rules.step(&state, *step) {
                Ok(None) => continue,
                Ok(Some(next)) => next,
                Err(finding) => {
                    return Err(format!(
                        "{finding}: {}, {step:?}\n{state:#?}",
                        path(&from, at)
                    ));
                }
            };
            let progress = R::PROGRESS.contains(step);
            let left = if progress { left } else { left - 1 };
            let to = *index.entry((next, left)).or_insert_with_key(|next| {
                states.push(next.clone());
                from.push(Some((at, *step)));
                reached_from.push(Vec::new());
                states.len() - 1
            });
            if progress {
                reached_from[to].push(at);
            }
        }
        at += 1;
    }
    let mut alive: Vec<bool> = states
        .iter()
        .map(|(state, _)| rules.is_goal(state))
        .collect();
    let mut todo: Vec<usize> = (0..states.len()).filter(|n| alive[*n]).collect();
    while let Some(at) = todo.pop() {
        for before in &reached_from[at] {
            if !std::mem::replace(&mut alive[*before], true) {
                todo.push(*before);
            }
        }
    }
    match alive.iter().position(|alive| !alive) {
        Some(dead) => Err(format!(
            "dead end: {}\n{:#?}",
            path(&from, dead),
            states[dead].0
        )),
        None => Ok(states.len()),
    }
}
