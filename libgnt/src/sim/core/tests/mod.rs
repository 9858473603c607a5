//! The machine's tests. The checks of [`Machine::check`](super::Machine::check) run after every
//! single step of each.

#![allow(clippy::unwrap_used, reason = "tests")]

mod blocking;
mod deaths;
mod evtchn;
mod gntalloc;
mod gntdev;
mod life;
mod pair;
mod sabotage;
mod unmap;
mod walk;
mod world;

use pair::Pair;
use world::*;
