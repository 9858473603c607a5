//! One caller's operations on one tree, with permissions, quotas and the list of what watches
//! must hear. The live tree and a transaction's private tree go through the same code.

use super::quota::Quotas;
use super::store::{Node, Tree, record_bytes};
use crate::path::Path;
use crate::perms::{Caller, Permission, Perms};
use rustix::io::Errno;
use std::collections::BTreeSet;

/// A change that watches may have to hear of.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changed.
    pub path: Path,
    /// True: only a watch on exactly this path hears it. A removed subtree is one exact change for each
    /// node below its top, children first, and then one for the top and the watches above it.
    pub exact: bool,
    /// A caller hears of the change if one of these lets it read.
    pub readable_by: Vec<Perms>,
}

/// An operation that changes the tree, as a transaction logs it for its commit.
#[derive(Clone, Debug)]
pub enum Edit {
    /// `WRITE`
    Write(Path, Vec<u8>),
    /// `MKDIR`
    Mkdir(Path),
    /// `RM`
    Rm(Path),
    /// `SET_PERMS`
    SetPerms(Path, Vec<Permission>),
}

/// See the module.
#[derive(Debug)]
pub struct Access<'a> {
    /// The tree.
    pub tree: &'a mut Tree,
    /// Who.
    pub caller: Caller,
    /// The limits.
    pub quotas: &'a Quotas,
    /// What changed so far.
    pub changes: &'a mut Vec<Change>,
    /// Every path that a result depended on, when somebody (a transaction) wants to know.
    pub touched: Option<&'a mut BTreeSet<Path>>,
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
    /// ENOENT, EACCES.
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, Errno> {
        Ok(self.node(path, Need::Read)?.value.clone())
    }

    /// A node's generation and its children's names, each with its NUL.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn directory(&mut self, path: &Path) -> Result<(u64, Vec<u8>), Errno> {
        let node = self.node(path, Need::Read)?;
        let names = node
            .names()
            .flat_map(|name| name.bytes().chain([0]))
            .collect();
        Ok((node.generation, names))
    }

    /// A node's permissions.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn get_perms(&mut self, path: &Path) -> Result<Perms, Errno> {
        Ok(self.node(path, Need::Read)?.perms.clone())
    }

    /// Performs an edit.
    ///
    /// # Errors
    /// ENOENT, EACCES, EINVAL, EPERM, ENOSPC.
    pub fn edit(&mut self, edit: &Edit) -> Result<(), Errno> {
        match edit {
            Edit::Write(path, value) => self.write(path, value),
            Edit::Mkdir(path) => self.mkdir(path),
            Edit::Rm(path) => self.rm(path),
            Edit::SetPerms(path, entries) => self.set_perms(path, entries),
        }
    }

    fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), Errno> {
        match self.node(path, Need::Write) {
            Ok(node) => {
                let bytes = node.record_bytes() - node.value.len() + value.len();
                self.check_bytes(bytes)?;
                self.tree.set_value(path, value);
            }
            Err(Errno::NOENT) => self.create(path, value)?,
            Err(errno) => return Err(errno),
        }
        self.changed(path);
        Ok(())
    }

    fn mkdir(&mut self, path: &Path) -> Result<(), Errno> {
        match self.node(path, Need::Write) {
            // Already there: fine, and no news.
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                self.create(path, b"")?;
                self.changed(path);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    fn rm(&mut self, path: &Path) -> Result<(), Errno> {
        match self.node(path, Need::Write) {
            Ok(_) if path.is_root() => return Err(Errno::INVAL),
            Ok(_) => {}
            Err(Errno::NOENT) => {
                // Not there is as good as removed, if it could have been there.
                let parent = path.parent().ok_or(Errno::INVAL)?;
                self.touch(&parent);
                return self.tree.get(&parent).map(|_| ()).ok_or(Errno::NOENT);
            }
            Err(errno) => return Err(errno),
        }
        self.remove(path);
        Ok(())
    }

    /// Removes a node, whoever asks, and notes what watches must hear.
    pub fn remove(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.touch(&parent);
        }
        let before = self.tree.clone();
        for (gone, perms) in self.tree.remove(path) {
            self.touch(&gone);
            // Who could read the directory hears of it, too.
            let above = gone.parent();
            let above = above.and_then(|p| before.get(&p).map(|n| n.perms.clone()));
            self.changes.push(Change {
                exact: gone != *path,
                path: gone,
                readable_by: [perms].into_iter().chain(above).collect(),
            });
        }
    }

    fn set_perms(&mut self, path: &Path, entries: &[Permission]) -> Result<(), Errno> {
        let perms = Perms::new(entries.to_vec()).ok_or(Errno::INVAL)?;
        let node = self.node(path, Need::Own)?;
        let (old, others) = (
            node.perms.clone(),
            node.record_bytes() - record_bytes(&node.perms),
        );
        if !self.caller.is_privileged() {
            if perms.owner() != old.owner() {
                return Err(Errno::PERM);
            }
            if entries.len() > self.quotas.permissions {
                return Err(Errno::NOSPC);
            }
        }
        self.check_bytes(others + record_bytes(&perms))?;
        self.tree.set_perms(path, perms.clone());
        // Who could read it and who can now, or can read the directory: all learn of the change.
        let above = path.parent();
        let above = above.and_then(|p| self.tree.get(&p).map(|n| n.perms.clone()));
        self.changes.push(Change {
            path: path.clone(),
            exact: false,
            readable_by: [old, perms].into_iter().chain(above).collect(),
        });
        Ok(())
    }

    fn create(&mut self, path: &Path, value: &[u8]) -> Result<(), Errno> {
        let missing: Vec<Path> = path
            .ancestors()
            .take_while(|p| self.tree.get(p).is_none())
            .collect();
        let top = missing.last().ok_or(Errno::EXIST)?;
        let above = top.parent().ok_or(Errno::INVAL)?;
        let parent = self.tree.get(&above).ok_or(Errno::NOENT)?;
        // New nodes get their parent's permissions; a domain other than dom0 owns what it creates.
        let perms = if self.caller.is_privileged() {
            parent.perms.clone()
        } else {
            parent.perms.owned_by(self.caller.domid)
        };
        let owned = self.tree.owned_by(perms.owner());
        if !self.caller.is_privileged() && owned + missing.len() > self.quotas.nodes {
            return Err(Errno::NOSPC);
        }
        let mut below = value.len();
        for p in &missing {
            self.check_bytes(record_bytes(&perms) + below)?;
            below = p.name().len() + 1;
        }
        self.check_bytes(parent.record_bytes() + below)?;
        self.touch(&above);
        for p in missing.iter().rev() {
            self.touch(p);
            self.tree
                .insert(p, if p == path { value } else { b"" }, perms.clone());
        }
        Ok(())
    }

    /// The node, if it is there and the caller may. What is not there is ENOENT only for who may
    /// do the same with the nearest node above; for others it is EACCES, so that it tells nothing.
    fn node(&mut self, path: &Path, need: Need) -> Result<&Node, Errno> {
        self.touch(path);
        if self.tree.get(path).is_none() {
            let nearest = path.ancestors().find(|p| self.tree.get(p).is_some());
            let nearest = nearest.unwrap_or_else(Path::root);
            self.touch(&nearest);
            // Any one of the rights that are needed will do here.
            let allows = |perms: &Perms| match need {
                Need::Own => self.allows(perms, Need::Write) || self.allows(perms, Need::Own),
                need => self.allows(perms, need),
            };
            let allowed = self.tree.get(&nearest).is_some_and(|n| allows(&n.perms));
            return Err(if allowed { Errno::NOENT } else { Errno::ACCESS });
        }
        let denied = |node: &Node| !self.allows(&node.perms, need);
        if self.tree.get(path).is_some_and(denied) {
            // As for one that is not there: what is above has been asked for.
            self.touch(&path.parent().unwrap_or_else(Path::root));
        }
        match self.tree.get(path) {
            Some(node) if self.allows(&node.perms, need) => Ok(node),
            _ => Err(Errno::ACCESS),
        }
    }

    fn allows(&self, perms: &Perms, need: Need) -> bool {
        match need {
            Need::Read => perms.rights(self.caller).reads(),
            Need::Write => perms.rights(self.caller).writes(),
            Need::Own => perms.owned(self.caller),
        }
    }

    fn check_bytes(&self, record: usize) -> Result<(), Errno> {
        if !self.caller.is_privileged() && record >= self.quotas.node_bytes {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    fn touch(&mut self, path: &Path) {
        if let Some(touched) = &mut self.touched {
            touched.insert(path.clone());
        }
    }

    fn changed(&mut self, path: &Path) {
        let perms = |p: &Path| self.tree.get(p).map(|n| n.perms.clone());
        let readable_by = perms(path)
            .into_iter()
            .chain(path.parent().as_ref().and_then(perms))
            .collect();
        self.changes.push(Change {
            path: path.clone(),
            exact: false,
            readable_by,
        });
    }
}
