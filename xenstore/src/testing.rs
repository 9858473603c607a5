//! What the tests of all machines share.

use libgnt::machine::{Machine, Now};

/// One step of a machine to which the time is the same always.
pub(crate) fn step<M: Machine>(machine: &mut M, input: M::Input) -> Vec<M::Action> {
    let mut actions = Vec::new();
    machine.step(Now::ZERO, input, &mut actions);
    actions
}
