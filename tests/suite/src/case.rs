//! What a case is, and where it may run.

use libgnt::DomId;
use pv_xenstore::Client;
use std::time::Duration;

/// Nothing here takes so long; a loaded machine may.
pub const SOON: Duration = Duration::from_secs(60);

/// A new connection, always with the same rights.
pub type Connect<'a> = dyn Fn() -> Client + Sync + 'a;

/// How often a case does what it does often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    /// As often as makes sense.
    Usual,
    /// A tenth of that: where a request takes tens of milliseconds.
    Few,
}

impl Many {
    /// So often.
    pub fn of(self, usual: usize) -> usize {
        match self {
            Many::Usual => usual,
            Many::Few => usual.div_ceil(10),
        }
    }
}

/// What a case does, over such connections and below a node.
pub type Run = fn(&Connect<'_>, &str, Many);

/// What a case needs besides a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The rights of dom0.
    Dom0,
    /// A connection of its own at the daemon, and not a part of a kernel's.
    OwnConnection,
    /// More than a thousand requests, of which it would show no less with few.
    Speed,
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, which is its node's, too.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// What it does, below that node. It panics if something is wrong.
    pub run: Run,
}

impl Case {
    /// One that runs everywhere.
    pub(crate) const fn new(name: &'static str, run: Run) -> Case {
        let needs = Needs::Nothing;
        Case { name, needs, run }
    }

    /// One that has a need.
    pub(crate) const fn with(name: &'static str, needs: Needs, run: Run) -> Case {
        Case { name, needs, run }
    }
}

/// Where cases run: how to connect, and what these connections may do.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// A new connection.
    pub connect: &'a Connect<'a>,
    /// With which rights.
    pub domid: DomId,
    /// Is each a connection of its own at the daemon? Those of `/dev/xen/xenbus` are parts of the kernel's.
    pub own_connection: bool,
    /// An absolute path below which these rights can make nodes. What is in it is removed at the end.
    pub node: &'a str,
    /// How often cases do what they do often.
    pub many: Many,
}

impl<'a> Place<'a> {
    /// A daemon's socket, or anything else with dom0's rights.
    pub fn dom0(connect: &'a Connect<'a>) -> Place<'a> {
        Place {
            connect,
            domid: DomId::DOM0,
            own_connection: true,
            node: "/pv-suite",
            many: Many::Usual,
        }
    }

    /// Why a case may not run here.
    pub fn lacks(&self, case: &Case) -> Option<&'static str> {
        match case.needs {
            Needs::Dom0 if self.domid != DomId::DOM0 => Some("it needs the rights of dom0"),
            Needs::OwnConnection if !self.own_connection => {
                Some("it would take the kernel's own watches away")
            }
            Needs::Speed if self.many == Many::Few => Some("it takes too many requests here"),
            _ => None,
        }
    }
}
