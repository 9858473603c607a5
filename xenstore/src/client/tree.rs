//! Making and removing a device's nodes, or whatever else belongs together.

use super::handle::Client;
use super::submit::{Request, all};
use super::transaction::Transaction;
use crate::domain::NewNode;
use crate::error::Result;
use rustix::io::Errno;

impl Transaction<'_> {
    /// Writes nodes, each with its permissions; an empty list leaves those that it inherits, or has.
    /// Parents should come before children, which inherit of them.
    ///
    /// # Errors
    /// The first node's that is refused.
    pub fn make_tree(&self, nodes: &[NewNode]) -> Result<()> {
        let requests = nodes.iter().flat_map(|(path, value, perms)| {
            let perms = (!perms.is_empty()).then(|| Request::set_perms(path, perms));
            [Request::write(path, value)].into_iter().chain(perms)
        });
        all(self, requests)?
            .into_iter()
            .try_for_each(|answer| answer.map(|_| ()))
    }

    /// Removes a node and all below it, and the directories above it that this leaves empty, but not
    /// `keep`, nor what is above that. Harmless if it is gone.
    ///
    /// # Errors
    /// EACCES, and the connection's.
    pub fn remove_tree(&self, path: &str, keep: &str) -> Result<()> {
        let mut path = path;
        loop {
            match self.rm(path) {
                // It went together with what is above it, with its domain say.
                Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(()),
                other => other?,
            }
            let Some((parent, _)) = path.rsplit_once('/') else {
                return Ok(());
            };
            if parent.len() <= keep.trim_end_matches('/').len()
                || !self.directory(parent)?.is_empty()
            {
                return Ok(());
            }
            path = parent;
        }
    }
}

impl Client {
    /// [`Transaction::make_tree`], in a transaction of its own: whoever watches sees all or nothing.
    ///
    /// # Errors
    /// As there, and [`crate::Error::Conflict`].
    pub fn make_tree(&self, nodes: &[NewNode]) -> Result<()> {
        self.transaction(|tx| tx.make_tree(nodes))
    }

    /// [`Transaction::remove_tree`], in a transaction of its own.
    ///
    /// # Errors
    /// As there, and [`crate::Error::Conflict`].
    pub fn remove_tree(&self, path: &str, keep: &str) -> Result<()> {
        self.transaction(|tx| tx.remove_tree(path, keep))
    }
}
