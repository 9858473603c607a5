//! What each request means (`docs/misc/xenstore.txt` in Xen's source has the argument formats), and
//! the requests about nodes.

use super::super::access::{Access, Edit};
use super::super::watch::ConnId;
use super::arguments::{
    Answer, directory_part, invalid, nul_terminated, number, number_as_domid, ok, one, two,
};
use super::{Action, Server};
use crate::path::{self, Path};
use crate::perms::{Caller, Permission, Perms};
use crate::wire::{Kind, PAYLOAD_MAX_BYTES, Packet, strings};
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
            Kind::GetDomainPath => Ok(nul_terminated(path::home(number_as_domid(one(payload)?)?))),
            Kind::Introduce
            | Kind::Release
            | Kind::Resume
            | Kind::SetTarget
            | Kind::IsDomainIntroduced
            | Kind::Control => {
                if caller.is_privileged() {
                    self.toolstack_request(kind, payload, actions)
                } else {
                    Err(Errno::ACCESS)
                }
            }
            // These go the other way only.
            Kind::WatchEvent | Kind::Error => Err(Errno::NOSYS),
            // Xen 4.22's.
            Kind::GetFeature | Kind::SetFeature | Kind::GetQuota | Kind::SetQuota => {
                Err(Errno::NOSYS)
            }
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
                actions,
            );
        }
        if !caller.is_privileged() {
            return Err(Errno::ACCESS);
        }
        self.special
            .insert(path, Perms::new(entries).ok_or(Errno::INVAL)?);
        ok()
    }
}
