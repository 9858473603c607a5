//! What domains take of their quotas, and the most that they took.

use super::super::transaction::Transaction;
use super::Server;
use libgnt::DomId;
use std::collections::{BTreeMap, BTreeSet};

/// What a domain has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) nodes: usize,
    pub(super) watches: usize,
    /// Open ones.
    pub(super) transactions: usize,
    /// Bytes of all these.
    pub(super) memory: usize,
}

impl Usage {
    fn raise(&mut self, to: Usage) {
        self.nodes = self.nodes.max(to.nodes);
        self.watches = self.watches.max(to.watches);
        self.transactions = self.transactions.max(to.transactions);
        self.memory = self.memory.max(to.memory);
    }
}

/// The most that domains had, looked at after each of their own requests that changed something. What
/// others have given or made them is seen with the next.
#[derive(Debug)]
pub(super) struct Books {
    of_domains: BTreeMap<DomId, Usage>,
    /// Of all domains but dom0.
    pub(super) of_all: Usage,
    /// Who takes more memory is warned of, once (`soft_quotas`, `tools/xenstored/domain.c`).
    pub(super) soft_memory: usize,
    warned: BTreeSet<DomId>,
}

impl Default for Books {
    fn default() -> Books {
        Books {
            of_domains: BTreeMap::new(),
            of_all: Usage::default(),
            soft_memory: 2 << 20,
            warned: BTreeSet::new(),
        }
    }
}

impl Books {
    /// A new domain of this number begins anew.
    pub(super) fn forget(&mut self, domid: DomId) {
        self.of_domains.remove(&domid);
        self.warned.remove(&domid);
    }
}

impl Server {
    pub(super) fn usage(&self, domid: DomId) -> Usage {
        let daemon = self.settings.daemon;
        let header = daemon.node_header_bytes();
        let owned = self.tree.owned(domid);
        let mut usage = Usage {
            nodes: owned.nodes,
            memory: owned.bytes + owned.nodes * header,
            ..Usage::default()
        };
        for conn in self.by_domain.get(&domid).into_iter().flatten() {
            let Some(connection) = self.connections.get(conn) else {
                continue;
            };
            let watched = self.watches.of(*conn);
            usage.memory += watched.bytes;
            let open = connection.transactions.values();
            usage.memory += open.map(Transaction::bytes).sum::<usize>();
            let is_domains = domid != DomId::DOM0 || connection.device;
            if is_domains || daemon.counts_sockets_as_dom0() {
                usage.watches += watched.count;
                usage.transactions += connection.transactions.len();
            }
        }
        if daemon.has_special_nodes() {
            for (path, node) in self.tree.special() {
                if node.grant().owner() == domid {
                    usage.nodes += 1;
                    usage.memory += path.len() + header + node.content_bytes();
                }
            }
        }
        usage
    }

    /// What the domain has now, and the most.
    pub(super) fn note_usage(&mut self, domid: DomId) -> (Usage, Usage) {
        let usage = self.usage(domid);
        let books = &mut self.books;
        let highest = books.of_domains.entry(domid).or_default();
        highest.raise(usage);
        let highest = *highest;
        if domid != DomId::DOM0 {
            books.of_all.raise(usage);
            if usage.memory < books.soft_memory {
                books.warned.remove(&domid);
            } else if books.warned.insert(domid) {
                let (bytes, soft) = (usage.memory, books.soft_memory);
                tracing::warn!(%domid, bytes, soft, "a domain takes more memory than the soft quota");
            }
        }
        (usage, highest)
    }

    /// The most begins anew with what there is.
    pub(super) fn forget_highest(&mut self) {
        self.books.of_all = Usage::default();
        let domains: Vec<DomId> = self.books.of_domains.keys().copied().collect();
        for domid in domains {
            let usage = self.usage(domid);
            self.books.of_domains.insert(domid, usage);
        }
    }
}
