//! What domains take of their quotas, and the most that they took.

use super::super::transaction::Transaction;
use super::Server;
use super::books::Usage;
use libgnt::DomId;

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
        (usage, self.highest.note(domid, usage))
    }

    /// The most begins anew with what there is.
    pub(super) fn forget_highest(&mut self) {
        for domid in self.highest.forget_all() {
            let usage = self.usage(domid);
            self.highest.begin(domid, usage);
        }
    }
}
