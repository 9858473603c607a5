//! pv-stress.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]
pub mod lab;
