//! The requests about nodes.

use super::super::watch::ConnId;
use super::arguments::{
    Answer, directory_part, invalid, nul_terminated, number, ok, one, permission, terminated, two,
};
use super::{Action, Server};
use crate::path::Path;
use crate::perms::Caller;
use crate::wire::{Kind, PAYLOAD_MAX_BYTES, Packet};
use libgnt::DomId;
use rustix::io::Errno;
use std::sync::Arc;

impl Server {
    pub(super) fn node_request(
        &mut self,
        conn: ConnId,
        caller: Caller,
        kind: Kind,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let payload = &packet.payload[..];
        let tx = packet.tx_id;
        let limit = self.path_limit(caller);
        let node =
            |bytes: &[u8]| Path::parse_node_within(bytes, caller.domid, limit).map_err(invalid);
        match kind {
            Kind::Read => {
                let path = node(one(payload)?)?;
                self.access(conn, caller, tx, actions, |access| {
                    access.read(path.as_str())
                })
            }
            Kind::Directory => {
                let path = node(one(payload)?)?;
                let names = self.names(conn, caller, tx, &path, actions)?.1;
                if names.len() > PAYLOAD_MAX_BYTES {
                    return Err(Errno::TOOBIG);
                }
                Ok(names.to_vec())
            }
            Kind::DirectoryPart => {
                let [path, offset] = two(payload)?;
                // The offset is an unsigned int in C: before the list's start is behind its end.
                let (path, offset) = (node(path)?, number(offset) as u32 as usize);
                let (generation, names) = self.names(conn, caller, tx, &path, actions)?;
                Ok(directory_part(generation, &names, offset))
            }
            Kind::GetPerms => self.get_perms(conn, caller, packet, actions),
            Kind::Write => {
                // The value is the rest, without a terminator; it may hold NULs.
                let nul = payload.iter().position(|b| *b == 0).ok_or(Errno::INVAL)?;
                let (path, value) = (node(&payload[..nul])?, &payload[nul + 1..]);
                self.access(conn, caller, tx, actions, |access| {
                    access.write(path.as_str(), value)
                })?;
                ok()
            }
            Kind::Mkdir => {
                let path = node(one(payload)?)?;
                self.access(conn, caller, tx, actions, |access| {
                    access.mkdir(path.as_str())
                })?;
                ok()
            }
            Kind::Rm => {
                let path = node(one(payload)?)?;
                self.access(conn, caller, tx, actions, |access| access.rm(path.as_str()))?;
                ok()
            }
            _ => self.set_perms(conn, caller, packet, actions),
        }
    }

    /// A node's generation and list of children. The last long list is kept: it is asked for in parts.
    fn names(
        &mut self,
        conn: ConnId,
        caller: Caller,
        tx: u32,
        path: &Path,
        actions: &mut Vec<Action>,
    ) -> Result<(u64, Arc<[u8]>), Errno> {
        let node = self.access(conn, caller, tx, actions, |access| {
            access.readable(path.as_str())
        })?;
        let generation = node.generation();
        if tx == 0
            && let Some((of, when, names)) = &self.listed
            && (of, *when) == (path, generation)
        {
            return Ok((generation, Arc::clone(names)));
        }
        let names: Arc<[u8]> = node.names().into();
        if tx == 0 && names.len() > PAYLOAD_MAX_BYTES {
            self.listed = Some((path.clone(), generation, Arc::clone(&names)));
        }
        Ok((generation, names))
    }

    fn get_perms(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let text = one(&packet.payload)?;
        let limit = self.path_limit(caller);
        let path = match self.settings.daemon.has_special_nodes() {
            true => Path::parse_within(text, caller.domid, limit).map(|(path, _)| path),
            false => Path::parse_node_within(text, caller.domid, limit),
        };
        let path = path.map_err(invalid)?;
        let node = self.access(conn, caller, packet.tx_id, actions, |access| {
            access.readable(path.as_str())
        })?;
        let entries = node.perms().entries().iter();
        Ok(entries
            .flat_map(|entry| nul_terminated(entry.to_string()))
            .collect())
    }

    /// Faults in this order: how many permissions, the permissions, the path, the node (`do_set_perms`).
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
        let quotas = self.quotas_of(caller.domid);
        if !caller.is_privileged() && entries.len() > quotas.permissions {
            return Err(Errno::NOSPC);
        }
        let entries = entries
            .iter()
            .map(|entry| permission(entry))
            .collect::<Result<Vec<_>, Errno>>()?;
        // An owner that no domain can be; others that none can be are kept (`domain_alloc_permrefs`).
        if entries[0].domid >= DomId::FIRST_RESERVED {
            return Err(Errno::NOENT);
        }
        let limit = self.path_limit(caller);
        let (path, _) = Path::parse_within(path, caller.domid, limit).map_err(invalid)?;
        let is_set_apart = path.is_special() && !self.settings.daemon.has_special_nodes();
        if is_set_apart && self.tree.get(path.as_str()).is_none() {
            return Err(Errno::INVAL);
        }
        let tx = if is_set_apart { 0 } else { packet.tx_id };
        let told = actions.len();
        self.access(conn, caller, tx, actions, |access| {
            access.set_perms(path.as_str(), entries)
        })?;
        if is_set_apart {
            // Nobody is told.
            actions.truncate(told);
        }
        ok()
    }
}
