//! Requests as oxenstored takes them (`process.ml`).

mod domains;
mod nodes;
mod transactions;
mod watches;

use super::super::ocaml::refusal::Refusal;
use super::super::ocaml::store::is_dom0;
use super::super::ocaml::transaction::{Asked, Response, Transaction};
use super::super::watch::ConnId;
use super::{Action, Server};
use crate::perms::Caller;
use crate::wire::{Kind, Packet};
use rustix::io::Errno;

/// The answer to a request that has one.
type Answer = Result<Response, Refusal>;

impl Server {
    /// Does the answer go before the events? It does, but where these are found out before it.
    pub(in crate::server) fn ocaml_answers_first(kind: Option<Kind>) -> bool {
        let late = [Kind::TransactionEnd, Kind::Introduce, Kind::Release];
        !kind.is_some_and(|kind| late.contains(&kind))
    }

    /// The transaction that the answer names: watches know of none.
    pub(super) fn ocaml_transaction_of(packet: &Packet) -> u32 {
        match packet.known_kind() {
            Some(Kind::Watch | Kind::Unwatch) => 0,
            _ => packet.tx_id,
        }
    }

    pub(super) fn ocaml_request(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        actions: &mut Vec<Action>,
    ) -> Response {
        let tx_id = Server::ocaml_transaction_of(packet);
        let mut inside = match tx_id {
            0 => None,
            _ => {
                let connection = self.connections.get_mut(&conn);
                match connection.and_then(|c| c.ocaml.remove(&tx_id)) {
                    Some(transaction) => Some(transaction),
                    None => return Response::Refused(Errno::IO.into()),
                }
            }
        };
        let most = self.quotas_of(caller.domid).transaction_nodes;
        // Who has asked enough in one cannot even end it.
        let has_enough = |inside: &Transaction| !is_dom0(caller) && inside.asked.len() >= most;
        if inside.as_ref().is_some_and(has_enough) {
            let connection = self.connections.get_mut(&conn);
            connection.and_then(|c| c.ocaml.insert(tx_id, inside?));
            return Response::Refused(Refusal::Quota);
        }
        let answer = self.ocaml_execute(conn, caller, packet, &mut inside, actions);
        let response = answer.unwrap_or_else(Response::Refused);
        if let Some(mut transaction) = inside {
            transaction.asked.push(Asked {
                kind: packet.kind,
                payload: packet.payload.clone(),
                response: response.clone(),
            });
            // Unless it has been forgotten meanwhile.
            if packet.known_kind() != Some(Kind::ResetWatches)
                && let Some(connection) = self.connections.get_mut(&conn)
            {
                connection.ocaml.insert(tx_id, transaction);
            }
        }
        response
    }

    /// A transaction that is ended is taken out of `inside`.
    fn ocaml_execute(
        &mut self,
        conn: ConnId,
        caller: Caller,
        packet: &Packet,
        inside: &mut Option<Transaction>,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let payload = &packet.payload[..];
        match packet.known_kind() {
            Some(kind) if kind <= Kind::ResetWatches => match kind {
                Kind::Control => Ok(self.ocaml_control(caller, payload, inside.as_ref())),
                Kind::Watch => self.ocaml_watch(conn, caller, payload, actions),
                Kind::Unwatch => self.ocaml_unwatch(conn, caller, payload),
                Kind::ResetWatches => {
                    self.ocaml.watches.forget(conn);
                    self.forget_transactions(conn);
                    Ok(Response::Done)
                }
                Kind::TransactionStart => {
                    self.ocaml_transaction_start(conn, caller, inside.is_some())
                }
                Kind::TransactionEnd => {
                    self.ocaml_transaction_end(caller, payload, inside, actions)
                }
                Kind::Introduce
                | Kind::Release
                | Kind::Resume
                | Kind::IsDomainIntroduced
                | Kind::SetTarget => {
                    self.ocaml_toolstack_request(caller, kind, payload, inside, actions)
                }
                _ => self.ocaml_node_request(caller, packet, inside, actions),
            },
            _ => Err(Errno::NOSYS.into()),
        }
    }
}
