//! A transaction: a tree to work on, and what it takes to commit it on one that has moved.
//!
//! Each node is as it was when the transaction first looked at it, as in xenstored (`access_node`,
//! `tools/xenstore/xenstored_transaction.c`), not as at the start. So as long as nothing that it
//! looked at has moved, the transaction moves on to the tree of the moment.

use super::access::{Access, Change, Edit};
use super::quota::Quotas;
use super::store::Tree;
use crate::path::Path;
use crate::perms::Caller;
use rustix::io::Errno;
use std::collections::BTreeSet;

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    base: Tree,
    tree: Tree,
    touched: BTreeSet<Path>,
    edits: Vec<Edit>,
    changes: Vec<Change>,
}

impl Transaction {
    /// Begins on the tree as it is now.
    pub fn begin(live: &Tree) -> Transaction {
        Transaction {
            base: live.clone(),
            tree: live.clone(),
            touched: BTreeSet::new(),
            edits: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Runs reads inside the transaction.
    ///
    /// # Errors
    /// The operation's; ENOSPC when the transaction has touched too many nodes.
    pub fn read<T>(
        &mut self,
        live: &Tree,
        caller: Caller,
        quotas: &Quotas,
        read: impl FnOnce(&mut Access<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.check_size(caller, quotas)?;
        self.move_on(live, caller, quotas);
        read(&mut Access {
            tree: &mut self.tree,
            caller,
            quotas,
            changes: &mut self.changes,
            touched: Some(&mut self.touched),
        })
    }

    /// Runs an edit inside the transaction and keeps it for the commit.
    ///
    /// # Errors
    /// The operation's; ENOSPC when the transaction has touched too many nodes.
    pub fn edit(
        &mut self,
        live: &Tree,
        caller: Caller,
        quotas: &Quotas,
        edit: Edit,
    ) -> Result<(), Errno> {
        self.read(live, caller, quotas, |access| access.edit(&edit))?;
        self.edits.push(edit);
        Ok(())
    }

    /// Makes the edits real, all or none, and says what watches must hear.
    ///
    /// # Errors
    /// EAGAIN: a node that this transaction saw or changed is no longer as it was then.
    pub fn commit(
        self,
        live: &mut Tree,
        caller: Caller,
        quotas: &Quotas,
    ) -> Result<Vec<Change>, Errno> {
        if live.generation() == self.base.generation() {
            *live = self.tree;
            return Ok(self.changes);
        }
        if self.in_conflict(live) {
            return Err(Errno::AGAIN);
        }
        let (tree, changes) = self.replayed(live, caller, quotas)?;
        *live = tree;
        Ok(changes)
    }

    /// Broken on purpose: it commits whatever has changed since.
    pub(crate) fn forget_what_it_saw(&mut self) {
        self.touched.clear();
    }

    fn in_conflict(&self, live: &Tree) -> bool {
        let generation = |tree: &Tree, path| tree.get(path).map(|node| node.generation);
        let mut touched = self.touched.iter();
        touched.any(|p| generation(live, p) != generation(&self.base, p))
    }

    /// Takes in what others have changed elsewhere. A transaction in conflict stays where it is:
    /// its end will tell.
    fn move_on(&mut self, live: &Tree, caller: Caller, quotas: &Quotas) {
        if live.generation() == self.base.generation() || self.in_conflict(live) {
            return;
        }
        if let Ok((tree, changes)) = self.replayed(live, caller, quotas) {
            (self.base, self.tree, self.changes) = (live.clone(), tree, changes);
        }
    }

    /// The edits on a tree on which others changed other nodes. Nothing that decided these
    /// edits' results has moved, except the quota.
    fn replayed(
        &self,
        live: &Tree,
        caller: Caller,
        quotas: &Quotas,
    ) -> Result<(Tree, Vec<Change>), Errno> {
        let (mut tree, mut changes) = (live.clone(), Vec::new());
        let mut access = Access {
            tree: &mut tree,
            caller,
            quotas,
            changes: &mut changes,
            touched: None,
        };
        for edit in &self.edits {
            access.edit(edit)?;
        }
        Ok((tree, changes))
    }

    fn check_size(&self, caller: Caller, quotas: &Quotas) -> Result<(), Errno> {
        let size = self.touched.len().max(self.edits.len());
        if !caller.is_privileged() && size > quotas.transaction_nodes {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }
}
