//! Reads the project's own sources and documents, and says where they are not as they claim.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`sources`]: a crate's files and what each of them uses, as the compiler would resolve it.
//! 2. [`layers`]: the order that a crate's `lib.rs` declares, held against what its files use.
//! 3. [`circles`]: files that use each other in a circle.
//! 4. [`messages`]: a library's texts that speak of somebody's command line.
//! 5. [`crates`]: which crate may use which, held against their manifests.
//! 6. [`words`]: commands, options, paths and links that a document mentions.
//!
//! The tests in `tests/` apply them to this workspace; each module's own tests show that it finds
//! what it is there to find.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod circles;
pub mod crates;
pub mod layers;
pub mod messages;
pub mod sources;
pub mod words;
