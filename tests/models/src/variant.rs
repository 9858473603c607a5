//! The catalogue's entries: a system's variant, what is expected of it, and its model.

use super::graph::Recorder;
use super::history::History;
use super::search::{self, Checked, Found, Limits};
use super::subject::Subject;
use stateright::Model as _;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every law holds in every interleaving.
    Holds,
    /// Exactly these laws are broken; the first is the point of the variant.
    Fails(&'static [&'static str]),
}

impl Expected {
    /// The laws that must be broken, sorted.
    pub fn broken(self) -> Vec<&'static str> {
        match self {
            Expected::Holds => Vec::new(),
            Expected::Fails(laws) => {
                let mut laws = laws.to_vec();
                laws.sort_unstable();
                laws
            }
        }
    }
}

/// How large a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Actors of the kind that there are many of.
    pub actors: usize,
}

/// A system with one way to do it.
pub struct Variant {
    /// The system: `gntdev`, `p2pdma`, …
    pub system: &'static str,
    /// The variant.
    pub name: &'static str,
    /// What must be found.
    pub expected: Expected,
    /// In one line.
    pub statement: &'static str,
    /// The story in plain words.
    pub story: &'static str,
    /// How many actors of a kind, unless asked for otherwise; and at most.
    pub actors: (usize, usize),
    /// Which kind that is.
    pub kind: &'static str,
    pub(super) model: Box<dyn AnyModel>,
}

impl Variant {
    /// `SYSTEM/VARIANT`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.system, self.name)
    }

    /// The bounds for so many actors of a kind, within what the model can hold.
    pub fn bounds(&self, actors: Option<usize>) -> Bounds {
        Bounds {
            actors: actors.unwrap_or(self.actors.0).clamp(1, self.actors.1),
        }
    }

    /// Explores every interleaving.
    pub fn check(&self, bounds: Bounds, limits: Limits, recorder: &Arc<Recorder>) -> Found {
        self.model.check(bounds, limits, recorder)
    }

    /// The shortest history that breaks a law; `None` if none was found within so many states.
    pub fn history(&self, bounds: Bounds, law: &'static str, max_states: usize) -> Option<History> {
        self.model.history(bounds, law, max_states)
    }

    /// A run to the end, with actors taking turns as in `like`: how this variant gets through
    /// what undoes another one.
    pub fn run_like(&self, bounds: Bounds, like: &History) -> History {
        self.model.run_like(bounds, like)
    }

    /// The laws of this model, as (name, sentence).
    pub fn laws(&self) -> Vec<(&'static str, &'static str)> {
        self.model.laws()
    }

    /// Serves the checker's explorer; does not return.
    pub fn explore(&self, bounds: Bounds, listen: SocketAddr) {
        self.model.explore(bounds, listen);
    }
}

/// A model whose variables' type does not matter.
pub(super) trait AnyModel: Send + Sync {
    fn check(&self, bounds: Bounds, limits: Limits, recorder: &Arc<Recorder>) -> Found;
    fn history(&self, bounds: Bounds, law: &'static str, max_states: usize) -> Option<History>;
    fn run_like(&self, bounds: Bounds, like: &History) -> History;
    fn laws(&self) -> Vec<(&'static str, &'static str)>;
    fn explore(&self, bounds: Bounds, listen: SocketAddr);
}

/// Builds a model of a size.
pub(super) struct Builder<F>(pub F);

impl<S: Subject, F: Fn(Bounds) -> S + Send + Sync> AnyModel for Builder<F> {
    fn check(&self, bounds: Bounds, limits: Limits, recorder: &Arc<Recorder>) -> Found {
        search::run(&|| (self.0)(bounds), limits, recorder)
    }

    fn history(&self, bounds: Bounds, law: &'static str, max_states: usize) -> Option<History> {
        let build = || (self.0)(bounds);
        let path = search::shortest_to(&build, law, max_states)?;
        Some(History::of(&build(), Some(law), &path))
    }

    fn run_like(&self, bounds: Bounds, like: &History) -> History {
        let model = (self.0)(bounds);
        let turns: Vec<usize> = (like.events.iter())
            .filter_map(|event| {
                let name = &like.actors[event.actor];
                model.actors().iter().position(|actor| actor == name)
            })
            .collect();
        let path = search::follow(&model, &turns);
        History::of(&model, None, &path)
    }

    fn laws(&self) -> Vec<(&'static str, &'static str)> {
        let model = (self.0)(Bounds { actors: 1 });
        let mut laws = model.laws();
        laws.extend(search::COMMON_LAWS);
        laws
    }

    fn explore(&self, bounds: Bounds, listen: SocketAddr) {
        Checked::plain((self.0)(bounds)).checker().serve(listen);
    }
}
