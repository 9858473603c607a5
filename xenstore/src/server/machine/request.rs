//! What each request means (`docs/misc/xenstore.txt` in Xen's source has the argument formats), and
//! the requests about nodes.

use super::super::access::{Access, Edit};
use super::super::watch::ConnId;
use super::arguments::{
    Answer, directory_part, invalid, nul_terminated, number, ok, one, permissions, terminated, two,
};
use super::{Action, Server};
use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::{Caller, Perms};
use crate::wire::{Kind, PAYLOAD_MAX_BYTES, Packet};
use rustix::io::Errno;

impl Server {
    pub(super) fn execute(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Answer {
        if packet.payload.len() > PAYLOAD_MAX_BYTES {
            return Err(Errno::TOOBIG);
        }
        let kind = packet.known_kind().ok_or(Errno::NOSYS)?;
        self.check_header(conn, caller, kind, packet.tx_id)?;
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
                // The offset is an unsigned int in C: before the list's start is behind its end.
                let (path, offset) = (node(path)?, number(offset) as u32 as usize);
                let (generation, names) =
                    self.read(conn, caller, packet.tx_id, |access| access.directory(&path))?;
                Ok(directory_part(generation, &names, offset))
            }
            Kind::GetPerms => {
                // Those of special watches can be set, and not be asked for.
                let path = node(one(payload)?)?;
                let perms =
                    self.read(conn, caller, packet.tx_id, |access| access.get_perms(&path))?;
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
                self.edit(conn, caller, packet.tx_id, edit, actions)
            }
            Kind::Mkdir => {
                let edit = Edit::Mkdir(node(one(payload)?)?);
                self.edit(conn, caller, packet.tx_id, edit, actions)
            }
            Kind::Rm => {
                let edit = Edit::Rm(node(one(payload)?)?);
                self.edit(conn, caller, packet.tx_id, edit, actions)
            }
            Kind::SetPerms => self.set_perms(conn, caller, packet, actions),
            Kind::Watch => self.watch(conn, caller, payload, actions),
            Kind::Unwatch => self.unwatch(conn, caller, payload),
            Kind::ResetWatches => {
                self.watches.forget(conn);
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.transactions.clear();
                }
                ok()
            }
            Kind::TransactionStart => self.transaction_start(conn, caller, packet),
            Kind::TransactionEnd => self.transaction_end(conn, caller, packet, actions),
            Kind::GetDomainPath => {
                // Whatever number it is.
                let number = number(one(payload)?) as u32;
                Ok(nul_terminated(format!("/local/domain/{number}")))
            },
            Kind::Introduce
            | Kind::Release
            | Kind::Resume
            | Kind::SetTarget
            | Kind::IsDomainIntroduced
            | Kind::Control => self.toolstack_request(kind, payload, actions),
            // These go the other way only.
            Kind::WatchEvent | Kind::Error => Err(Errno::NOSYS),
        }
    }

    /// What is looked at before the arguments (`process_message`, `tools/xenstore/xenstored_core.c`):
    /// who may ask this, and whether the transaction is one of the caller's. Watches have none, so there
    /// any number will do.
    fn check_header(&self, conn: ConnId, caller: Caller, kind: Kind, tx: u32) -> Result<(), Errno> {
        if kind.is_toolstacks() && !caller.is_privileged() {
            return Err(Errno::ACCESS);
        }
        let any = tx == 0 || matches!(kind, Kind::Watch | Kind::Unwatch);
        let mine = self.connections.get(&conn);
        if any || mine.is_some_and(|mine| mine.transactions.contains_key(&tx)) {
            Ok(())
        } else if matches!(kind, Kind::WatchEvent | Kind::Error) {
            Err(Errno::NOSYS)
        } else {
            Err(Errno::NOENT)
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
        actions: &mut Vec<Action>,
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
        self.fire(&changes, actions);
        ok()
    }

    fn set_perms(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let args = terminated(&packet.payload);
        let (path, entries) = args.split_first().ok_or(Errno::INVAL)?;
        if entries.is_empty() {
            return Err(Errno::INVAL);
        }
        if !caller.is_privileged() && entries.len() > self.quotas.permissions {
            return Err(Errno::NOSPC);
        }
        let entries = permissions(entries)?;
        // In this order: a wrong permission is told before a wrong path or a missing node.
        let (path, _) = Path::parse(path, caller.domid).map_err(invalid)?;
        if !path.is_special() {
            return self.edit(
                conn,
                caller,
                packet.tx_id,
                Edit::SetPerms(path, entries),
                actions,
            );
        }
        if ![INTRODUCE_DOMAIN, RELEASE_DOMAIN].contains(&path.as_str()) {
            return Err(Errno::INVAL);
        }
        let old = self.special.get(&path);
        if !old.unwrap_or(&Perms::private()).owned(caller) {
            return Err(Errno::ACCESS);
        }
        self.special
            .insert(path, Perms::new(entries).ok_or(Errno::INVAL)?);
        ok()
    }
}
