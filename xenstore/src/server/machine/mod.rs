//! The server, without I/O: a request of a connection goes in, messages to connections come out.

mod arguments;
mod books;
mod control;
mod domains;
mod later;
mod nodes;
mod ocaml;
mod own;
mod request;
mod switches;
mod transactions;
mod usage;
mod watches;
mod words;

pub use words::{Action, Input, Settings, StoreSabotage};

use super::access::{Access, Place, Rules};
use super::change::Change;
use super::daemon::{Daemon, Make};
use super::ocaml::transaction::Response;
use super::ocaml::{self as oxenstored, Books};
use super::rate::Rates;
use super::state::{Snapshot, State};
use super::store::Tree;
use super::store::grant::{Deaths, Grant};
use super::transaction::Transaction;
use super::watch::{ConnId, Watches};
use crate::path::{self, Path, RELEASE_DOMAIN, upwards};
use crate::perms::{Caller, Permission, Perms, Rights};
use crate::wire::{Kind, PAYLOAD_MAX_BYTES, Packet, RELATIVE_PATH_MAX_BYTES, error_name};
use arguments::nul_terminated;
use books::Highest;
use libgnt::DomId;
use libgnt::machine::{Machine, Now};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use switches::Switches;

#[derive(Debug)]
struct Connection {
    domid: DomId,
    /// Through /dev/xen/xenbus, where the kernel keeps its own list of watches.
    device: bool,
    transactions: BTreeMap<u32, Transaction>,
    /// The same of an oxenstored.
    ocaml: BTreeMap<u32, oxenstored::transaction::Transaction>,
    last_transaction: u32,
}

/// The whole state: tree, connections, watches, domains.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    watches: Watches,
    connections: BTreeMap<ConnId, Connection>,
    /// The connections of each domain that has any.
    by_domain: BTreeMap<DomId, BTreeSet<ConnId>>,
    introduced: BTreeSet<DomId>,
    deaths: Deaths,
    targets: BTreeMap<DomId, DomId>,
    /// Of all connections.
    open_transactions: usize,
    rates: Option<Rates>,
    /// Nodes that the current request has written.
    written: usize,
    pub(super) settings: Settings,
    own: own::Own,
    switches: Switches,
    highest: Highest,
    /// Only an oxenstored has any.
    ocaml: Books,
    /// The last long list of children that was asked for: of which node, in which generation.
    listed: Option<(Path, u64, Arc<[u8]>)>,
    /// The time of this step.
    now: Now,
    /// Domains that have come and gone.
    turnover: u64,
}

impl Server {
    /// A tree as xenstored begins with; only dom0 is introduced.
    pub fn new(settings: impl Into<Settings>) -> Server {
        let settings = settings.into();
        let mut tree = Tree::new();
        if let Some(root) = tree.get("/") {
            let grant = Arc::clone(root.grant());
            for path in settings.daemon.first_nodes() {
                tree.insert(path, b"", Arc::clone(&grant));
            }
        }
        if settings.daemon >= Daemon::C422 {
            // From 4.22 on every domain may hear of the end of others.
            let everybody = Permission::new(Rights::Read, DomId::DOM0);
            if let Some(perms) = Perms::new(vec![everybody]) {
                tree.set_grant(RELEASE_DOMAIN, Grant::new(perms, tree.generation()));
            }
        }
        Server::with_tree(settings, tree)
    }

    /// One that goes on where another was: with its nodes and its domains.
    pub fn restored(settings: Settings, state: &State) -> Server {
        let mut server = Server::with_tree(settings, state.tree());
        for domid in state.introduced() {
            server.introduce(*domid, &mut Vec::new());
        }
        server
    }

    fn with_tree(settings: Settings, tree: Tree) -> Server {
        Server {
            ocaml: Books::new(settings.daemon, &tree),
            tree,
            watches: Watches::default(),
            connections: BTreeMap::new(),
            by_domain: BTreeMap::new(),
            introduced: BTreeSet::from([DomId::DOM0]),
            deaths: match settings.daemon >= Daemon::C422 {
                true => Deaths::with_anybody(),
                false => Deaths::default(),
            },
            targets: BTreeMap::new(),
            open_transactions: 0,
            rates: settings.write_rate.map(Rates::new),
            written: 0,
            settings,
            own: own::Own::default(),
            switches: Switches::default(),
            highest: Highest::default(),
            listed: None,
            now: Now::ZERO,
            turnover: 0,
        }
    }

    /// The tree as it is.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Is the domain there?
    pub fn is_introduced(&self, domid: DomId) -> bool {
        self.introduced.contains(&domid)
    }

    /// What there is to keep.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            tree: self.tree.clone(),
            deaths: self.deaths.clone(),
            introduced: self.introduced.iter().copied().collect(),
        }
    }

    /// Changes whenever a snapshot does.
    pub fn version(&self) -> (u64, u64) {
        (self.tree.generation(), self.turnover)
    }

    /// How many of a connection's answers may wait before no more of its requests are taken.
    pub fn outstanding_limit(&self, conn: ConnId) -> usize {
        let domid = self.connections.get(&conn).map(|c| c.domid);
        match domid {
            Some(domid) if domid != DomId::DOM0 => self.quotas_of(domid).outstanding,
            _ => usize::MAX,
        }
    }

    /// How long a connection's next request has to wait, because its domain writes too fast.
    pub fn wait(&mut self, conn: ConnId, now: Now) -> Option<Duration> {
        let domid = self.connections.get(&conn)?.domid;
        self.rates.as_mut()?.wait(domid, now)
    }

    #[cfg(test)]
    pub(super) fn knows(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    fn connect(&mut self, conn: ConnId, domid: DomId, device: bool) {
        let connection = Connection {
            domid,
            device,
            transactions: BTreeMap::new(),
            ocaml: BTreeMap::new(),
            last_transaction: 0,
        };
        self.by_domain.entry(domid).or_default().insert(conn);
        self.connections.insert(conn, connection);
    }

    fn forget(&mut self, conn: ConnId) {
        self.watches.forget(conn);
        self.ocaml.watches.forget(conn);
        self.forget_transactions(conn);
        if let Some(connection) = self.connections.remove(&conn)
            && let Some(others) = self.by_domain.get_mut(&connection.domid)
        {
            others.remove(&conn);
            if others.is_empty() {
                self.by_domain.remove(&connection.domid);
            }
        }
    }

    fn answer(&mut self, conn: ConnId, packet: Packet, actions: &mut Vec<Action>) {
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        let caller = self.caller(connection.domid);
        let first = actions.len();
        let before = self.tree.generation();
        self.written = 0;
        let is_ocaml = self.settings.daemon.make() == Make::Ocaml;
        let done = match is_ocaml {
            false => self
                .execute(conn, caller, &packet, actions)
                .map_err(|errno| error_name(self.settings.daemon.named(errno))),
            true => match self.ocaml_request(conn, caller, &packet, actions) {
                Response::Done => Ok(b"OK\0".to_vec()),
                Response::Data(payload) => Ok(payload),
                Response::Refused(refusal) => Err(refusal.name()),
            },
        };
        let (kind, payload) = match done {
            Ok(payload) => (packet.kind, payload),
            Err(name) => (Kind::Error as u32, nul_terminated(name)),
        };
        let is_changed = self.tree.generation() != before;
        if is_changed {
            // The end of a transaction is one write, however many nodes are in it.
            self.pay(caller.domid, self.written.max(1));
        }
        let takes = matches!(
            packet.known_kind(),
            Some(Kind::Watch | Kind::TransactionStart)
        );
        // dom0 has no quotas, and many connections.
        if !caller.is_privileged() && (is_changed || takes) {
            self.note_usage(caller.domid);
        }
        let reply = Packet {
            kind,
            req_id: packet.req_id,
            // What is asked of the device about watches Linux answers itself, with the request's numbers.
            tx_id: match is_ocaml && !self.is_device(conn) {
                true => Server::ocaml_transaction_of(&packet),
                false => packet.tx_id,
            },
            payload,
        };
        // xenstored tells of a change before it answers who made it, and of a new watch after.
        let answers_first = match is_ocaml {
            true => Server::ocaml_answers_first(packet.known_kind()),
            false => packet.known_kind() == Some(Kind::Watch),
        };
        let at = if answers_first { first } else { actions.len() };
        actions.insert(at, Action::Reply(conn, reply));
    }

    /// Only a write that can be in the way of another's transaction costs something. The caller's own,
    /// if this was its end, is no longer among those that are open.
    fn pay(&mut self, domid: DomId, writes: usize) {
        if self.open_transactions > 0
            && let Some(rates) = &mut self.rates
        {
            rates.pay(domid, writes, self.now);
        }
    }

    /// How long the caller's paths may be.
    fn path_limit(&self, caller: Caller) -> path::Limit {
        let daemon = self.settings.daemon;
        if daemon.limits_whole_paths() {
            return path::Limit::FromRoot;
        }
        let own = self.quotas_of(caller.domid).path_bytes;
        match daemon.limits_paths_of_dom0() {
            true => path::Limit::BelowHome {
                nodes: own,
                // A constant (`check_watch_path`).
                special: RELATIVE_PATH_MAX_BYTES,
            },
            // None but the message's: 4.20 looks at others' paths alone (`is_valid_nodename`).
            false if caller.is_privileged() => path::Limit::below_home(PAYLOAD_MAX_BYTES),
            false => path::Limit::below_home(own),
        }
    }

    fn caller(&self, domid: DomId) -> Caller {
        Caller {
            domid,
            target: self.targets.get(&domid).copied(),
        }
    }

    /// Works on the tree, or in a transaction of the connection, and lets watches hear.
    fn access<T>(
        &mut self,
        conn: ConnId,
        caller: Caller,
        tx_id: u32,
        actions: &mut Vec<Action>,
        work: impl FnOnce(&mut Access<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let other_bytes = self.watched_bytes(caller);
        let quotas = self.quotas_of(caller.domid);
        let place = match tx_id {
            0 => Place::Tree(&mut self.tree),
            _ => {
                let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
                let transaction = connection.transactions.get_mut(&tx_id);
                Place::Inside(&self.tree, transaction.ok_or(Errno::NOENT)?)
            }
        };
        let mut changes = Vec::new();
        let done = work(&mut Access {
            place,
            caller,
            rules: Rules {
                daemon: self.settings.daemon,
                quotas: &quotas,
                deaths: &self.deaths,
            },
            other_bytes,
            watches: &self.watches,
            changes: &mut changes,
            written: &mut self.written,
        })?;
        self.fire(&changes, actions);
        Ok(done)
    }

    /// What the caller's domain takes beside nodes. dom0 may take what it likes.
    fn watched_bytes(&self, caller: Caller) -> usize {
        if caller.is_privileged() {
            return 0;
        }
        let mine = self.by_domain.get(&caller.domid).into_iter().flatten();
        mine.map(|conn| self.watches.of(*conn).bytes).sum()
    }

    fn fire(&self, changes: &[Change], actions: &mut Vec<Action>) {
        self.fire_past(&self.deaths, changes, actions);
    }

    /// For whom these domains have died.
    fn fire_past(&self, deaths: &Deaths, changes: &[Change], actions: &mut Vec<Action>) {
        let caller_of = |conn| self.connections.get(&conn).map(|c| self.caller(c.domid));
        let to_everybody = self.settings.sabotage == Some(StoreSabotage::TellsEverybody);
        for change in changes {
            let fired = self.watches.fired(change, deaths, caller_of, to_everybody);
            for event in fired {
                // One that is too long for a message is not sent (`send_event`).
                if event.path.len() + event.token.len() + 2 <= PAYLOAD_MAX_BYTES {
                    let packet = Packet::watch_event(event.path, event.token);
                    actions.push(Action::Event(event.conn, packet));
                }
            }
        }
    }

    /// A special watch fires for who may read it, or what is above it.
    fn fire_special(&self, path: &str, actions: &mut Vec<Action>) {
        let grant = |path| self.tree.get(path).map(|node| node.grant().clone());
        let levels = match self.settings.daemon.has_special_nodes() {
            true => 2,
            false => 1,
        };
        let change = Change {
            path: path.to_owned(),
            exact: !self.settings.daemon.tells_root_of_domains(),
            readable_by: upwards(path).take(levels).filter_map(grant).collect(),
        };
        match self.settings.daemon.has_lasting_special_permissions() {
            true => self.fire_past(&Deaths::default(), &[change], actions),
            false => self.fire(&[change], actions),
        }
    }
}

impl Machine for Server {
    type Input = Input;
    type Action = Action;

    /// Only the limit on writes depends on the time.
    fn step(&mut self, now: Now, input: Input, actions: &mut Vec<Action>) {
        self.now = now;
        match input {
            Input::Connected {
                conn,
                domid,
                device,
            } => self.connect(conn, domid, device),
            Input::Disconnected(conn) => self.forget(conn),
            Input::Request(conn, packet) => self.answer(conn, packet, actions),
            Input::Introduce(domid) => self.introduce(domid, actions),
            Input::Release(domid) => self.release(domid, actions),
        }
    }
}
