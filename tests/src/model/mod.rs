//! The five discussions about taking memory away while others use it, as models that a checker
//! explores in every interleaving.

pub mod catalogue;
pub mod cli;
pub mod diagram;
pub mod graph;
pub mod history;
pub mod lock;
pub mod program;
pub mod search;
pub mod systems;
pub mod table;
pub mod variant;
pub mod verdict;
pub mod world;

#[cfg(test)]
mod tests;
