//! A transaction: a snapshot to work on, and what it takes to commit it on a tree that has moved.

use crate::access::{Access, Change, Edit};
use crate::path::Path;
use crate::perms::Caller;
use crate::quota::Quotas;
use crate::store::Tree;
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
    /// Sees the tree as it is now, whatever happens later.
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
        caller: Caller,
        quotas: &Quotas,
        read: impl FnOnce(&mut Access<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.check_size(caller, quotas)?;
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
    pub fn edit(&mut self, caller: Caller, quotas: &Quotas, edit: Edit) -> Result<(), Errno> {
        self.read(caller, quotas, |access| access.edit(&edit))?;
        self.edits.push(edit);
        Ok(())
    }

    /// Makes the edits real, all or none, and says what watches must hear.
    ///
    /// # Errors
    /// EAGAIN: a node that this transaction saw or changed is no longer as it was at the start.
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
        let generation = |tree: &Tree, path| tree.get(path).map(|node| node.generation);
        if self
            .touched
            .iter()
            .any(|p| generation(live, p) != generation(&self.base, p))
        {
            return Err(Errno::AGAIN);
        }
        // Others changed other nodes. Nothing that decided these edits' results has moved, except
        // the quota.
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
        *live = tree;
        Ok(changes)
    }

    fn check_size(&self, caller: Caller, quotas: &Quotas) -> Result<(), Errno> {
        let size = self.touched.len().max(self.edits.len());
        if !caller.is_privileged() && size > quotas.transaction_nodes {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }
}
