//! Permissions: a list of (domain, access); the first entry names the owner and what everybody
//! not listed may do (`docs/misc/xenstore.txt`, `SET_PERMS`).

use libgnt::DomId;
use std::fmt;
use std::str::FromStr;

/// What a domain may do with a node: the letters `n`, `r`, `w`, `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// `n`
    None,
    /// `r`
    Read,
    /// `w`
    Write,
    /// `b`
    Both,
}

impl Rights {
    /// May it read?
    pub fn reads(self) -> bool {
        matches!(self, Rights::Read | Rights::Both)
    }

    /// May it write?
    pub fn writes(self) -> bool {
        matches!(self, Rights::Write | Rights::Both)
    }

    fn letter(self) -> char {
        match self {
            Rights::None => 'n',
            Rights::Read => 'r',
            Rights::Write => 'w',
            Rights::Both => 'b',
        }
    }
}

/// One entry: `r5` lets domain 5 read. In first place, `n5` makes domain 5 the owner and denies
/// everybody else who is not listed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permission {
    /// Who.
    pub domid: DomId,
    /// What.
    pub rights: Rights,
}

impl Permission {
    /// An entry.
    pub const fn new(rights: Rights, domid: DomId) -> Permission {
        Permission { domid, rights }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.rights.letter(), self.domid.0)
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no permission; write a letter of n, r, w, b and a domain id, such as r5")]
pub struct BadPermission(pub String);

impl FromStr for Permission {
    type Err = BadPermission;

    fn from_str(text: &str) -> Result<Permission, BadPermission> {
        let bad = || BadPermission(text.to_owned());
        let mut chars = text.chars();
        let rights = match chars.next() {
            Some('n') => Rights::None,
            Some('r') => Rights::Read,
            Some('w') => Rights::Write,
            Some('b') => Rights::Both,
            _ => return Err(bad()),
        };
        let digits = chars.as_str();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let domid = digits.parse().map(DomId).map_err(|_| bad())?;
        if domid >= DomId::FIRST_RESERVED {
            return Err(bad());
        }
        Ok(Permission { domid, rights })
    }
}

/// Who asks: a domain, and the domain whose rights it has too (`SET_TARGET`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Itself.
    pub domid: DomId,
    /// Whom it serves.
    pub target: Option<DomId>,
}

impl Caller {
    /// A domain without a target.
    pub fn of(domid: DomId) -> Caller {
        Caller {
            domid,
            target: None,
        }
    }

    /// dom0 may do everything.
    pub fn is_privileged(self) -> bool {
        self.domid == DomId::DOM0
    }

    fn is(self, domid: DomId) -> bool {
        self.domid == domid || self.target == Some(domid)
    }
}

/// A node's permissions; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms(Vec<Permission>);

impl Perms {
    /// `None` for an empty list.
    pub fn new(entries: Vec<Permission>) -> Option<Perms> {
        (!entries.is_empty()).then_some(Perms(entries))
    }

    /// Owned by dom0; nobody else may do anything.
    pub fn private() -> Perms {
        Perms(vec![Permission::new(Rights::None, DomId::DOM0)])
    }

    /// The entries.
    pub fn entries(&self) -> &[Permission] {
        &self.0
    }

    /// The owner, whose quota the node counts against.
    pub fn owner(&self) -> DomId {
        self.0[0].domid
    }

    /// The same list under another owner.
    #[cfg(feature = "server")]
    pub(crate) fn owned_by(&self, owner: DomId) -> Perms {
        let mut entries = self.0.clone();
        entries[0].domid = owner;
        Perms(entries)
    }

    /// Is it the caller's, to change its permissions?
    pub fn owned(&self, caller: Caller) -> bool {
        caller.is_privileged() || caller.is(self.owner())
    }

    /// What the caller may do: the owner and dom0 everything, a listed domain what its first
    /// entry says, anybody else what the owner's entry says.
    pub fn rights(&self, caller: Caller) -> Rights {
        self.rights_where(caller, |_| true)
    }

    /// The same, as if entries that do not count were not there. The owner's counts always.
    pub fn rights_where(&self, caller: Caller, counts: impl Fn(DomId) -> bool) -> Rights {
        if self.owned(caller) {
            return Rights::Both;
        }
        let entry = self.0[1..]
            .iter()
            .find(|p| caller.is(p.domid) && counts(p.domid))
            .unwrap_or(&self.0[0]);
        entry.rights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perms(text: &str) -> Perms {
        Perms::new(text.split(' ').map(|p| p.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn rights_by_list() {
        // (list, caller, rights)
        let table = [
            ("n0", 0, "b"),
            ("n0", 1, "n"),
            ("r0", 1, "r"),
            ("n1", 1, "b"),
            ("n1 r2", 2, "r"),
            ("n1 r2", 3, "n"),
            ("b1 n2", 2, "n"),
            ("b1 n2", 3, "b"),
            ("n1 w2 r2", 2, "w"),
            ("r5 b6", 7, "r"),
        ];
        for (list, caller, rights) in table {
            let got = perms(list).rights(Caller::of(DomId(caller)));
            assert_eq!(got.letter().to_string(), rights, "{list} for {caller}");
        }
    }

    #[test]
    fn a_target_lends_its_rights() {
        let stub = Caller {
            domid: DomId(9),
            target: Some(DomId(5)),
        };
        assert_eq!(perms("n5").rights(stub), Rights::Both);
        assert_eq!(perms("n1 r5").rights(stub), Rights::Read);
    }

    #[test]
    fn text_and_back() {
        for text in ["n0", "r1", "w65", "b32751"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        for text in [
            "", "n", "x1", "r-1", "r+1", "r1 ", "r65536", "b32752", "rr1",
        ] {
            assert!(text.parse::<Permission>().is_err(), "{text:?}");
        }
    }
}
