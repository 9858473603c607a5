//! Debian's unmodified xenstore daemons, run on any machine without Xen, and our server held against
//! them: the same requests go to both, and every answer and every event is compared, in order.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list:
//!
//! 1. [`error`]: what keeps a daemon from being tried.
//! 2. [`step`]: what happens in a history.
//! 3. [`ring`]: a domain's end of its ring page.
//! 4. [`world`]: what a daemon finds instead of a Xen.
//! 5. [`side`]: a daemon's side of a history, wherever it runs.
//! 6. [`daemon`]: a daemon as a process in it.
//! 7. [`theirs`]: that of a daemon in a world.
//! 8. [`ours`]: our server's side.
//! 9. [`message`]: what the two send, with what the protocol leaves open taken out.
//! 10. [`known`]: the differences that stay, each with its reason.
//! 11. [`ocaml`]: what is oxenstored's own.
//! 12. [`play`]: plays a history on both, and compares.
//! 13. [`control`]: what histories ask of CONTROL.
//! 14. [`random`]: histories from a seed.
//! 15. [`shrink`](mod@shrink): the shortest part that still shows a difference.
//! 16. [`campaign`]: many histories.
//! 17. [`bench`](mod@bench): how fast our server is, and they are.
//! 18. [`cli`]: the command line.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod bench;
pub mod campaign;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod error;
pub mod known;
pub mod message;
pub mod ocaml;
pub mod ours;
pub mod play;
pub mod random;
pub mod ring;
pub mod shrink;
pub mod side;
pub mod step;
pub mod theirs;
pub mod world;

pub use error::{Result, RivalError};
