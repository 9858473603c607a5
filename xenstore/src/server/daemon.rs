//! Which daemon the server plays. Where their answers differ, the difference is a method here.

use rustix::io::Errno;
use std::fmt;
use std::str::FromStr;

/// A xenstore daemon, by its make and Xen's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Daemon {
    // Before the others: those are told apart by which is newer.
    /// oxenstored of Xen 4.14, as Debian 11 has it.
    O414,
    /// oxenstored of Xen 4.17, as Debian 12 has it.
    O417,
    /// oxenstored of Xen 4.20, as Debian 13 has it.
    O420,
    /// xenstored of Xen 4.14, as Debian 11 has it.
    C414,
    /// xenstored of Xen 4.17, as Debian 12 has it.
    C417,
    /// xenstored of Xen 4.20, as Debian 13 has it: the newest that Debian ships.
    #[default]
    C420,
    /// xenstored of Xen 4.22, from its documentation: nobody has compared it with the daemon.
    C422,
}

/// Which of Xen's two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// xenstored.
    C,
    /// oxenstored.
    Ocaml,
}

/// Text that names no daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no daemon; there are c-4.14, c-4.17, c-4.20, c-4.22, o-4.14, o-4.17 and o-4.20")]
pub struct UnknownDaemon(pub String);

impl Daemon {
    /// All of them, the oldest first.
    pub const ALL: &'static [Daemon] = &[
        Daemon::C414,
        Daemon::C417,
        Daemon::C420,
        Daemon::C422,
        Daemon::O414,
        Daemon::O417,
        Daemon::O420,
    ];

    /// Which program it is. What oxenstored does otherwise than xenstored is in [`super::ocaml`].
    pub fn make(self) -> Make {
        match self {
            Daemon::O414 | Daemon::O417 | Daemon::O420 => Make::Ocaml,
            _ => Make::C,
        }
    }

    /// The nodes that are there from the start, but for the root.
    pub(super) fn first_nodes(self) -> &'static [&'static str] {
        match (self.make(), self) {
            (Make::C, _) => &["/tool", "/tool/xenstored"],
            (Make::Ocaml, Daemon::O414) => &["/@introduceDomain", "/@releaseDomain", "/local"],
            (Make::Ocaml, _) => &[
                "/@introduceDomain",
                "/@releaseDomain",
                "/local",
                "/tool",
                "/tool/xenstored",
            ],
        }
    }

    /// Does a directory list its children by age? Since 4.17 oxenstored has them by name.
    pub(super) fn lists_by_age(self) -> bool {
        !matches!(self, Daemon::O417 | Daemon::O420)
    }

    /// Does the next domain of a number begin with no nodes in oxenstored's count (XSA-483)?
    pub(super) fn counts_anew(self) -> bool {
        self != Daemon::O414
    }

    /// Does oxenstored count nodes that were never counted as fewer than none?
    pub(super) fn counts_below_nothing(self) -> bool {
        self != Daemon::O414
    }

    /// What each node takes beside permissions, value and names: `struct xs_tdb_record_hdr` until
    /// 4.17, `struct node_hdr` then (`calc_node_acc_size`).
    pub(super) fn node_header_bytes(self) -> usize {
        if self <= Daemon::C417 { 24 } else { 16 }
    }

    /// May a node be as large as its limit (`domain_max_chk`), or has it to stay below
    /// (`write_node_raw` until 4.17)?
    pub(super) fn is_over_node_limit(self, bytes: usize, limit: usize) -> bool {
        if self <= Daemon::C417 {
            bytes >= limit
        } else {
            bytes > limit
        }
    }

    /// An errno as the daemon names it: what is not in its table is EINVAL, and EPERM came into it with
    /// 4.15 (`send_error`; `xsd_errors`, `io/xs_wire.h`).
    pub(super) fn named(self, errno: Errno) -> Errno {
        match errno {
            Errno::PERM if self == Daemon::C414 => Errno::INVAL,
            errno => errno,
        }
    }

    /// Has the path of UNWATCH to keep to the quota? Before, a watch from before the quota was made
    /// smaller could go (`do_unwatch`).
    pub(super) fn limits_paths_of_unwatch(self) -> bool {
        self > Daemon::C417
    }

    /// What UNWATCH of something that is no path is (`do_unwatch`).
    pub(super) fn unwatch_of_no_path(self) -> Errno {
        if self <= Daemon::C417 {
            Errno::NOENT
        } else {
            Errno::INVAL
        }
    }

    /// Are special watches nodes, but for the directory (`setup_structure`)? Before, their permissions
    /// could be set, not told, and there was nobody above them (`set_perms_special`).
    pub(super) fn has_special_nodes(self) -> bool {
        self > Daemon::C417
    }

    /// Is a path's length counted from the root on, and no quota (`is_valid_nodename`)?
    pub(super) fn limits_whole_paths(self) -> bool {
        self == Daemon::C414
    }

    /// Does a watch on the root hear of domains that come and go (`fire_watches`)?
    pub(super) fn tells_root_of_domains(self) -> bool {
        self == Daemon::C414
    }

    /// Does a permission on a special watch count for the next domain of its number, too
    /// (`check_perms_special`)?
    pub(super) fn has_lasting_special_permissions(self) -> bool {
        self == Daemon::C414
    }

    /// Do a transaction's own nodes count for the quota before its end (`domain_nbentry`)?
    pub(super) fn counts_nodes_inside(self) -> bool {
        self > Daemon::C417
    }

    /// Are watches and transactions of dom0's programs among dom0's, and not only its kernel's?
    pub(super) fn counts_sockets_as_dom0(self) -> bool {
        self > Daemon::C417
    }

    /// Is the number of nodes looked at when any transaction ends, dom0's or one that made none, too
    /// (`transaction_fix_domains`; `do_transaction_end` since)?
    pub(super) fn checks_nodes_at_every_end(self) -> bool {
        self == Daemon::C414
    }

    /// How many writes it is to remove so many nodes: until 4.14 the node above each is written anew, then
    /// only that above all of them (`delete_node`; `rm_node` since).
    pub(super) fn writes_of_removal(self, nodes: usize) -> usize {
        match self {
            _ if nodes == 0 => 0,
            Daemon::C414 => 2 * nodes,
            _ => nodes + 1,
        }
    }

    /// Does `control` know live updates?
    pub(super) fn has_live_update(self) -> bool {
        self > Daemon::C414
    }

    /// Can parts of the log be switched on and off?
    pub(super) fn has_log_switches(self) -> bool {
        self > Daemon::C417
    }

    /// Does `control quota` tell the highest values, too?
    pub(super) fn has_highest_values(self) -> bool {
        self > Daemon::C417
    }

    /// Is dom0's path, too, as short as others' (`is_valid_nodename`; `canonicalize` since)?
    pub(super) fn limits_paths_of_dom0(self) -> bool {
        self <= Daemon::C417
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Daemon::O414 => "o-4.14",
            Daemon::O417 => "o-4.17",
            Daemon::O420 => "o-4.20",
            Daemon::C414 => "c-4.14",
            Daemon::C417 => "c-4.17",
            Daemon::C420 => "c-4.20",
            Daemon::C422 => "c-4.22",
        })
    }
}

impl FromStr for Daemon {
    type Err = UnknownDaemon;

    fn from_str(text: &str) -> Result<Daemon, UnknownDaemon> {
        let mut all = Daemon::ALL.iter();
        let found = all.find(|daemon| daemon.to_string() == text);
        found.copied().ok_or_else(|| UnknownDaemon(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back() {
        for daemon in Daemon::ALL {
            assert_eq!(daemon.to_string().parse(), Ok(*daemon));
        }
        let error = "c-4.16".parse::<Daemon>().unwrap_err().to_string();
        for daemon in Daemon::ALL {
            assert!(error.contains(&daemon.to_string()), "{error}");
        }
    }
}
