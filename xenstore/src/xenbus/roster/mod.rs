//! The devices of a back end's domain: one watch on a directory of them (`backend/vbd`, or all of
//! `backend`), which come and go in any order, half made, removed and made again between two looks.
//!
//! [`Roster`] is the machine, without I/O; [`DeviceWatch`] drives it on a thread of its own. It reads
//! what every device has (`state`, `frontend`, `frontend-id`, `online`), and says which are there;
//! serving them is [`device`](super::device)'s, each on its own thread. So a front end that hangs, or a
//! directory that makes no sense, is its own device's trouble.
//!
//! xenstore tells where something happened, and merges; a new connection may have missed anything.
//! So an event only makes a place worth a look, a directory's listing only makes its names worth one,
//! and what was seen last says what has changed. Everything has a limit ([`Limits`]).

mod words;

mod machine;

mod keep;

pub use keep::{DeviceWatch, RosterNews};
pub use machine::Roster;
pub use words::{Action, Found, Input, Limits, Seen};

#[cfg(test)]
mod explore;
