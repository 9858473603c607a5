//! The five discussions about taking memory away while others use it, as models that a checker
//! explores in every interleaving.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod catalogue;
pub mod cli;
pub mod diagram;
pub mod docs;
pub mod graph;
pub mod history;
pub mod lock;
pub mod machine;
pub mod model;
pub mod program;
pub mod search;
mod setup;
pub mod subject;
pub mod systems;
pub mod table;
pub mod variant;
pub mod verdict;

#[cfg(test)]
mod reasons;
#[cfg(test)]
mod tests;
