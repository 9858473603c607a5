//! The machine's tests. The checks of [`Xen::check`](super::Xen::check) run after every
//! single step of each.

#![allow(clippy::unwrap_used, reason = "tests")]

mod blocking;
mod deaths;
mod evtchn;
mod gntalloc;
mod gntdev;
mod life;
mod pair;
mod pv;
mod rig;
mod sabotage;
mod unmap;
mod walk;

use pair::Pair;
use rig::*;
