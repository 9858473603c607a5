//! libgnt's own state machines as a subject: the simulated kernels and hypervisor
//! ([`libgnt::sim::core::Xen`]) and the mapper's unmap ([`libgnt::grant::UnmapMachine`]), as
//! they are in production, in all interleavings of a small configuration: two maps, one of them
//! unmapped in parts, consumers that hold their pages, a granter that wants them back, timers
//! that come at any moment, and a process that dies at any step.
//!
//! A consumer that dies between having its page pinned and taking the reference over leaves that
//! reference to the mapper, who must let go of it: without that step, the checker finds that a
//! mapper waits for ever for itself.
//!
//! Each module uses only what is above it:
//!
//! - `state`: the configuration, where everything is, and what each actor does next.
//! - `judge`: what must hold after each step.
//! - `perform`: an actor's next step, done.
//! - `moves`: the moves that are possible, and what each does, for the checker.

mod state;

mod judge;

mod perform;

mod moves;

pub use state::{Driven, State};
