//! The requests about transactions.

use super::super::super::ocaml::refusal::Refusal;
use super::super::super::ocaml::store::is_dom0;
use super::super::super::ocaml::text;
use super::super::super::ocaml::transaction::{Response, Transaction};
use super::super::super::watch::ConnId;
use super::super::{Action, Server, StoreSabotage};
use super::Answer;
use crate::perms::Caller;
use rustix::io::Errno;

impl Server {
    pub(super) fn ocaml_transaction_start(
        &mut self,
        conn: ConnId,
        caller: Caller,
        is_inside: bool,
    ) -> Answer {
        if is_inside {
            return Err(Errno::BUSY.into());
        }
        let most = self.quotas_of(caller.domid).transactions;
        let connection = self.connections.get_mut(&conn).ok_or(Errno::NOENT)?;
        // Of this connection alone.
        if !is_dom0(caller) && connection.ocaml.len() > most {
            return Err(Refusal::Quota);
        }
        let id = loop {
            connection.last_transaction = connection.last_transaction.wrapping_add(1);
            let id = connection.last_transaction;
            if id != 0 && !connection.ocaml.contains_key(&id) {
                break id;
            }
        };
        let transaction = Transaction::new(&self.tree, &self.ocaml.counts, self.ocaml.deaths);
        connection.ocaml.insert(id, transaction);
        Ok(Response::Data(format!("{id}\0").into_bytes()))
    }

    pub(super) fn ocaml_transaction_end(
        &mut self,
        caller: Caller,
        payload: &[u8],
        inside: &mut Option<Transaction>,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let commits = match text::split_all(payload)[..] {
            [b"T", ..] => true,
            [b"F", ..] => false,
            // A wrong word leaves the transaction open.
            _ => return Err(Errno::INVAL.into()),
        };
        let transaction = inside.take().ok_or(Errno::NOENT)?;
        // One that only read has no conflicts.
        if !commits || transaction.trace.deeds.is_empty() {
            return Ok(Response::Done);
        }
        let quotas = self.quotas_of(caller.domid);
        let deaths = self.ocaml.deaths;
        let is_forced = self.settings.sabotage == Some(StoreSabotage::IgnoresConflicts);
        let counts = &mut self.ocaml.counts;
        if is_forced {
            self.tree.become_copy(&transaction.tree);
        } else if !transaction.commit(&mut self.tree, counts, deaths)? {
            let replayed = self.ocaml_replay(caller, &transaction, &quotas);
            let (tree, counts) = replayed.ok_or(Errno::AGAIN)?;
            self.tree.become_copy(&tree);
            self.ocaml.counts = counts;
        }
        self.ocaml.deaths += u64::from(transaction.renewed);
        let Transaction {
            trace,
            before,
            tree,
            ..
        } = &transaction;
        self.ocaml_fire(trace, before, tree, actions);
        Ok(Response::Done)
    }
}
