//! S5: a front end's device that is made anew, on Linux.
//!
//! A back end's domain crashes; the toolstack removes the front end's directory and makes it again for
//! the next one. The kernel's thread for watches must notice, take the old device away and probe the
//! new one, while a module that is being loaded may be probing it.
//!
//! - `state`: what the model knows, and its laws.
//! - `actors`: who takes part.
//! - `variants`: which of them meet, and what must come of it.

mod state;

mod actors;

mod variants;

pub use variants::system;
