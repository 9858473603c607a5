//! What the tests of all machines share.

mod search;

use libgnt::machine::{Machine, Now};

pub(crate) use search::{Finding, Rules, search};

/// One step of a machine to which the time is the same always.
pub(crate) fn step<M: Machine>(machine: &mut M, input: M::Input) -> Vec<M::Action> {
    let mut actions = Vec::new();
    machine.step(Now::ZERO, input, &mut actions);
    actions
}
