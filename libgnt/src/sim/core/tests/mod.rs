//! The machine's tests. The checks of [`Machine::check`] run after every single step of each.

#![allow(clippy::unwrap_used, reason = "tests")]

mod unmap;
mod world;

pub(super) use world::*;
