//! The examples run.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/agent.rs"]
mod agent;
#[path = "../examples/mio.rs"]
mod mio_loop;
#[path = "../examples/tokio.rs"]
mod tokio_tasks;

#[test]
fn a_guest_agent() {
    agent::main().unwrap();
}

#[test]
fn a_loop_over_mio() {
    mio_loop::main().unwrap();
}

#[test]
fn tasks_in_tokio() {
    tokio_tasks::main().unwrap();
}
