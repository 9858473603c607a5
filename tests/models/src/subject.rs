//! What the checker can explore: a model written as programs ([`super::model`]), or a state machine
//! of libgnt itself ([`super::machine`]).

use std::fmt::Debug;
use std::hash::Hash;

/// One actor makes its next step, in one of the ways it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// The actor's number.
    pub actor: u8,
    /// Where the actor is: so that a move can be named without its state.
    pub at: u8,
    /// Which of its ways.
    pub way: u8,
}

/// Something with states and moves between them.
pub trait Subject: Send + Sync + 'static {
    /// A state. Its hash decides what is the same.
    type State: Clone + Hash + PartialEq + Debug + Send + Sync + 'static;

    /// The first one.
    fn start(&self) -> Self::State;
    /// Adds the moves that can be made.
    fn moves(&self, state: &Self::State, moves: &mut Vec<Move>);
    /// The state after a move.
    fn make(&self, last: &Self::State, step: Move) -> Self::State;
    /// Is everybody done?
    fn is_end(&self, state: &Self::State) -> bool;
    /// At the end: what is left over.
    fn leaked(&self, state: &Self::State) -> Option<String>;
    /// The laws, as (name, sentence); at most 12.
    fn laws(&self) -> Vec<(&'static str, &'static str)>;
    /// The laws that were broken on the way here: a bit each, in the order of [`Self::laws`].
    fn broken(&self, state: &Self::State) -> u16;
    /// The locks taken by a move while others are held: pairs (held, taken).
    fn order(&self, _last: &Self::State, _step: Move) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// The actors' names.
    fn actors(&self) -> Vec<String>;
    /// What a move does, in words.
    fn describe(&self, last: &Self::State, step: Move) -> String;
    /// A move's name, whatever the state.
    fn label(&self, step: Move) -> String;
    /// What an actor holds.
    fn held(&self, state: &Self::State, actor: usize) -> Vec<String>;
    /// For what, and for whom, an actor waits; `None` if it can move or has nothing to do.
    fn waits(&self, state: &Self::State, actor: usize) -> Option<(String, Vec<usize>)>;
    /// The rest of a state, for people.
    fn print(&self, state: &Self::State) -> String;
}
