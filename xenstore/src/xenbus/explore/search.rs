//! Everything that a small world can become.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

/// What is wrong, and the steps that led to it.
pub type Finding = String;

/// What can happen to a world.
pub trait Rules {
    type World: Clone + Debug + Eq + Hash;
    type Step: Copy + Debug + PartialEq + 'static;

    /// What happens by itself, sooner or later.
    const PROGRESS: &'static [Self::Step];

    /// The world after a step; `None` if the step cannot happen now.
    ///
    /// # Errors
    /// What the step broke.
    fn step(&self, world: &Self::World, step: Self::Step) -> Result<Option<Self::World>, Finding>;

    /// Where every world must be able to get to by progress alone.
    fn is_goal(&self, world: &Self::World) -> bool;

    /// What may happen, but only so often in all.
    fn trouble(&self) -> &[Self::Step];
}

/// Explores everything reachable with so much trouble at most; the number of worlds, or what is wrong
/// and how to get there.
pub fn search<R: Rules>(rules: &R, start: R::World, limit: u8) -> Result<usize, Finding> {
    // Each with the trouble that is left to it.
    let mut index = HashMap::from([((start.clone(), limit), 0)]);
    let mut worlds = vec![(start, limit)];
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
    while at < worlds.len() {
        let (world, left) = worlds[at].clone();
        let trouble = if left > 0 { rules.trouble() } else { &[] };
        for step in R::PROGRESS.iter().chain(trouble) {
            let next = match rules.step(&world, *step) {
                Ok(None) => continue,
                Ok(Some(next)) => next,
                Err(finding) => {
                    return Err(format!(
                        "{finding}: {}, {step:?}\n{world:#?}",
                        path(&from, at)
                    ));
                }
            };
            let progress = R::PROGRESS.contains(step);
            let left = if progress { left } else { left - 1 };
            let to = *index.entry((next, left)).or_insert_with_key(|next| {
                worlds.push(next.clone());
                from.push(Some((at, *step)));
                reached_from.push(Vec::new());
                worlds.len() - 1
            });
            if progress {
                reached_from[to].push(at);
            }
        }
        at += 1;
    }
    let mut alive: Vec<bool> = worlds
        .iter()
        .map(|(world, _)| rules.is_goal(world))
        .collect();
    let mut todo: Vec<usize> = (0..worlds.len()).filter(|n| alive[*n]).collect();
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
            worlds[dead].0
        )),
        None => Ok(worlds.len()),
    }
}
