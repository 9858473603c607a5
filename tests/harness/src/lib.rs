//! What every stress run needs, whatever it is about.
//!
//! Layers, each using only what is above it: [`error`]; [`settings`] (words of the command line
//! that several suites share), [`any_path`] (paths in JSON) and [`cycle`]; [`timeline`] (what each
//! process did and when); [`processes`] (start, listen, kill, reap); [`holder`] (ways to hold
//! pages); [`host`], the simulated Xen with its xenstore; [`digest`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod any_path;
pub mod cycle;
pub mod digest;
pub mod error;
pub mod holder;
pub mod host;
pub mod processes;
pub mod settings;
pub mod timeline;
