//! What each request means (`docs/misc/xenstore.txt` in Xen's source has the argument formats), and
//! in which order its faults are told (`process_message`, `tools/xenstored/core.c`).

use super::super::watch::ConnId;
use super::arguments::{Answer, nul_terminated, number, ok, one};
use super::{Action, Server};
use crate::path::home;
use crate::perms::Caller;
use crate::wire::{Kind, Packet};
use libgnt::DomId;
use rustix::io::Errno;

impl Server {
    pub(super) fn execute(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Answer {
        if self.is_later(packet.kind) {
            return self.later_request(caller, packet);
        }
        let kind = packet.known_kind().ok_or(Errno::NOSYS)?;
        if kind > Kind::DirectoryPart {
            // For newer daemons.
            return Err(Errno::NOSYS);
        }
        let is_toolstacks = matches!(
            kind,
            Kind::Introduce
                | Kind::Release
                | Kind::Resume
                | Kind::SetTarget
                | Kind::IsDomainIntroduced
                | Kind::Control
        );
        // These go the other way only.
        if matches!(kind, Kind::WatchEvent | Kind::Error) {
            return Err(Errno::NOSYS);
        }
        if is_toolstacks && !caller.is_privileged() {
            return Err(Errno::ACCESS);
        }
        let is_in_none = packet.tx_id == 0 || matches!(kind, Kind::Watch | Kind::Unwatch);
        let has = |c: &super::Connection| c.transactions.contains_key(&packet.tx_id);
        if !is_in_none && !self.connections.get(&conn).is_some_and(has) {
            return Err(Errno::NOENT);
        }
        let payload = &packet.payload[..];
        match kind {
            Kind::Read
            | Kind::Directory
            | Kind::DirectoryPart
            | Kind::GetPerms
            | Kind::Write
            | Kind::Mkdir
            | Kind::Rm
            | Kind::SetPerms => self.node_request(conn, caller, kind, packet, actions),
            Kind::Watch => self.watch(conn, caller, payload, actions),
            Kind::Unwatch => self.unwatch(conn, caller, payload),
            Kind::ResetWatches => {
                self.watches.forget(conn);
                self.forget_transactions(conn);
                ok()
            }
            Kind::TransactionStart => self.transaction_start(conn, caller, packet),
            Kind::TransactionEnd => self.transaction_end(conn, caller, packet, actions),
            Kind::GetDomainPath => {
                // Whatever number it is.
                let number = number(one(payload)?) as u32;
                let path = u16::try_from(number).map(|domid| home(DomId(domid)));
                Ok(nul_terminated(
                    path.unwrap_or_else(|_| format!("/local/domain/{number}")),
                ))
            }
            _ => self.toolstack_request(kind, payload, actions),
        }
    }
}
