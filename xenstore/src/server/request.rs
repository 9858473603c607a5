//! What each request means (`docs/misc/xenstore.txt` in Xen's source has the argument formats).

use super::{ConnId, Output, Sabotage, Server, invalid, nul_terminated};
use crate::access::{Access, Edit};
use crate::path::{self, Path};
use crate::perms::{Caller, Permission, Perms};
use crate::transaction::Transaction;
use crate::wire::{ABSOLUTE_PATH_MAX_BYTES, Kind, PAYLOAD_MAX_BYTES, Packet, strings};
use libgnt::DomId;
use rustix::io::Errno;

/// Room for the longest path and two NULs beside it.
const TOKEN_MAX_BYTES: usize = PAYLOAD_MAX_BYTES - ABSOLUTE_PATH_MAX_BYTES - 2;

type Answer = Result<Vec<u8>, Errno>;

impl Server {
    pub(super) fn execute(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        events: &mut Vec<Output>,
    ) -> Answer {
        if packet.payload.len() > PAYLOAD_MAX_BYTES {
            return Err(Errno::TOOBIG);
        }
        let kind = packet.known_kind().ok_or(Errno::NOSYS)?;
        let payload = &packet.payload[..];
        let node = |bytes: &[u8]| Path::parse_node(bytes, caller.domid).map_err(invalid);
        match kind {
            Kind::Read => {
                let path = node(one(payload)?)?;
                self.read(conn, caller, packet.tx_id, |access| access.read(&path))
            }
            Kind::Directory => {
                let path = node(one(payload)?)?;
                let (_, names) =
                    self.read(conn, caller, packet.tx_id, |access| access.directory(&path))?;
                if names.len() > PAYLOAD_MAX_BYTES {
                    Err(Errno::TOOBIG)
                } else {
                    Ok(names)
                }
            }
            Kind::DirectoryPart => {
                let [path, offset] = two(payload)?;
                let (path, offset) = (node(path)?, number::<usize>(offset)?);
                let (generation, names) =
                    self.read(conn, caller, packet.tx_id, |access| access.directory(&path))?;
                Ok(directory_part(generation, &names, offset))
            }
            Kind::GetPerms => {
                let (path, _) = Path::parse(one(payload)?, caller.domid).map_err(invalid)?;
                let perms = if path.is_special() {
                    self.special
                        .get(&path)
                        .cloned()
                        .unwrap_or_else(Perms::private)
                } else {
                    self.read(conn, caller, packet.tx_id, |access| access.get_perms(&path))?
                };
                Ok(perms
                    .entries()
                    .iter()
                    .flat_map(|p| nul_terminated(p.to_string()))
                    .collect())
            }
            Kind::Write => {
                // The value is the rest, without a terminator; it may hold NULs.
                let nul = payload.iter().position(|b| *b == 0).ok_or(Errno::INVAL)?;
                let edit = Edit::Write(node(&payload[..nul])?, payload[nul + 1..].to_vec());
                self.edit(conn, caller, packet.tx_id, edit, events)
            }
            Kind::Mkdir => {
                let edit = Edit::Mkdir(node(one(payload)?)?);
                self.edit(conn, caller, packet.tx_id, edit, events)
            }
            Kind::Rm => {
                let edit = Edit::Rm(node(one(payload)?)?);
                self.edit(conn, caller, packet.tx_id, edit, events)
            }
            Kind::SetPerms => self.set_perms(conn, caller, packet, events),
            Kind::Watch => self.watch(conn, caller, payload, events),
            Kind::Unwatch => self.unwatch(conn, caller, payload),
            Kind::ResetWatches => {
                self.watches.forget(conn);
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.transactions.clear();
                }
                ok()
            }
            Kind::TransactionStart => self.transaction_start(conn, caller, packet),
            Kind::TransactionEnd => self.transaction_end(conn, caller, packet, events),
            Kind::GetDomainPath => Ok(nul_terminated(path::home(number_as_domid(one(payload)?)?))),
            Kind::Introduce
            | Kind::Release
            | Kind::Resume
            | Kind::SetTarget
            | Kind::IsDomainIntroduced
            | Kind::Control => {
                if caller.is_privileged() {
                    self.toolstack_request(kind, payload, events)
                } else {
                    Err(Errno::ACCESS)
                }
            }
            // These go the other way only.
            Kind::WatchEvent | Kind::Error => Err(Errno::NOSYS),
        }
    }

    fn read<T>(
        &mut self,
        conn: ConnId,
        caller: Caller,
        tx_id: u32,
        read: impl FnOnce(&mut Access<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if tx_id == 0 {
            return read(&mut Access {
                tree: &mut self.tree,
                caller,
                quotas: &self.quotas,
                changes: &mut Vec::new(),
                touched: None,
            });
        }
        let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
        let transaction = connection
            .transactions
            .get_mut(&tx_id)
            .ok_or(Errno::NOENT)?;
        transaction.read(&self.tree, caller, &self.quotas, read)
    }

    fn edit(
        &mut self,
        conn: ConnId,
        caller: Caller,
        tx_id: u32,
        edit: Edit,
        events: &mut Vec<Output>,
    ) -> Answer {
        if tx_id != 0 {
            let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
            let transaction = connection
                .transactions
                .get_mut(&tx_id)
                .ok_or(Errno::NOENT)?;
            transaction.edit(&self.tree, caller, &self.quotas, edit)?;
            return ok();
        }
        let mut changes = Vec::new();
        Access {
            tree: &mut self.tree,
            caller,
            quotas: &self.quotas,
            changes: &mut changes,
            touched: None,
        }
        .edit(&edit)?;
        events.extend(self.fire(&changes));
        ok()
    }

    fn set_perms(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        events: &mut Vec<Output>,
    ) -> Answer {
        let args = strings(&packet.payload).ok_or(Errno::INVAL)?;
        let (path, entries) = args.split_first().ok_or(Errno::INVAL)?;
        let (path, _) = Path::parse(path, caller.domid).map_err(invalid)?;
        let entries: Vec<Permission> = entries
            .iter()
            .map(|e| {
                std::str::from_utf8(e)
                    .map_err(invalid)?
                    .parse()
                    .map_err(invalid)
            })
            .collect::<Result<_, Errno>>()?;
        if !path.is_special() {
            return self.edit(
                conn,
                caller,
                packet.tx_id,
                Edit::SetPerms(path, entries),
                events,
            );
        }
        if !caller.is_privileged() {
            return Err(Errno::ACCESS);
        }
        self.special
            .insert(path, Perms::new(entries).ok_or(Errno::INVAL)?);
        ok()
    }

    fn watch(
        &mut self,
        conn: ConnId,
        caller: Caller,
        payload: &[u8],
        events: &mut Vec<Output>,
    ) -> Answer {
        let [text, token] = two(payload)?;
        let (path, relative) = Path::parse(text, caller.domid).map_err(invalid)?;
        // An event must fit in a message, whatever path below the watched one it is about.
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Errno::TOOBIG);
        }
        let of_domain = |id| {
            self.connections
                .get(&id)
                .is_some_and(|c| c.domid == caller.domid)
        };
        if !caller.is_privileged() && self.watches.count(of_domain) > self.quotas.watches {
            return Err(Errno::TOOBIG);
        }
        if !self.is_device(conn) && self.watches.has(conn, &path, token) {
            return Err(Errno::EXIST);
        }
        self.watches.add(conn, path, token, relative);
        // The first event says only that the watch stands; it comes whether or not the node is there.
        events.push(Output::Event(conn, Packet::watch_event(text, token)));
        ok()
    }

    fn unwatch(&mut self, conn: ConnId, caller: Caller, payload: &[u8]) -> Answer {
        let [text, token] = two(payload)?;
        let removed = match Path::parse(text, caller.domid) {
            // The device compares the path with those that its file gave it, and knows no error.
            Ok((path, relative)) if self.is_device(conn) => {
                self.watches.remove(conn, &path, token, Some(relative));
                true
            }
            Err(_) if self.is_device(conn) => true,
            Ok((path, _)) => self.watches.remove(conn, &path, token, None),
            Err(error) => return Err(invalid(error)),
        };
        if removed { ok() } else { Err(Errno::NOENT) }
    }

    fn is_device(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|c| c.device)
    }

    fn transaction_start(&mut self, conn: ConnId, caller: Caller, packet: &Packet) -> Answer {
        if packet.tx_id != 0 {
            // No transaction inside a transaction.
            return Err(Errno::BUSY);
        }
        let mine = self
            .connections
            .values()
            .filter(|c| c.domid == caller.domid);
        let open: usize = mine.map(|c| c.transactions.len()).sum();
        if !caller.is_privileged() && open > self.quotas.transactions {
            return Err(Errno::NOSPC);
        }
        let transaction = Transaction::begin(&self.tree);
        let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
        let id = loop {
            connection.last_transaction = connection.last_transaction.wrapping_add(1);
            let id = connection.last_transaction;
            if id != 0 && !connection.transactions.contains_key(&id) {
                break id;
            }
        };
        connection.transactions.insert(id, transaction);
        Ok(nul_terminated(id.to_string()))
    }

    fn transaction_end(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        events: &mut Vec<Output>,
    ) -> Answer {
        let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
        // A wrong word leaves the transaction open.
        if packet.tx_id != 0 && !connection.transactions.contains_key(&packet.tx_id) {
            return Err(Errno::NOENT);
        }
        let commit = match one(&packet.payload)? {
            b"T" => true,
            b"F" => false,
            _ => return Err(Errno::INVAL),
        };
        let mut transaction = connection
            .transactions
            .remove(&packet.tx_id)
            .ok_or(Errno::NOENT)?;
        if commit {
            if self.sabotage == Some(Sabotage::IgnoresConflicts) {
                transaction.forget_what_it_saw();
            }
            let changes = transaction.commit(&mut self.tree, caller, &self.quotas)?;
            events.extend(self.fire(&changes));
        }
        ok()
    }

    /// Requests that only dom0 may make.
    fn toolstack_request(
        &mut self,
        kind: Kind,
        payload: &[u8],
        events: &mut Vec<Output>,
    ) -> Answer {
        let args = strings(payload).ok_or(Errno::INVAL)?;
        let first = args.first().copied().ok_or(Errno::INVAL)?;
        match kind {
            Kind::Introduce => {
                // Domain, frame and port; there is no ring to map here, so only the first counts.
                let [domid, _, _] = args[..] else {
                    return Err(Errno::INVAL);
                };
                let (_, fired) = self.introduce(number_as_domid(domid)?);
                events.extend(fired);
                ok()
            }
            Kind::Release => {
                let domid = number_as_domid(first)?;
                if domid == DomId::DOM0 {
                    return Err(Errno::INVAL);
                }
                if !self.introduced.contains(&domid) {
                    return Err(Errno::NOENT);
                }
                events.extend(self.release(domid));
                ok()
            }
            Kind::Resume => {
                let known = self.introduced.contains(&number_as_domid(first)?);
                if known { ok() } else { Err(Errno::NOENT) }
            }
            Kind::IsDomainIntroduced => {
                let known = self.introduced.contains(&number_as_domid(one(payload)?)?);
                Ok(nul_terminated(if known { "T" } else { "F" }))
            }
            Kind::SetTarget => {
                let [domid, target] = args[..] else {
                    return Err(Errno::INVAL);
                };
                let (domid, target) = (number_as_domid(domid)?, number_as_domid(target)?);
                if !self.introduced.contains(&domid) || !self.introduced.contains(&target) {
                    return Err(Errno::NOENT);
                }
                self.targets.insert(domid, target);
                ok()
            }
            Kind::Control => self.control(first, &args[1..]),
            _ => Err(Errno::NOSYS),
        }
    }

    fn control(&self, command: &[u8], args: &[&[u8]]) -> Answer {
        match command {
            b"help" => Ok(nul_terminated("help\nprint TEXT\nquota")),
            b"print" => {
                let text = args.first().ok_or(Errno::INVAL)?;
                tracing::info!(text = %text.escape_ascii(), "print");
                ok()
            }
            b"quota" => {
                let q = &self.quotas;
                Ok(nul_terminated(format!(
                    "nodes: {}\nwatches: {}\ntransactions: {}\nsize: {}\npermissions: {}\ntransaction-nodes: {}",
                    q.nodes,
                    q.watches,
                    q.transactions,
                    q.node_bytes,
                    q.permissions,
                    q.transaction_nodes
                )))
            }
            _ => Err(Errno::INVAL),
        }
    }
}

fn ok() -> Answer {
    Ok(b"OK\0".to_vec())
}

fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::INVAL),
    }
}

fn two(payload: &[u8]) -> Result<[&[u8]; 2], Errno> {
    let args = strings(payload).ok_or(Errno::INVAL)?;
    args.try_into().map_err(invalid)
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, Errno> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(Errno::INVAL);
    }
    std::str::from_utf8(bytes)
        .map_err(invalid)?
        .parse()
        .map_err(invalid)
}

fn number_as_domid(bytes: &[u8]) -> Result<DomId, Errno> {
    let domid = DomId(number(bytes)?);
    if domid < DomId::FIRST_RESERVED {
        Ok(domid)
    } else {
        Err(Errno::INVAL)
    }
}

/// As many whole names from `offset` as fit, after the generation; the last part ends with an
/// empty name. A client that sees the generation change between parts starts again.
fn directory_part(generation: u64, names: &[u8], offset: usize) -> Vec<u8> {
    let mut part = nul_terminated(generation.to_string());
    let rest = names.get(offset..).unwrap_or(b"");
    let room = PAYLOAD_MAX_BYTES - part.len() - 1;
    let taken = if rest.len() <= room {
        rest.len()
    } else {
        rest[..room]
            .iter()
            .rposition(|b| *b == 0)
            .map_or(0, |nul| nul + 1)
    };
    part.extend_from_slice(&rest[..taken]);
    if taken == rest.len() {
        part.push(0);
    }
    part
}
