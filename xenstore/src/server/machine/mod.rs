//! The server, without I/O: a request of a connection goes in, messages to connections come out.

mod arguments;
mod domains;
mod request;
mod transactions;
mod watches;

use super::access::Change;
use super::quota::Quotas;
use super::store::Tree;
use super::transaction::Transaction;
use super::watch::{ConnId, Watches};
use crate::path::Path;
use crate::perms::{Caller, Perms};
use crate::wire::{Kind, Packet, error_name};
use arguments::nul_terminated;
use libgnt::DomId;
use libgnt::machine::{Machine, Now};
use std::collections::{BTreeMap, BTreeSet};

/// What can happen to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A client is there.
    Connected {
        /// Its number, which no connection has had before.
        conn: ConnId,
        /// The domain whose rights it has.
        domid: DomId,
        /// False: a connection to xenstored itself. True: an open file of the domain's
        /// `/dev/xen/xenbus`, which differs in that a watch may be registered twice, and the end of
        /// one that is not there is no error (`xenbus_write_watch`,
        /// `drivers/xen/xenbus/xenbus_dev_frontend.c`).
        device: bool,
    },
    /// A client is gone. Its watches and its transactions are forgotten.
    Disconnected(ConnId),
    /// A client asks. Whatever the message holds, there is exactly one [`Action::Reply`]: after the
    /// events that it causes, as in xenstored, but before the first event of a watch. There is none if
    /// the connection is not known (any more).
    Request(ConnId, Packet),
    /// A domain exists from now on: `@introduceDomain` fires, unless it existed already.
    Introduce(DomId),
    /// A domain is gone: its connections are closed, the nodes that it owned are removed, and
    /// `@releaseDomain` fires, after the removals.
    Release(DomId),
}

/// What the server has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the answer to a request.
    Reply(ConnId, Packet),
    /// Send a watch event. It goes before the reply to the request that caused it, but a watch's first
    /// one after it.
    Event(ConnId, Packet),
    /// Close this connection: its domain is gone. The machine has forgotten it.
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
    introduced: BTreeSet<DomId>,
    targets: BTreeMap<DomId, DomId>,
    special: BTreeMap<Path, Perms>,
    quotas: Quotas,
    sabotage: Option<StoreSabotage>,
}

/// Ways to break the server, for tests of those who must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreSabotage {
    /// Transactions commit whatever others have changed since.
    IgnoresConflicts,
    /// Watches fire without a look at permissions.
    TellsEverybody,
}

impl Server {
    /// An empty tree; only dom0 is introduced.
    pub fn new(quotas: Quotas) -> Server {
        Server::sabotaged(quotas, None)
    }

    /// As [`Server::new`], but broken on purpose.
    pub fn sabotaged(quotas: Quotas, sabotage: Option<StoreSabotage>) -> Server {
        Server {
            tree: Tree::new(),
            watches: Watches::default(),
            connections: BTreeMap::new(),
            introduced: BTreeSet::from([DomId::DOM0]),
            targets: BTreeMap::new(),
            special: BTreeMap::new(),
            quotas,
            sabotage,
        }
    }

    /// The tree as it is.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    #[cfg(test)]
    pub(super) fn knows(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    fn forget(&mut self, conn: ConnId) {
        self.watches.forget(conn);
        self.connections.remove(&conn);
    }

    fn answer(&mut self, conn: ConnId, packet: Packet, actions: &mut Vec<Action>) {
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        let caller = self.caller(connection.domid);
        let first = actions.len();
        let (kind, payload) = match self.execute(conn, caller, &packet, actions) {
            Ok(payload) => (packet.kind, payload),
            Err(errno) => (Kind::Error as u32, nul_terminated(error_name(errno))),
        };
        let reply = Packet {
            kind,
            req_id: packet.req_id,
            tx_id: packet.tx_id,
            payload,
        };
        let at = match packet.known_kind() {
            Some(Kind::Watch) => first,
            _ => actions.len(),
        };
        actions.insert(at, Action::Reply(conn, reply));
    }

    fn caller(&self, domid: DomId) -> Caller {
        Caller {
            domid,
            target: self.targets.get(&domid).copied(),
        }
    }

    fn fire(&self, changes: &[Change], actions: &mut Vec<Action>) {
        let caller_of = |conn| self.connections.get(&conn).map(|c| self.caller(c.domid));
        let to_everybody = self.sabotage == Some(StoreSabotage::TellsEverybody);
        let fired = changes
            .iter()
            .flat_map(|change| self.watches.fired(change, caller_of, to_everybody));
        actions
            .extend(fired.map(|f| Action::Event(f.conn, Packet::watch_event(&f.path, &f.token))));
    }

    fn fire_special(&self, name: &str, actions: &mut Vec<Action>) {
        let Ok((path, _)) = Path::parse(name.as_bytes(), DomId::DOM0) else {
            return;
        };
        let perms = self
            .special
            .get(&path)
            .cloned()
            .unwrap_or_else(Perms::private);
        let change = Change {
            path,
            exact: true,
            readable_by: vec![perms],
        };
        self.fire(&[change], actions);
    }
}

impl Machine for Server {
    type Input = Input;
    type Action = Action;

    /// Nothing here depends on the time.
    fn step(&mut self, _now: Now, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Connected {
                conn,
                domid,
                device,
            } => {
                let connection = Connection {
                    domid,
                    device,
                    transactions: BTreeMap::new(),
                    last_transaction: 0,
                };
                self.connections.insert(conn, connection);
            }
            Input::Disconnected(conn) => self.forget(conn),
            Input::Request(conn, packet) => self.answer(conn, packet, actions),
            Input::Introduce(domid) => self.introduce(domid, actions),
            Input::Release(domid) => self.release(domid, actions),
        }
    }
}
