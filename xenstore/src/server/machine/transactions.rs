//! The requests about transactions.

use super::super::transaction::Transaction;
use super::super::watch::ConnId;
use super::arguments::{Answer, nul_terminated, ok, one};
use super::{Action, Server, StoreSabotage};
use crate::perms::Caller;
use crate::wire::Packet;
use rustix::io::Errno;

impl Server {
    pub(super) fn transaction_start(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
    ) -> Answer {
        if packet.tx_id != 0 {
            // No transaction inside a transaction.
            return Err(Errno::BUSY);
        }
        if !caller.is_privileged() {
            let mine = self.by_domain.get(&caller.domid).into_iter().flatten();
            let mine = mine.filter_map(|conn| self.connections.get(conn));
            let open: usize = mine.map(|c| c.transactions.len()).sum();
            if open > self.quotas_of(caller.domid).transactions {
                return Err(Errno::NOSPC);
            }
        }
        let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
        let id = loop {
            connection.last_transaction = connection.last_transaction.wrapping_add(1);
            let id = connection.last_transaction;
            if id != 0 && !connection.transactions.contains_key(&id) {
                break id;
            }
        };
        connection.transactions.insert(id, Transaction::default());
        self.open_transactions += 1;
        Ok(nul_terminated(id.to_string()))
    }

    pub(super) fn transaction_end(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let commit = match one(&packet.payload)? {
            b"T" => true,
            b"F" => false,
            // A wrong word leaves the transaction open.
            _ => return Err(Errno::INVAL),
        };
        let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
        let transaction = connection.transactions.remove(&packet.tx_id);
        let mut transaction = transaction.ok_or(Errno::NOENT)?;
        self.open_transactions -= 1;
        if commit {
            if self.settings.sabotage == Some(StoreSabotage::IgnoresConflicts) {
                transaction.forget_what_it_saw(&self.tree);
            }
            let quotas = self.quotas_of(caller.domid);
            let is_checked = match self.settings.daemon.checks_nodes_at_every_end() {
                true => true,
                false => !caller.is_privileged() && transaction.has_made(),
            };
            let most_nodes = is_checked.then_some(quotas.nodes);
            let changes = transaction.commit(&mut self.tree, most_nodes)?;
            self.fire(&changes, actions);
        }
        ok()
    }

    pub(super) fn forget_transactions(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            self.open_transactions -= connection.transactions.len();
            connection.transactions.clear();
            connection.ocaml.clear();
        }
    }
}
