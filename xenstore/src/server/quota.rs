//! What a domain other than dom0 may take of the server. The defaults are xenstored's, which are the
//! same from 4.14 (with its security updates) to 4.20 (`hard_quotas`, `tools/xenstored/domain.c`).

use super::daemon::{Daemon, Make};
use std::str::FromStr;

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
    /// Requests that are answered while the answers wait to be taken. Then no more are read.
    pub outstanding: usize,
    /// Bytes of one node: [`super::store::Node::content_bytes`] and a header (`ENOSPC`).
    pub node_bytes: usize,
    /// Entries in one node's permissions (`ENOSPC`).
    pub permissions: usize,
    /// Nodes that one transaction may look at (`ENOSPC`, and its end is `ENOMEM`).
    pub transaction_nodes: usize,
    /// Bytes of nodes, watches and transactions together; 0 is no limit (`ENOMEM`).
    pub memory: usize,
    /// Bytes of a path, those of a home directory not counted (`EINVAL`).
    pub path_bytes: usize,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            outstanding: 20,
            node_bytes: 2048,
            permissions: 5,
            transaction_nodes: 1024,
            memory: (2 << 20) + (512 << 10),
            path_bytes: crate::wire::RELATIVE_PATH_MAX_BYTES,
        }
    }
}

/// One limit by xenstored's name for it, as in its option `--quota` and `xenstore-control quota set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaSetting {
    name: &'static str,
    value: usize,
}

/// Text that sets no quota.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} sets no quota; write a name of nodes, watches, transactions, outstanding, \
         node-size, node-permissions, transaction-nodes, memory and path-max, and a number, such as nodes=2000"
)]
pub struct BadQuota(pub String);

impl Quotas {
    /// A daemon's defaults. Those of oxenstored are in its own configuration (`oxenstored.conf`): of a node
    /// the value alone counts, of a transaction what is asked in it, and where it knows no limit there is none.
    pub fn of(daemon: Daemon) -> Quotas {
        match daemon.make() {
            Make::C => Quotas::default(),
            Make::Ocaml => Quotas {
                nodes: 1000,
                watches: 100,
                transactions: 10,
                outstanding: 1024,
                node_bytes: 2048,
                permissions: usize::MAX,
                transaction_nodes: 1024,
                memory: 0,
                path_bytes: 1024,
            },
        }
    }

    /// xenstored's name of each, and what it says about it (`xenstore-control quota`).
    pub const NAMES: &'static [(&'static str, &'static str)] = &[
        ("nodes", "Nodes per domain"),
        ("watches", "Watches per domain"),
        ("outstanding", "Outstanding requests per domain"),
        ("memory", "Total Xenstore memory per domain (error level)"),
        ("transactions", "Active transactions per domain"),
        (
            "transaction-nodes",
            "Max. number of accessed nodes per transaction",
        ),
        ("node-permissions", "Max. number of permissions per node"),
        ("path-max", "Max. length of a node path"),
        ("node-size", "Max. size of a node"),
    ];

    fn field(&mut self, name: &str) -> Option<&mut usize> {
        Some(match name {
            "nodes" => &mut self.nodes,
            "watches" => &mut self.watches,
            "outstanding" => &mut self.outstanding,
            "memory" => &mut self.memory,
            "transactions" => &mut self.transactions,
            "transaction-nodes" => &mut self.transaction_nodes,
            "node-permissions" => &mut self.permissions,
            "path-max" => &mut self.path_bytes,
            "node-size" => &mut self.node_bytes,
            _ => return None,
        })
    }

    /// The limit of this name.
    pub fn get(mut self, name: &str) -> Option<usize> {
        self.field(name).map(|value| *value)
    }

    /// Changes one limit.
    pub fn set(&mut self, setting: &QuotaSetting) {
        if let Some(field) = self.field(setting.name) {
            *field = setting.value;
        }
    }
}

impl QuotaSetting {
    /// A name and a number, if there is such a quota.
    pub fn new(name: &str, value: usize) -> Option<QuotaSetting> {
        let (name, _) = Quotas::NAMES.iter().find(|(known, _)| *known == name)?;
        Some(QuotaSetting { name, value })
    }
}

impl FromStr for QuotaSetting {
    type Err = BadQuota;

    fn from_str(text: &str) -> Result<QuotaSetting, BadQuota> {
        let parsed = text
            .split_once('=')
            .and_then(|(name, value)| QuotaSetting::new(name, value.parse().ok()?));
        parsed.ok_or_else(|| BadQuota(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_sets_its_own_limit() {
        for (n, (name, _)) in Quotas::NAMES.iter().enumerate() {
            let mut quotas = Quotas::default();
            let value = 70_000 + n;
            quotas.set(&format!("{name}={value}").parse().unwrap());
            assert_eq!(quotas.get(name), Some(value));
            for (other, _) in Quotas::NAMES.iter().filter(|(other, _)| other != name) {
                assert_eq!(quotas.get(other), Quotas::default().get(other), "{name}");
            }
            assert!(BadQuota(String::new()).to_string().contains(name));
        }
        for wrong in ["", "nodes", "nodes=", "nodes=x", "nodes=-1", "none=1"] {
            assert!(wrong.parse::<QuotaSetting>().is_err(), "{wrong}");
        }
    }
}
