//! `control`: the commands of xenstored that people use (`tools/xenstored/control.c`). Those that
//! write files or replace the daemon are not there: EINVAL, as for any unknown one.

use super::super::quota::{QuotaSetting, Quotas};
use super::Server;
use super::arguments::{Answer, domain_number, nul_terminated, number, ok, terminated};
use rustix::io::Errno;

/// What `help` says: a name, and its parameters.
const COMMANDS: &[(&str, &str)] = &[
    ("check", ""),
    ("log", "[on|off|+<switch>|-<switch>]"),
    ("print", "<string>"),
    ("quota", "[set <name> <val>|<domid>]"),
    ("help", ""),
];
/// What `log` can switch in xenstored. Here the program's own log has all.
const SWITCHES: &[&str] = &["obj", "io", "wrl", "acc", "tdb"];

impl Server {
    pub(super) fn control(&mut self, payload: &[u8]) -> Answer {
        let args = terminated(payload);
        match &args[..] {
            [b"help"] => {
                Ok(nul_terminated(table(COMMANDS.iter().map(
                    |(name, parameters)| format!("{name:<15} {parameters}"),
                ))))
            }
            [b"check"] => {
                self.check();
                ok()
            }
            [b"print", text] => {
                tracing::info!(text = %text.escape_ascii(), "print");
                ok()
            }
            [b"log"] => Ok(nul_terminated(
                "Log switch settings:\n".to_owned()
                    + &table(SWITCHES.iter().map(|name| format!("{name:<8}: off"))),
            )),
            [b"log", b"on" | b"off"] => ok(),
            [b"log", [b'+' | b'-', switch @ ..]]
                if SWITCHES.iter().any(|name| name.as_bytes() == switch) =>
            {
                ok()
            }
            [b"quota", b"set", name, value] => {
                let value = usize::try_from(number(value)).map_err(|_| Errno::INVAL)?;
                let name = std::str::from_utf8(name).map_err(|_| Errno::INVAL)?;
                let setting = QuotaSetting::new(name, value).filter(|_| value > 0);
                self.settings.quotas.set(&setting.ok_or(Errno::INVAL)?);
                ok()
            }
            [b"quota"] => Ok(nul_terminated(
                "Quota settings:\n".to_owned()
                    + &table(Quotas::NAMES.iter().map(|(name, what)| {
                        let value = self.settings.quotas.get(name).unwrap_or(0);
                        format!("{name:<17}: {value:>8} {what}")
                    })),
            )),
            [b"quota", domid] => self.usage(domid),
            _ => Err(Errno::INVAL),
        }
    }

    /// What a domain takes of its quotas.
    fn usage(&self, domid: &[u8]) -> Answer {
        let domid = domain_number(domid).filter(|domid| self.is_introduced(*domid));
        let domid = domid.ok_or(Errno::NOENT)?;
        let mine = self.by_domain.get(&domid).into_iter().flatten();
        let (mut watches, mut bytes, mut transactions) = (0, 0, 0);
        for conn in mine {
            watches += self.watches.of(*conn).count;
            bytes += self.watches.of(*conn).bytes;
            let open = self.connections.get(conn).map(|c| &c.transactions);
            for transaction in open.into_iter().flat_map(|open| open.values()) {
                transactions += 1;
                bytes += transaction.bytes();
            }
        }
        let owned = self.tree.owned(domid);
        let headers = owned.nodes * self.settings.daemon.node_header_bytes();
        let rows = [
            ("nodes", owned.nodes),
            ("watches", watches),
            ("transactions", transactions),
            ("memory", owned.bytes + headers + bytes),
        ];
        let rows = rows.map(|(name, value)| format!("{name:<17}: {value:>8}"));
        Ok(nul_terminated(
            format!("Domain {}:\n", domid.0) + &table(rows.into_iter()),
        ))
    }

    /// The books of what domains own against the tree.
    fn check(&self) {
        let mut counted = std::collections::BTreeMap::new();
        for (path, node) in self.tree.subtree("/") {
            let owned: &mut super::super::store::Owned =
                counted.entry(node.grant().owner()).or_default();
            owned.nodes += 1;
            owned.bytes += path.len() + node.content_bytes();
        }
        if self.tree.owners().eq(counted) {
            tracing::info!("check: the books are right");
        } else {
            tracing::error!("check: the books of who owns what are wrong");
        }
    }
}

fn table(rows: impl Iterator<Item = String>) -> String {
    rows.map(|row| row + "\n").collect()
}
