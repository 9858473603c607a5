//! The server, without I/O: a request of a connection goes in, messages to connections come out.
//!
//! [`service`] puts sockets around it.

mod request;

pub mod queue;
pub mod service;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tables;

use crate::access::{Access, Change};
use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::{Caller, Perms};
use crate::quota::Quotas;
use crate::store::Tree;
use crate::transaction::Transaction;
use crate::watch::Watches;
use crate::wire::{Kind, Packet, error_name};
use libgnt::DomId;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// A connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A message to be sent, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer to a request.
    Reply(ConnId, Packet),
    /// A watch event. It follows the reply of the request that caused it.
    Event(ConnId, Packet),
    /// Nothing more for this connection: its domain is gone.
    Close(ConnId),
}

#[derive(Debug)]
struct Connection {
    domid: DomId,
    /// Through /dev/xen/xenbus, where the kernel keeps its own list of watches.
    device: bool,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
}

/// The whole state: tree, connections, watches, domains.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    watches: Watches,
    connections: BTreeMap<ConnId, Connection>,
    last_connection: u64,
    introduced: BTreeSet<DomId>,
    targets: BTreeMap<DomId, DomId>,
    special: BTreeMap<Path, Perms>,
    quotas: Quotas,
    sabotage: Option<Sabotage>,
}

/// Ways to break the server, for tests of those who must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Transactions commit whatever others have changed since.
    IgnoresConflicts,
    /// Watches fire without a look at permissions.
    TellsEverybody,
}

impl Server {
    /// An empty tree; only dom0 is introduced.
    pub fn new(quotas: Quotas) -> Server {
        Server {
            tree: Tree::new(),
            watches: Watches::default(),
            connections: BTreeMap::new(),
            last_connection: 0,
            introduced: BTreeSet::from([DomId::DOM0]),
            targets: BTreeMap::new(),
            special: BTreeMap::new(),
            quotas,
            sabotage: None,
        }
    }

    /// The tree as it is.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A new connection with a domain's rights, to xenstored itself.
    pub fn connect(&mut self, domid: DomId) -> ConnId {
        self.open(domid, false)
    }

    /// A new open file of a domain's `/dev/xen/xenbus`. It differs from a connection in that a
    /// watch may be registered twice, and the end of one that is not there is no error
    /// (`xenbus_write_watch`, `drivers/xen/xenbus/xenbus_dev_frontend.c`).
    pub fn open_device(&mut self, domid: DomId) -> ConnId {
        self.open(domid, true)
    }

    fn open(&mut self, domid: DomId, device: bool) -> ConnId {
        self.last_connection += 1;
        let id = ConnId(self.last_connection);
        let connection = Connection {
            domid,
            device,
            transactions: BTreeMap::new(),
            last_transaction: 0,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Forgets a connection, its watches and its transactions.
    pub fn disconnect(&mut self, conn: ConnId) {
        self.watches.forget(conn);
        self.connections.remove(&conn);
    }

    /// Answers one message. Whatever it holds, there is exactly one reply, and it comes first.
    pub fn handle(&mut self, conn: ConnId, packet: &Packet) -> Vec<Output> {
        let Some(connection) = self.connections.get(&conn) else {
            return Vec::new();
        };
        let caller = self.caller(connection.domid);
        let mut events = Vec::new();
        let (kind, payload) = match self.execute(conn, caller, packet, &mut events) {
            Ok(payload) => (packet.kind, payload),
            Err(errno) => (Kind::Error as u32, nul_terminated(error_name(errno))),
        };
        let reply = Packet {
            kind,
            req_id: packet.req_id,
            tx_id: packet.tx_id,
            payload,
        };
        events.insert(0, Output::Reply(conn, reply));
        events
    }

    /// A domain exists from now on. False if it did already.
    pub fn introduce(&mut self, domid: DomId) -> (bool, Vec<Output>) {
        if !self.introduced.insert(domid) {
            return (false, Vec::new());
        }
        (true, self.fire_special(INTRODUCE_DOMAIN))
    }

    /// A domain is gone: its connections are closed, the nodes it owned removed, and
    /// `@releaseDomain` fires, after the removals.
    pub fn release(&mut self, domid: DomId) -> Vec<Output> {
        if domid == DomId::DOM0 || !self.introduced.remove(&domid) {
            return Vec::new();
        }
        let closed: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.domid == domid)
            .map(|(id, _)| *id)
            .collect();
        for conn in &closed {
            self.disconnect(*conn);
        }
        self.targets
            .retain(|stub, target| *stub != domid && *target != domid);
        let mut changes = Vec::new();
        let owned = self.tree.subtree(&Path::root());
        for (path, _) in owned.iter().filter(|(_, perms)| perms.owner() == domid) {
            let mut access = Access {
                tree: &mut self.tree,
                caller: Caller::of(DomId::DOM0),
                quotas: &self.quotas,
                changes: &mut changes,
                touched: None,
            };
            // Below a node that has just gone there is nothing left to remove.
            access.remove(path);
        }
        let mut outputs: Vec<Output> = closed.into_iter().map(Output::Close).collect();
        outputs.extend(self.fire(&changes));
        outputs.extend(self.fire_special(RELEASE_DOMAIN));
        outputs
    }

    fn caller(&self, domid: DomId) -> Caller {
        Caller {
            domid,
            target: self.targets.get(&domid).copied(),
        }
    }

    fn fire(&self, changes: &[Change]) -> Vec<Output> {
        let caller_of = |conn| self.connections.get(&conn).map(|c| self.caller(c.domid));
        let to_everybody = self.sabotage == Some(Sabotage::TellsEverybody);
        let fired = changes
            .iter()
            .flat_map(|change| self.watches.fired(change, caller_of, to_everybody));
        fired
            .map(|f| Output::Event(f.conn, Packet::watch_event(&f.path, &f.token)))
            .collect()
    }

    fn fire_special(&self, name: &str) -> Vec<Output> {
        let Ok((path, _)) = Path::parse(name.as_bytes(), DomId::DOM0) else {
            return Vec::new();
        };
        let perms = self
            .special
            .get(&path)
            .cloned()
            .unwrap_or_else(Perms::private);
        self.fire(&[Change {
            path,
            exact: true,
            readable_by: vec![perms],
        }])
    }
}

fn nul_terminated(text: impl AsRef<[u8]>) -> Vec<u8> {
    [text.as_ref(), b"\0"].concat()
}

/// EINVAL for what [`Path::parse`] refuses: the wire has no finer word.
fn invalid<E>(_: E) -> Errno {
    Errno::INVAL
}
