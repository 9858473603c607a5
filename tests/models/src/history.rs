//! A history as people read it: who did what, and then who holds what and who waits for whom.

use super::search::{self, Path};
use super::subject::Subject;
use serde::Serialize;

/// What an actor waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// The thing.
    pub what: String,
    /// The columns of those who would have to act.
    pub whom: Vec<usize>,
}

/// How an actor stands after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Locks and references.
    pub holds: Vec<String>,
    /// What it waits for, if it cannot move.
    pub waits: Option<Wait>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The column.
    pub actor: usize,
    /// What it did.
    pub text: String,
    /// The laws this step broke.
    pub breaks: Vec<&'static str>,
    /// Every actor afterwards.
    pub after: Vec<Standing>,
}

/// A history: the shortest one that breaks a law, or one that comes to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    /// The law that it breaks.
    pub law: Option<&'static str>,
    /// Columns.
    pub actors: Vec<String>,
    /// Every actor at the start.
    pub start: Vec<Standing>,
    /// Steps.
    pub events: Vec<Event>,
    /// What is left over, if the law is that nothing may be.
    pub left_over: Option<String>,
}

impl History {
    pub(super) fn of<S: Subject>(
        subject: &S,
        law: Option<&'static str>,
        path: &Path<S>,
    ) -> History {
        let mut last = subject.start();
        let mut events = Vec::new();
        for (step, next) in path {
            let new = subject.broken(next) & !subject.broken(&last);
            let mut breaks: Vec<&'static str> = (subject.laws().into_iter().enumerate())
                .filter(|(i, _)| new & (1 << i) != 0)
                .map(|(_, (key, _))| key)
                .collect();
            if events.len() + 1 == path.len() {
                breaks.extend(law.filter(|law| !breaks.contains(law)));
            }
            events.push(Event {
                actor: usize::from(step.actor),
                text: subject.describe(&last, *step),
                breaks,
                after: standings(subject, next),
            });
            last = next.clone();
        }
        History {
            law,
            actors: subject.actors(),
            start: standings(subject, &subject.start()),
            events,
            left_over: (law == Some(search::NOTHING_LEAKS))
                .then(|| subject.leaked(&last))
                .flatten(),
        }
    }

    /// How everybody stands at the end.
    pub fn end(&self) -> &[Standing] {
        self.events.last().map_or(&[], |event| &event.after)
    }

    /// The cycle of waits at the end, as columns; empty if there is none.
    pub fn cycle(&self) -> Vec<usize> {
        let pairs: Vec<(usize, usize)> = (self.end().iter().enumerate())
            .filter_map(|(actor, standing)| Some((actor, standing.waits.as_ref()?)))
            .flat_map(|(actor, wait)| wait.whom.iter().map(move |whom| (actor, *whom)))
            .collect();
        pv_harness::cycle::cycle(&pairs).unwrap_or_default()
    }

    /// The waits at the end, one sentence each.
    pub fn waits(&self) -> Vec<String> {
        let name = |column: &usize| self.actors[*column].as_str();
        (self.end().iter().enumerate())
            .filter_map(|(actor, standing)| {
                let wait = standing.waits.as_ref()?;
                let whom: Vec<&str> = wait.whom.iter().map(name).collect();
                let holds = if standing.holds.is_empty() {
                    String::new()
                } else {
                    format!("holds {} and ", standing.holds.join(", "))
                };
                let whom = if whom.is_empty() {
                    "nobody who could help".to_owned()
                } else {
                    whom.join(", ")
                };
                Some(format!(
                    "{} {holds}waits: {} ← {whom}",
                    self.actors[actor], wait.what
                ))
            })
            .collect()
    }
}

fn standings<S: Subject>(subject: &S, state: &S::State) -> Vec<Standing> {
    (0..subject.actors().len())
        .map(|actor| Standing {
            holds: subject.held(state, actor),
            waits: subject
                .waits(state, actor)
                .map(|(what, whom)| Wait { what, whom }),
        })
        .collect()
}
