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

    pub(super) fn transaction_end(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
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
            if self.sabotage == Some(StoreSabotage::IgnoresConflicts) {
                transaction.forget_what_it_saw();
            }
            let changes = transaction.commit(&mut self.tree, caller, &self.quotas)?;
            self.fire(&changes, actions);
        }
        ok()
    }
}
