//! One caller's operations on a tree, the live one or a transaction's own.
//!
//! What is not there is ENOENT whoever asks, a new node has its parent's permissions and owner, and a
//! value's length is limited for dom0, too (`store.ml`, `transaction.ml`).

use super::super::quota::Quotas;
use super::super::store::Tree;
use super::super::store::grant::Grant;
use super::counts::Counts;
use super::refusal::Refusal;
use crate::path::parent_of;
use crate::perms::{Caller, Perms, Rights};
use libgnt::DomId;
use rustix::io::Errno;

/// What was done to a node, as watches distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// WRITE or MKDIR.
    Made,
    /// RM.
    Removed,
    /// SET_PERMS.
    Permitted,
}

/// What operations leave behind.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// What watches hear of.
    pub deeds: Vec<(Deed, String)>,
    /// The node that is above all that was read.
    pub read: Option<String>,
    /// The node that is above all that was changed.
    pub written: Option<String>,
}

/// Somebody at work on a tree.
#[derive(Debug)]
pub struct Work<'a> {
    /// On which.
    pub tree: &'a mut Tree,
    /// How many nodes of it each domain owns.
    pub counts: &'a mut Counts,
    /// What is left behind.
    pub trace: &'a mut Trace,
    /// Who.
    pub caller: Caller,
    /// Within which limits.
    pub quotas: &'a Quotas,
}

/// Has the caller dom0's rights? A domain whose target is dom0 has.
pub fn is_dom0(caller: Caller) -> bool {
    caller.domid == DomId::DOM0 || caller.target == Some(DomId::DOM0)
}

/// May the caller read? Its own entry and its target's count, each by itself, and where one of both is
/// not listed, so does the entry for all.
pub fn may_read(perms: &Perms, caller: Caller) -> bool {
    may(perms, caller, Rights::reads)
}

fn may_write(perms: &Perms, caller: Caller) -> bool {
    may(perms, caller, Rights::writes)
}

fn may(perms: &Perms, caller: Caller, does: impl Fn(Rights) -> bool) -> bool {
    let (all, listed) = (perms.entries()[0].rights, &perms.entries()[1..]);
    let is_allowed = |domid: DomId| {
        let own = listed.iter().find(|entry| entry.domid == domid);
        does(own.map_or(all, |entry| entry.rights))
    };
    is_dom0(caller)
        || is_owner(perms, caller)
        || is_allowed(caller.domid)
        || caller.target.is_some_and(is_allowed)
}

fn is_owner(perms: &Perms, caller: Caller) -> bool {
    caller.domid == perms.owner() || caller.target == Some(perms.owner())
}

/// The part that two paths have in common.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let mut end = 0;
    let names = one.split('/').zip(other.split('/')).skip(1);
    for (name, _) in names.take_while(|(name, other)| name == other) {
        end += 1 + name.len();
    }
    if end == 0 { "/" } else { &one[..end] }
}

fn lower(low: &mut Option<String>, path: &str) {
    *low = Some(match low {
        Some(low) => common(low, path).to_owned(),
        None => path.to_owned(),
    });
}

/// The directory that a node is in; the root's is the root.
fn above(path: &str) -> &str {
    parent_of(path).unwrap_or("/")
}

impl Work<'_> {
    fn perms(&self, path: &str) -> Result<&Perms, Errno> {
        self.tree
            .get(path)
            .map(|node| node.perms())
            .ok_or(Errno::NOENT)
    }

    fn need(&self, path: &str, may: impl Fn(&Perms, Caller) -> bool) -> Result<(), Errno> {
        match may(self.perms(path)?, self.caller) {
            true => Ok(()),
            false => Err(Errno::ACCESS),
        }
    }

    /// A node's value.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Refusal> {
        self.need(path, may_read)?;
        lower(&mut self.trace.read, path);
        Ok(self
            .tree
            .get(path)
            .map(|node| node.value().to_vec())
            .unwrap_or_default())
    }

    /// The children's names, each with its NUL: the oldest first, or in their own order.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn names(&mut self, path: &str, by_age: bool) -> Result<Vec<u8>, Refusal> {
        self.need(path, may_read)?;
        lower(&mut self.trace.read, path);
        let node = self.tree.get(path).ok_or(Errno::NOENT)?;
        if by_age {
            return Ok(node.names());
        }
        let names = node.children().map(|child| format!("{}\0", child.name()));
        Ok(names.collect::<String>().into_bytes())
    }

    /// A node's permissions, each with its NUL.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn get_perms(&mut self, path: &str) -> Result<Vec<u8>, Refusal> {
        self.need(path, may_read)?;
        lower(&mut self.trace.read, path);
        let entries = self.perms(path)?.entries().iter();
        Ok(entries
            .flat_map(|entry| format!("{entry}\0").into_bytes())
            .collect())
    }

    /// Sets a value; makes the node, and those above it, where they are missing. Those stay if the rest
    /// fails.
    ///
    /// # Errors
    /// EACCES, E2BIG, EQUOTA.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Refusal> {
        self.make_above(path)?;
        let old = self.tree.get(path).map(|node| node.value() == value);
        if value.len() > self.quotas.node_bytes {
            return Err(Errno::TOOBIG.into());
        }
        match old {
            Some(is_same) => {
                self.need(path, may_write)?;
                match (is_same, path) {
                    (false, _) => {
                        self.tree.set_value(path, value);
                    }
                    (true, "/") => {}
                    // The node stays what it is, and those above it do not.
                    (true, _) => self.tree.touch(above(path)),
                }
                lower(&mut self.trace.written, path);
            }
            None => {
                self.insert(path, value)?;
                lower(&mut self.trace.written, above(path));
            }
        }
        self.trace.deeds.push((Deed::Made, path.to_owned()));
        Ok(())
    }

    /// Makes a node, and those above it, where they are missing.
    ///
    /// # Errors
    /// EACCES, EQUOTA.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Refusal> {
        self.make_above(path)?;
        if path != "/" {
            if self.tree.get(path).is_some() {
                self.need(path, may_write)?;
                return Ok(());
            }
            self.insert(path, b"")?;
        }
        lower(&mut self.trace.written, above(path));
        self.trace.deeds.push((Deed::Made, path.to_owned()));
        Ok(())
    }

    fn make_above(&mut self, path: &str) -> Result<(), Refusal> {
        let mut missing = Vec::new();
        let mut at = above(path);
        while self.tree.get(at).is_none() {
            missing.push(at);
            at = above(at);
        }
        for path in missing.into_iter().rev() {
            self.insert(path, b"")?;
            lower(&mut self.trace.written, above(path));
        }
        Ok(())
    }

    /// A node below one that is there.
    fn insert(&mut self, path: &str, value: &[u8]) -> Result<(), Refusal> {
        let parent = self.tree.get(above(path)).ok_or(Errno::NOENT)?;
        let grant = parent.grant().clone();
        let owner = grant.owner();
        let has_limit = !is_dom0(self.caller) && owner != DomId::DOM0;
        if has_limit && self.counts.is_over(owner, self.quotas.nodes) {
            return Err(Refusal::Quota);
        }
        self.need(above(path), may_write)?;
        self.tree.insert(path, value, grant);
        self.counts.add(owner, 1);
        Ok(())
    }

    /// Removes a node and all below it; of the root all that is below.
    ///
    /// # Errors
    /// EACCES; ENOENT if there is not even the directory.
    pub fn rm(&mut self, path: &str) -> Result<(), Refusal> {
        if self.tree.get(path).is_none() {
            let is_fine = self.tree.get(above(path)).is_some();
            return if is_fine {
                Ok(())
            } else {
                Err(Errno::NOENT.into())
            };
        }
        self.need(path, may_write)?;
        let gone = match path {
            "/" => {
                let all = self.tree.subtree("/");
                self.tree.remove_all();
                all
            }
            _ => self.tree.remove(path),
        };
        for (_, node) in gone {
            self.counts.add(node.grant().owner(), -1);
        }
        lower(&mut self.trace.written, above(path));
        self.trace.deeds.push((Deed::Removed, path.to_owned()));
        Ok(())
    }

    /// Replaces permissions.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn set_perms(&mut self, path: &str, perms: Perms) -> Result<(), Refusal> {
        let old = self.perms(path)?;
        let may_give = is_dom0(self.caller) || old.owner() == perms.owner();
        let is_mine = is_dom0(self.caller) || is_owner(old, self.caller);
        // Of the root it is enough to be able to write.
        let may_set = if path == "/" {
            may_write(old, self.caller)
        } else {
            is_mine
        };
        if !may_give || !may_set {
            return Err(Errno::ACCESS.into());
        }
        self.counts.add(old.owner(), -1);
        self.counts.add(perms.owner(), 1);
        let grant = Grant::new(perms, self.tree.generation() + 1);
        self.tree.set_grant(path, grant);
        lower(&mut self.trace.written, path);
        self.trace.deeds.push((Deed::Permitted, path.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_paths_have_in_common() {
        for (one, other, expected) in [
            ("/a/b", "/a/b", "/a/b"),
            ("/a/b", "/a/c", "/a"),
            ("/a/b", "/a", "/a"),
            ("/a", "/a/b", "/a"),
            ("/ab", "/a", "/"),
            ("/a", "/b", "/"),
            ("/", "/a", "/"),
            ("/", "/", "/"),
        ] {
            assert_eq!(common(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_target_counts_by_itself() {
        let of = |text: &str, target| {
            let entries = text.split(' ').map(|entry| entry.parse().unwrap());
            let perms = Perms::new(entries.collect()).unwrap();
            let caller = Caller {
                domid: DomId(9),
                target,
            };
            may_read(&perms, caller)
        };
        let five = Some(DomId(5));
        assert!(of("n5", five));
        assert!(!of("n5", None));
        assert!(of("n1 r5", five));
        assert!(of("n1 n9 r5", five));
        // Who is not listed has what everybody has.
        assert!(of("r1 n5", five));
        assert!(!of("n1 w5", five));
        assert!(of("n1", Some(DomId::DOM0)));
    }
}
