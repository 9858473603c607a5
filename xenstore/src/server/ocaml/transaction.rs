//! A transaction as oxenstored has it: a snapshot on which it works, and all that was asked and
//! answered.
//!
//! It ends well if the live tree is still the snapshot; or if nobody touched what is below the lowest
//! node above all that it read, and below the lowest above all that it wrote, which is then put into
//! the live tree; or if all that was asked gets the same answers from the live tree, asked again
//! (`commit` of `transaction.ml`, `transaction_replay` of `process.ml`).

use super::super::store::Tree;
use super::counts::Counts;
use super::refusal::Refusal;
use super::store::Trace;
use crate::path::{parent_of, upwards};
use rustix::io::Errno;
use std::sync::Arc;

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// OK.
    Done,
    /// Something else.
    Data(Vec<u8>),
    /// An error.
    Refused(Refusal),
}

/// A request of a transaction.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its type's number.
    pub kind: u32,
    /// Its arguments.
    pub payload: Vec<u8>,
    /// What was answered.
    pub response: Response,
}

/// An open transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The tree at its start.
    pub before: Tree,
    /// The tree as it has become in it.
    pub tree: Tree,
    /// How many nodes each domain owned at its start.
    pub counted: Counts,
    /// And in it.
    pub counts: Counts,
    /// What it did.
    pub trace: Trace,
    /// What was asked in it.
    pub asked: Vec<Asked>,
    /// How many domains had died at its start: each death makes all nodes new.
    pub deaths: u64,
    /// RELEASE in it made all its nodes new.
    pub renewed: bool,
}

impl Transaction {
    /// One that begins.
    pub fn new(live: &Tree, counts: &Counts, deaths: u64) -> Transaction {
        Transaction {
            before: live.clone(),
            tree: live.clone(),
            counted: counts.clone(),
            counts: counts.clone(),
            trace: Trace::default(),
            asked: Vec::new(),
            deaths,
            renewed: false,
        }
    }

    /// Makes what it did real without asking again, if that is possible.
    ///
    /// # Errors
    /// ENOENT if the directory of what it would put into the live tree is gone in its own: RELEASE removes
    /// nodes that were changed before.
    pub fn commit(&self, live: &mut Tree, counts: &mut Counts, deaths: u64) -> Result<bool, Errno> {
        if self.deaths != deaths {
            return Ok(false);
        }
        if is_same(&self.before, live, "/") {
            live.become_copy(&self.tree);
            *counts = self.counts.clone();
            return Ok(true);
        }
        let is_free = |path: &Option<String>| match path {
            Some(path) => self.is_untouched(live, path),
            None => true,
        };
        if !is_free(&self.trace.read) || !is_free(&self.trace.written) {
            return Ok(false);
        }
        let Some(path) = &self.trace.written else {
            return Ok(true);
        };
        if self.tree.get(path).is_some() {
            live.graft(path, &self.before, &self.tree);
            counts.merge(&self.counted, &self.counts);
        } else if !has_directory(&self.tree, path) {
            return Err(Errno::NOENT);
        }
        Ok(true)
    }

    /// Has nobody changed anything at this path and below, nor permissions above? What was not there and
    /// is not there is as good, if its directory is.
    fn is_untouched(&self, live: &Tree, path: &str) -> bool {
        let there = [&self.before, live].map(|tree| tree.get(path).is_some());
        match there {
            [true, true] => {
                is_same(&self.before, live, path)
                    && upwards(path).all(|path| {
                        let perms =
                            [&self.before, live].map(|tree| tree.get(path).map(|n| n.perms()));
                        perms[0] == perms[1]
                    })
            }
            [false, false] => has_directory(&self.before, path) && has_directory(live, path),
            _ => false,
        }
    }
}

fn has_directory(tree: &Tree, path: &str) -> bool {
    parent_of(path).is_some_and(|path| tree.get(path).is_some())
}

/// Is it the same node with the same nodes below it?
fn is_same(one: &Tree, other: &Tree, path: &str) -> bool {
    match (one.get(path), other.get(path)) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}
