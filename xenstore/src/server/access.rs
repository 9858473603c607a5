//! One caller's operations on nodes, with permissions, quotas and the list of what watches must
//! hear. The live tree and a transaction go through the same code.

use super::change::Change;
use super::daemon::Daemon;
use super::quota::Quotas;
use super::store::grant::{Deaths, Grant};
use super::store::{Node, Tree, child_path, empty_node_bytes};
use super::transaction::Transaction;
use super::watch::Watches;
use crate::path::{last_name, parent_of, upwards};
use crate::perms::{Caller, Permission, Perms};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;

/// What is worked on.
#[derive(Debug)]
pub enum Place<'a> {
    /// The tree itself.
    Tree(&'a mut Tree),
    /// A transaction beside it.
    Inside(&'a Tree, &'a mut Transaction),
}

/// What binds everybody.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Whose answers.
    pub daemon: Daemon,
    /// The limits.
    pub quotas: &'a Quotas,
    /// Domains that have died.
    pub deaths: &'a Deaths,
}

/// See the module.
#[derive(Debug)]
pub struct Access<'a> {
    /// On what.
    pub place: Place<'a>,
    /// Who.
    pub caller: Caller,
    /// Within which limits.
    pub rules: Rules<'a>,
    /// What the caller's domain has beside its nodes in the tree, in bytes.
    pub other_bytes: usize,
    /// Who watches: a change that concerns nobody is not noted.
    pub watches: &'a Watches,
    /// What changed so far.
    pub changes: &'a mut Vec<Change>,
    /// How many nodes of the tree were written or removed so far.
    pub written: &'a mut usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Read,
    Write,
    Own,
}

impl Access<'_> {
    /// A node's value.
    ///
    /// # Errors
    /// ENOENT, EACCES, ENOSPC.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        Ok(self.node(path, Need::Read)?.value().to_vec())
    }

    /// A node, if the caller may read it.
    ///
    /// # Errors
    /// ENOENT, EACCES, ENOSPC.
    pub fn readable(&mut self, path: &str) -> Result<Arc<Node>, Errno> {
        self.node(path, Need::Read)
    }

    /// Sets a value; makes the node, and those above it, where they are missing.
    ///
    /// # Errors
    /// EACCES, ENOENT, ENOSPC, ENOMEM.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        match self.node(path, Need::Write) {
            Ok(node) => {
                let (old, new) = (node.value().len(), value.len());
                let bytes = node.content_bytes() - old + new;
                // Else it would be copied before it is changed.
                drop(node);
                let checked = self
                    .check_node(bytes)
                    .and_then(|()| self.check_memory(new.saturating_sub(old)));
                self.or_fail(checked)?;
                match &mut self.place {
                    Place::Tree(tree) => {
                        tree.set_value(path, value);
                        *self.written += 1;
                    }
                    Place::Inside(_, transaction) => transaction.set_value(path, value),
                }
            }
            Err(Errno::NOENT) => self.create(path, value)?,
            Err(errno) => return Err(errno),
        }
        self.changed(path, None);
        Ok(())
    }

    /// Makes a node, and those above it, where they are missing.
    ///
    /// # Errors
    /// EACCES, ENOENT, ENOSPC, ENOMEM.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        match self.node(path, Need::Write) {
            // Already there: fine, and no news.
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                self.create(path, b"")?;
                self.changed(path, None);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// EACCES, EINVAL, ENOENT, ENOSPC, EIO.
    pub fn rm(&mut self, path: &str) -> Result<(), Errno> {
        match self.node(path, Need::Write) {
            Ok(_) if path == "/" => Err(Errno::INVAL),
            Ok(_) => self.remove(path),
            Err(Errno::NOENT) => {
                // Not there is as good as removed, if it could have been there.
                let parent = parent_of(path).ok_or(Errno::INVAL)?;
                self.fetch(parent)?.map(|_| ()).ok_or(Errno::NOENT)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Removes a node, whoever asks, and notes what watches must hear.
    ///
    /// # Errors
    /// As [`Access::rm`].
    pub fn remove(&mut self, path: &str) -> Result<(), Errno> {
        let parent = parent_of(path).ok_or(Errno::INVAL)?;
        let above = match self.fetch(parent)? {
            Some(node) => Arc::clone(node.grant()),
            None => return Err(Errno::INVAL),
        };
        match &mut self.place {
            Place::Tree(tree) => {
                let gone = tree.remove(path);
                *self.written += self.rules.daemon.writes_of_removal(gone.len());
                let grants: HashMap<&str, &Arc<Grant>> = gone
                    .iter()
                    .map(|(path, node)| (&**path, node.grant()))
                    .collect();
                for (gone, node) in &gone {
                    if !self.watches.concern(gone, gone != path) {
                        continue;
                    }
                    let parents = parent_of(gone).and_then(|parent| grants.get(parent));
                    let parents = parents.copied().unwrap_or(&above);
                    self.changes.push(Change {
                        path: gone.clone(),
                        exact: gone != path,
                        readable_by: vec![Arc::clone(node.grant()), Arc::clone(parents)],
                    });
                }
                Ok(())
            }
            Place::Inside(..) => self.remove_inside(path),
        }
    }

    /// The same; fine if it is not there.
    ///
    /// # Errors
    /// As [`Access::rm`].
    pub fn remove_if_there(&mut self, path: &str) -> Result<(), Errno> {
        match self.fetch(path)? {
            Some(_) => self.remove(path),
            None => Ok(()),
        }
    }

    /// Children before their parents, siblings by age. A child that others have removed is found out
    /// half way (`walk_node_tree`).
    fn remove_inside(&mut self, top: &str) -> Result<(), Errno> {
        let mut todo = vec![(top.to_owned(), false)];
        while let Some((path, done)) = todo.pop() {
            if !done {
                let node = self.fetch(&path)?.cloned().ok_or(Errno::IO)?;
                todo.push((path.clone(), true));
                let children = node.children_by_age().into_iter().rev();
                todo.extend(children.map(|child| (child_path(&path, child.name()), false)));
            } else if let Place::Inside(_, transaction) = &mut self.place {
                transaction.remove(&path);
                transaction.fire(&path, path != top);
            }
        }
        Ok(())
    }

    /// Replaces permissions.
    ///
    /// # Errors
    /// EACCES, ENOENT, EPERM, ENOSPC, ENOMEM.
    pub fn set_perms(&mut self, path: &str, entries: Vec<Permission>) -> Result<(), Errno> {
        let perms = Perms::new(entries).ok_or(Errno::INVAL)?;
        let node = self.node(path, Need::Own)?;
        let old = Arc::clone(node.grant());
        let entries = (old.perms().entries().len(), perms.entries().len());
        let [before, after] = [entries.0, entries.1].map(empty_node_bytes);
        let bytes = node.content_bytes() - before + after;
        drop(node);
        if !self.caller.is_privileged() && perms.owner() != old.owner() {
            return Err(Errno::PERM);
        }
        let checked = self
            .check_node(bytes)
            .and_then(|()| self.check_memory(after.saturating_sub(before)));
        self.or_fail(checked)?;
        let grant = self.shared(path, perms)?;
        match &mut self.place {
            Place::Tree(tree) => {
                tree.set_grant(path, grant);
                *self.written += 1;
            }
            Place::Inside(_, transaction) => transaction.set_grant(path, grant),
        }
        self.changed(path, Some(old));
        Ok(())
    }

    /// The permissions as a list given now. A tree in which each node was given the same is common:
    /// such lists are stored once.
    fn shared(&self, path: &str, perms: Perms) -> Result<Arc<Grant>, Errno> {
        let tree: &Tree = match &self.place {
            Place::Tree(tree) => tree,
            Place::Inside(tree, _) => tree,
        };
        let parent = parent_of(path).and_then(|parent| tree.get(parent));
        let same = parent
            .map(|parent| parent.grant())
            .filter(|grant| *grant.perms() == perms && grant.is_whole(self.rules.deaths));
        Ok(match same {
            Some(grant) => Arc::clone(grant),
            None => Grant::new(perms, tree.generation() + 1),
        })
    }

    fn create(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let mut missing = vec![path];
        let mut above = parent_of(path).ok_or(Errno::INVAL)?;
        while self.fetch(above)?.is_none() {
            missing.push(above);
            above = parent_of(above).ok_or(Errno::NOENT)?;
        }
        let parent = self.fetch(above)?.ok_or(Errno::NOENT)?;
        // New nodes get their parent's permissions; a domain other than dom0 owns what it creates.
        let (above, above_bytes) = (Arc::clone(parent.grant()), parent.content_bytes());
        let grant = match self.caller.is_privileged() {
            true => above.clone(),
            false => above.for_owner(self.caller.domid),
        };
        self.check_new(&missing, [&above, &grant], value.len(), above_bytes)?;
        if let Place::Tree(_) = self.place {
            // The list of the node above, too.
            *self.written += missing.len() + 1;
        }
        for new in missing.iter().rev() {
            let value = if *new == path { value } else { b"" };
            match &mut self.place {
                Place::Tree(tree) => {
                    tree.insert(new, value, Arc::clone(&grant));
                }
                Place::Inside(_, transaction) => transaction.insert(new, value, Arc::clone(&grant)),
            }
        }
        Ok(())
    }

    /// In xenstored's order: from the lowest node up, each first against the number of nodes
    /// (`create_node`). In a transaction only what has begun to be written lets its end fail.
    fn check_new(
        &mut self,
        missing: &[&str],
        [above, grant]: [&Grant; 2],
        value_bytes: usize,
        above_bytes: usize,
    ) -> Result<(), Errno> {
        if self.caller.is_privileged() {
            return Ok(());
        }
        if let Place::Inside(_, transaction) = &mut self.place {
            transaction.note_making();
        }
        let (owned, counts_new) = self.owned_nodes();
        let empty = empty_node_bytes(grant.perms().entries().len());
        let (mut below, mut all) = (value_bytes, 0);
        for (n, new) in missing.iter().enumerate() {
            let so_far = owned + if counts_new { n } else { 0 };
            if so_far >= self.rules.quotas.nodes {
                return match n {
                    0 => Err(Errno::NOSPC),
                    _ => self.or_fail(Err(Errno::NOSPC)),
                };
            }
            let checked = self.check_node(empty + below);
            self.or_fail(checked)?;
            all += new.len() + empty + below;
            below = last_name(new).len() + 1;
        }
        all += missing.len() * self.rules.daemon.node_header_bytes();
        if above.owner() == self.caller.domid {
            all += below;
        }
        let checked = self.check_node(above_bytes + below);
        let checked = checked.and_then(|()| self.check_memory(all));
        self.or_fail(checked)
    }

    /// How many nodes the caller's domain has, and whether those count that this request makes.
    fn owned_nodes(&self) -> (usize, bool) {
        let domid = self.caller.domid;
        match &self.place {
            Place::Tree(tree) => (tree.owned_by(domid), true),
            Place::Inside(tree, _) if !self.rules.daemon.counts_nodes_inside() => {
                (tree.owned_by(domid), false)
            }
            Place::Inside(tree, transaction) => {
                let inside = transaction.owned(domid);
                (tree.owned_by(domid).saturating_add_signed(inside), true)
            }
        }
    }

    /// The node as it is in this place, or none; a transaction has looked at it then.
    fn fetch(&mut self, path: &str) -> Result<Option<&Arc<Node>>, Errno> {
        match &mut self.place {
            Place::Tree(tree) => Ok(tree.get(path)),
            Place::Inside(tree, transaction) => {
                let most = self.rules.quotas.transaction_nodes;
                let is_new = !transaction.has_seen(path);
                if is_new && !self.caller.is_privileged() && transaction.len() >= most {
                    transaction.fail();
                    return Err(Errno::NOSPC);
                }
                Ok(transaction.fetch(tree, path))
            }
        }
    }

    /// The node, if it is there and the caller may. What is not there is ENOENT only for who may
    /// do the same with the nearest node above; for others it is EACCES, so that it tells nothing.
    fn node(&mut self, path: &str, need: Need) -> Result<Arc<Node>, Errno> {
        let (caller, deaths) = (self.caller, self.rules.deaths);
        let is_there = match self.fetch(path)? {
            Some(node) if allows(node.grant(), caller, deaths, need) => return Ok(node.clone()),
            node => node.is_some(),
        };
        for above in upwards(path).skip(1) {
            if let Some(node) = self.fetch(above)? {
                // Who may write a directory is told, too, that what it wants to own is not there.
                let need = if need == Need::Own { Need::Write } else { need };
                let told = !is_there && allows(node.grant(), caller, deaths, need);
                return Err(if told { Errno::NOENT } else { Errno::ACCESS });
            }
        }
        // The root has nothing above it.
        Err(Errno::ACCESS)
    }

    /// A transaction in which something went half way cannot end well.
    fn or_fail<T>(&mut self, checked: Result<T, Errno>) -> Result<T, Errno> {
        if let (Err(_), Place::Inside(_, transaction)) = (&checked, &mut self.place) {
            transaction.fail();
        }
        checked
    }

    fn check_node(&self, content_bytes: usize) -> Result<(), Errno> {
        let Rules { daemon, quotas, .. } = self.rules;
        let bytes = daemon.node_header_bytes() + content_bytes;
        if !self.caller.is_privileged() && daemon.is_over_node_limit(bytes, quotas.node_bytes) {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    fn check_memory(&self, more: usize) -> Result<(), Errno> {
        let limit = self.rules.quotas.memory;
        if self.caller.is_privileged() || limit == 0 || more == 0 {
            return Ok(());
        }
        let (tree, inside) = match &self.place {
            Place::Tree(tree) => (&**tree, 0),
            Place::Inside(tree, transaction) => (*tree, transaction.bytes()),
        };
        let owned = tree.owned(self.caller.domid);
        let headers = owned.nodes * self.rules.daemon.node_header_bytes();
        let bytes = owned.bytes + headers + inside + self.other_bytes + more;
        if bytes >= limit {
            Err(Errno::NOMEM)
        } else {
            Ok(())
        }
    }

    fn changed(&mut self, path: &str, old: Option<Arc<Grant>>) {
        match &mut self.place {
            Place::Inside(_, transaction) => transaction.fire(path, false),
            Place::Tree(_) if !self.watches.concern(path, false) => {}
            Place::Tree(tree) => {
                let grant = |path: &str| tree.get(path).map(|node| Arc::clone(node.grant()));
                let readable_by = old
                    .into_iter()
                    .chain(grant(path))
                    .chain(parent_of(path).and_then(grant))
                    .collect();
                self.changes.push(Change {
                    path: path.to_owned(),
                    exact: false,
                    readable_by,
                });
            }
        }
    }
}

fn allows(grant: &Grant, caller: Caller, deaths: &Deaths, need: Need) -> bool {
    match need {
        Need::Read => grant.rights(caller, deaths).reads(),
        Need::Write => grant.rights(caller, deaths).writes(),
        Need::Own => grant.perms().owned(caller),
    }
}
