//! S4: MPX's bounds tables, freed at munmap.
//!
//! Each mapping's bounds live in a table in user memory, found through an entry of a directory in
//! user memory. When the mapping goes, its table must go. Touching the directory can fault.
//!
//! - `state`: what the model knows, and its laws.
//! - `actors`: who takes part.
//! - `variants`: which of them meet, and what must come of it.

mod state;

mod actors;

mod variants;

pub use variants::system;
