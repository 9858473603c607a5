//! `control`: the commands of xenstored that people use (`tools/xenstored/control.c`). Those that
//! write files are refused, and so is a live update.

use super::super::daemon::Daemon;
use super::super::quota::QuotaSetting;
use super::Server;
use super::arguments::{Answer, domain_number, nul_terminated, number, ok, terminated};
use super::books::Usage;
use super::switches::SWITCHES;
use rustix::io::Errno;

/// xenstored's answer to a live update that it cannot make is a text, too.
const NO_LIVE_UPDATE: &str = "this server is not updated live; start it again with its state";

/// A quota as a daemon lists it: its name there, ours, and what is said about it.
type Row = (&'static str, &'static str, &'static str);

fn rows(daemon: Daemon) -> Vec<Row> {
    let nodes = ("nodes", "nodes", "Nodes per domain");
    let watches = ("watches", "watches", "Watches per domain");
    let outstanding = (
        "outstanding",
        "outstanding",
        "Outstanding requests per domain",
    );
    let memory = (
        "memory",
        "memory",
        "Total Xenstore memory per domain (error level)",
    );
    let looked_at = (
        "transaction-nodes",
        "transaction-nodes",
        "Max. number of accessed nodes per transaction",
    );
    let size = ("node-size", "node-size", "Max. size of a node");
    let path = ("path-max", "path-max", "Max. length of a node path");
    let permissions = |name| {
        (
            name,
            "node-permissions",
            "Max. number of permissions per node",
        )
    };
    let transactions = |what| ("transactions", "transactions", what);
    if daemon.has_highest_values() {
        let transactions = transactions("Active transactions per domain");
        let permissions = permissions("node-permissions");
        return vec![
            nodes,
            watches,
            outstanding,
            memory,
            transactions,
            looked_at,
            permissions,
            path,
            size,
        ];
    }
    let mut all = vec![
        nodes,
        watches,
        transactions("Transactions per domain"),
        outstanding,
        looked_at,
        memory,
        size,
    ];
    // Before it was one, it was a constant.
    all.extend(Some(path).filter(|_| !daemon.limits_whole_paths()));
    all.push(permissions("permissions"));
    all
}

impl Server {
    pub(super) fn control(&mut self, payload: &[u8]) -> Answer {
        let args = terminated(payload);
        let daemon = self.settings.daemon;
        match &args[..] {
            [b"help"] => Ok(nul_terminated(help(daemon))),
            [b"check"] => {
                self.check();
                ok()
            }
            [b"print", text] => {
                tracing::info!(text = %text.escape_ascii(), "print");
                ok()
            }
            [b"log", args @ ..] => self.log(args),
            [b"live-update", args @ ..] if daemon.has_live_update() => match args {
                [b"-a"] | [b"-c" | b"-f", _] => Ok(nul_terminated(NO_LIVE_UPDATE)),
                [b"-s", options @ ..] if are_of_a_start(options) => {
                    Ok(nul_terminated(NO_LIVE_UPDATE))
                }
                _ => Err(Errno::INVAL),
            },
            [b"quota", args @ ..] => self.quota(args),
            [b"quota-soft", args @ ..] => self.soft_quota(args),
            _ => Err(Errno::INVAL),
        }
    }

    fn log(&mut self, args: &[&[u8]]) -> Answer {
        let has_switches = self.settings.daemon.has_log_switches();
        match args {
            [] if has_switches => {
                let all = SWITCHES.iter().zip(self.switches.0);
                let lines = all.map(|((name, _), on)| {
                    let on = if on { "on" } else { "off" };
                    format!("{name:<8}: {on}")
                });
                Ok(nul_terminated(
                    "Log switch settings:\n".to_owned() + &table(lines),
                ))
            }
            [b"on" | b"off"] => ok(),
            [[sign @ (b'+' | b'-'), name @ ..]] if has_switches => {
                let mut all = SWITCHES.iter();
                let at = all.position(|(switch, _)| switch.as_bytes() == name);
                self.switches.0[at.ok_or(Errno::INVAL)?] = *sign == b'+';
                ok()
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn quota(&mut self, args: &[&[u8]]) -> Answer {
        let daemon = self.settings.daemon;
        match args {
            [] => {
                let lines = rows(daemon).into_iter().map(|(name, ours, what)| {
                    let value = self.settings.quotas.get(ours).unwrap_or(0);
                    format!("{name:<17}: {value:>8} {what}")
                });
                Ok(nul_terminated(
                    "Quota settings:\n".to_owned() + &table(lines),
                ))
            }
            [b"set", name, value] => {
                let all = rows(daemon);
                let mut all = all.iter();
                let row = all.find(|(known, ..)| known.as_bytes() == *name);
                let (_, name, _) = row.ok_or(Errno::INVAL)?;
                let setting = QuotaSetting::new(name, at_least_one(value)?);
                self.settings.quotas.set(&setting.ok_or(Errno::INVAL)?);
                ok()
            }
            [b"max"] if daemon.has_highest_values() => Ok(self.highest_of_all()),
            [b"max", b"-r"] if daemon.has_highest_values() => {
                self.forget_highest();
                Ok(self.highest_of_all())
            }
            [b"max"] if !daemon.has_highest_values() => self.usage_of(b"0"),
            [b"set" | b"max", ..] => Err(Errno::INVAL),
            [domid] => self.usage_of(domid),
            _ => Err(Errno::INVAL),
        }
    }

    fn soft_quota(&mut self, args: &[&[u8]]) -> Answer {
        match args {
            [] => {
                let (name, what) = ("memory", "Total Xenstore memory per domain (warning level)");
                let value = self.highest.soft_memory;
                let line = format!("Quota settings:\n{name:<17}: {value:>8} {what}\n");
                Ok(nul_terminated(line))
            }
            [b"set", b"memory", value] => {
                self.highest.soft_memory = at_least_one(value)?;
                ok()
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// What a domain takes of its quotas.
    fn usage_of(&mut self, domid: &[u8]) -> Answer {
        let domid = domain_number(domid).filter(|domid| self.is_introduced(*domid));
        let domid = domid.ok_or(Errno::NOENT)?;
        let (usage, highest) = self.note_usage(domid);
        let lines: Vec<String> = if self.settings.daemon.has_highest_values() {
            let all = rows(self.settings.daemon).into_iter();
            all.map(|(name, ..)| {
                let (now, most) = (usage.of(name), highest.of(name));
                format!("{name:<17}: {now:>8} (max {most:>8})")
            })
            .collect()
        } else {
            let names = ["nodes", "watches", "transactions", "outstanding", "memory"];
            let line = |name| format!("{name:<16}: {:>8}", usage.of(name));
            names.map(line).into()
        };
        Ok(nul_terminated(
            format!("Domain {}:\n", domid.0) + &table(lines.into_iter()),
        ))
    }

    fn highest_of_all(&self) -> Vec<u8> {
        let all = rows(self.settings.daemon).into_iter();
        let lines =
            all.map(|(name, ..)| format!("{name:<17}: {:>8}", self.highest.of_all.of(name)));
        nul_terminated("Max. seen accounting values:\n".to_owned() + &table(lines))
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

impl Usage {
    /// By xenstored's name. What is not counted is 0.
    fn of(&self, name: &str) -> usize {
        match name {
            "nodes" => self.nodes,
            "watches" => self.watches,
            "transactions" => self.transactions,
            "memory" => self.memory,
            _ => 0,
        }
    }
}

/// By force, or after so many seconds.
fn are_of_a_start(mut options: &[&[u8]]) -> bool {
    while let [b"-F", rest @ ..] | [b"-t", _, rest @ ..] = options {
        options = rest;
    }
    options.is_empty()
}

fn at_least_one(value: &[u8]) -> Result<usize, Errno> {
    let value = usize::try_from(number(value)).map_err(|_| Errno::INVAL)?;
    if value > 0 {
        Ok(value)
    } else {
        Err(Errno::INVAL)
    }
}

fn help(daemon: Daemon) -> String {
    let log = match daemon.has_log_switches() {
        true => "[on|off|+<switch>|-<switch>]",
        false => "on|off",
    };
    let quota = match daemon.has_highest_values() {
        true => "[set <name> <val>|<domid>|max [-r]]",
        false => "[set <name> <val>|<domid>]",
    };
    let all = [
        ("check", ""),
        ("log", log),
        ("print", "<string>"),
        ("quota", quota),
        ("quota-soft", "[set <name> <val>]"),
        ("help", ""),
    ];
    let lines = all
        .iter()
        .map(|(name, parameters)| match daemon.has_highest_values() {
            true => format!("{name:<15} {parameters}"),
            false => format!("{name}\t{parameters}"),
        });
    table(lines)
}

fn table(rows: impl Iterator<Item = String>) -> String {
    rows.map(|row| row + "\n").collect()
}
