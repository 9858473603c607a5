//! Differences that stay, each with its reason. `docs/fidelity.md` has the same table.

use crate::daemon::{Make, Rival};
use crate::message::Message;
use crate::step::{Link, Tx};

/// One answer, as both sides gave it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Which daemon.
    pub rival: Rival,
    /// Who asked.
    pub link: Link,
    /// What type of request.
    pub kind: u32,
    /// In which transaction.
    pub tx: Tx,
    /// With what.
    pub payload: &'a [u8],
    /// The events that came before the answer, and the answer, of the daemon.
    pub theirs: &'a [Message],
    /// The same of our server.
    pub ours: &'a [Message],
}

/// What becomes of the history after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Both trees are as before: the history goes on.
    Same,
    /// They are not: it ends.
    Ends,
}

/// A difference that is known and explained.
#[derive(Debug)]
pub struct Known {
    /// What it is called.
    pub id: &'static str,
    /// Of which daemons.
    pub of: &'static str,
    /// What differs.
    pub what: &'static str,
    /// Why it stays.
    pub why: &'static str,
    /// What follows.
    pub after: After,
    /// Is it this one?
    pub is_it: fn(&Seen<'_>) -> bool,
}

/// All of them.
pub const ALL: &[Known] = &[];

/// The one that this is.
pub fn explain(seen: &Seen<'_>) -> Option<&'static Known> {
    ALL.iter().find(|known| (known.is_it)(seen))
}

/// Is it the C daemon?
pub fn is_c(seen: &Seen<'_>) -> bool {
    seen.rival.make == Make::C
}
