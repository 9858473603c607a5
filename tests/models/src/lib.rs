//! Six discussions about taking memory, or a device, away while others use it, as models that a checker
//! explores in every interleaving.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`subject`]: what the checker can explore.
//! 2. [`lock`]: a lock as Linux's behaves for its waiters.
//! 3. [`program`]: what one actor does, step by step.
//! 4. [`model`]: a subject whose actors follow programs.
//! 5. `setup`: what has happened before libgnt's own machines are explored.
//! 6. [`machine`]: libgnt's own state machines as a subject.
//! 7. [`graph`]: the whole graph of states, and what only that can say.
//! 8. [`search`]: runs the checker, and finds the shortest way to what it found.
//! 9. [`history`]: that way in words.
//! 10. [`diagram`]: the same as a drawing.
//! 11. [`variant`]: an entry of the catalogue: a model, and what is expected of it.
//! 12. [`systems`]: the six systems, and libgnt itself.
//! 13. [`catalogue`]: finds variants by name.
//! 14. [`verdict`]: what was found, against what was expected.
//! 15. [`table`]: the table of verdicts.
//! 16. [`cli`]: `pv-stress model`.
//! 17. [`docs`]: the drawings and tables of `docs/unmap.md`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod subject;

pub mod lock;

pub mod program;

pub mod model;

mod setup;

pub mod machine;

pub mod graph;

pub mod search;

pub mod history;

pub mod diagram;

pub mod variant;

pub mod systems;

pub mod catalogue;

pub mod verdict;

pub mod table;

pub mod cli;

pub mod docs;

#[cfg(test)]
mod reasons;
#[cfg(test)]
mod tests;
