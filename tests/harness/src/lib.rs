//! What every stress run needs, whatever it is about.
//!
//! Layers, each using only what is above it: [`error`]; [`settings`] (words of the command line
//! that several suites share), [`any_path`] (paths in JSON) and [`cycle`]; [`timeline`] (what each
//! process did and when); [`memory`] (what a program can do to its own mappings); [`holder`] (ways to
//! hold pages); [`hand`] (shares, maps, holds and unmaps on command); [`processes`] (start, listen,
//! kill, reap); [`player`] (the processes that play a hand); [`host`], the simulated Xen with its
//! xenstore; [`digest`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod any_path;
pub mod cycle;
pub mod digest;
pub mod error;
pub mod hand;
pub mod holder;
pub mod host;
pub mod memory;
pub mod player;
pub mod processes;
pub mod settings;
pub mod timeline;
