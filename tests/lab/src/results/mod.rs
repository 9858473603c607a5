//! What a run leaves.
//!
//! Each module uses only what is above it:
//!
//! 1. [`unpack`]: what dom0 wrote, taken into the report's directory.
//! 2. [`report`]: the lab's own report.

pub mod unpack;

pub mod report;
