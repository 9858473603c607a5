//! pv-stress: PV drivers under stress, above all asynchronous unmap while a third consumer holds
//! the pages.
//!
//! What runs need whatever they are about is in `pv-harness`, judges and reports in `pv-judges`, a
//! real Xen's domains in `pv-remote`.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`settings`]: what a run is asked to do.
//! 2. [`consumer`]: the third consumer, and the lender that it has pages from.
//! 3. [`role`]: the processes of a run.
//! 4. [`scenario`]: what they do to each other, and the run.
//! 5. [`cli`]: the command line.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod cli;
pub mod consumer;
pub mod role;
pub mod scenario;
pub mod settings;
