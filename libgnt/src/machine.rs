//! The one way in which every protocol's logic is driven, here and in the crates above.

use std::time::Duration;

/// The time since any fixed moment: `CLOCK_MONOTONIC` in a process, a counter in a test.
pub type Now = Duration;

/// A protocol's logic, without I/O and without a clock: what happened goes in, what is to be done
/// comes out. A thin loop does it in a program; the deterministic world and the model checker
/// drive the same machine.
///
/// An action carries everything that its doing needs: who performs it does not look back into the
/// machine.
pub trait Machine {
    /// What can happen to it.
    type Input;
    /// What its driver has to do.
    type Action;

    /// One step. Appends what is to be done, in order.
    fn step(&mut self, now: Now, input: Self::Input, actions: &mut Vec<Self::Action>);
}

/// `CLOCK_MONOTONIC` now: all processes of a machine share it.
pub fn monotonic() -> Now {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is ever negative for this clock.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
