//! What a domain other than dom0 may take of the server. The defaults are those of xenstored 4.17.

/// Limits for each domain, dom0 excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quotas {
    /// Nodes a domain may own (`ENOSPC`).
    pub nodes: usize,
    /// Watches over all its connections: with one more there is no further one (`E2BIG`).
    pub watches: usize,
    /// Open transactions over all its connections: with one more there is no further one (`ENOSPC`).
    pub transactions: usize,
    /// Bytes of one node, which it does not reach: [`super::store::Node::record_bytes`] (`ENOSPC`).
    pub node_bytes: usize,
    /// Entries in one node's permissions (`ENOSPC`).
    pub permissions: usize,
    /// Nodes that one transaction may touch (`ENOSPC`): its memory is bounded.
    pub transaction_nodes: usize,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            node_bytes: 2048,
            permissions: 5,
            transaction_nodes: 1024,
        }
    }
}
