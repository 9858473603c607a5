//! pv-stress: PV drivers under stress, above all asynchronous unmap while a third consumer holds
//! the pages.
//!
//! Layers, each using only what is above it: [`settings`]; [`consumer`], the third one; [`role`], the
//! processes of a run; [`scenario`] (the run); [`cli`]. What runs need whatever they are about is in
//! `pv-harness`, judges and reports in `pv-judges`, a real Xen's domains in `pv-remote`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod cli;
pub mod consumer;
pub mod role;
pub mod scenario;
pub mod settings;
