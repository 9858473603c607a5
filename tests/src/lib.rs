//! pv-stress: PV drivers under stress, above all asynchronous unmap while a third consumer holds
//! the pages.
//!
//! Layers, each using only what is above it: [`error`], [`timeline`] (what each process did and
//! when) and [`settings`]; [`world`] (processes: start, listen, kill, reap) and [`holder`] (ways
//! to hold pages); [`consumer`], the third one; [`checks`] (judges) and [`verdict`]; [`report`];
//! [`scenario`] (the run) and `agent` (its processes); [`conform`], the rules of the platform;
//! [`lab`], a real Xen to run all of it on; [`cli`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

mod agent;
pub mod checks;
pub mod cli;
pub mod conform;
pub mod consumer;
pub mod error;
pub mod holder;
pub mod lab;
pub mod model;
pub mod remote;
pub mod report;
pub mod scenario;
pub mod settings;
pub mod timeline;
pub mod verdict;
pub mod world;
pub mod xen;
