//! The requests that a transaction can have, and their replay.

use super::super::super::ocaml::books::Change;
use super::super::super::ocaml::counts::Counts;
use super::super::super::ocaml::refusal::Refusal;
use super::super::super::ocaml::store::{Trace, Work};
use super::super::super::ocaml::text;
use super::super::super::ocaml::transaction::{Response, Transaction};
use super::super::super::quota::Quotas;
use super::super::super::store::Tree;
use super::super::{Action, Daemon, Server, StoreSabotage};
use super::Answer;
use crate::perms::Caller;
use crate::wire::{Kind, PAYLOAD_MAX_BYTES, Packet};
use rustix::io::Errno;

/// Does one on any tree. `None`: no transaction can have it.
pub(super) fn perform(
    work: &mut Work<'_>,
    daemon: Daemon,
    kind: u32,
    payload: &[u8],
) -> Option<Answer> {
    let kind = Kind::from_number(kind)?;
    let can = matches!(
        kind,
        Kind::Read
            | Kind::Directory
            | Kind::GetPerms
            | Kind::GetDomainPath
            | Kind::Write
            | Kind::Mkdir
            | Kind::Rm
            | Kind::SetPerms
            | Kind::WatchEvent
            | Kind::Error
    );
    can.then(|| request(work, daemon, kind, payload))
}

fn request(work: &mut Work<'_>, daemon: Daemon, kind: Kind, payload: &[u8]) -> Answer {
    let (domid, limit) = (work.caller.domid, work.quotas.path_bytes);
    let path = |bytes: &[u8]| text::path(bytes, domid, limit);
    let done = |()| Response::Done;
    match kind {
        Kind::Read => work.read(&path(text::one(payload)?)?).map(Response::Data),
        Kind::Directory => {
            let names = work.names(&path(text::one(payload)?)?, daemon.lists_by_age())?;
            if names.len() > PAYLOAD_MAX_BYTES {
                return Err(Errno::TOOBIG.into());
            }
            Ok(Response::Data(names))
        }
        Kind::GetPerms => work
            .get_perms(&path(text::one(payload)?)?)
            .map(Response::Data),
        Kind::GetDomainPath => {
            let number = text::unsigned(text::digits(text::one(payload)?));
            Ok(Response::Data(
                format!("/local/domain/{number}\0").into_bytes(),
            ))
        }
        Kind::Write => match text::split(payload, 2)[..] {
            [node, value] => work.write(&path(node)?, value).map(done),
            _ => Err(Errno::INVAL.into()),
        },
        Kind::Mkdir => work.mkdir(&path(text::one(payload)?)?).map(done),
        Kind::Rm => work.rm(&path(text::one(payload)?)?).map(done),
        Kind::SetPerms => match text::split(payload, 2)[..] {
            [node, perms] => work
                .set_perms(&path(node)?, text::permissions(perms)?)
                .map(done),
            _ => Err(Errno::INVAL.into()),
        },
        // These go the other way only.
        _ => Err(Errno::NOSYS.into()),
    }
}

impl Server {
    pub(super) fn ocaml_node_request(
        &mut self,
        caller: Caller,
        packet: &Packet,
        inside: &mut Option<Transaction>,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let (daemon, quotas) = (self.settings.daemon, self.quotas_of(caller.domid));
        let none = Err(Refusal::Errno(Errno::NOSYS));
        if let Some(inside) = inside {
            let Transaction {
                tree,
                counts,
                trace,
                ..
            } = inside;
            let mut work = Work {
                tree,
                counts,
                trace,
                caller,
                quotas: &quotas,
            };
            return perform(&mut work, daemon, packet.kind, &packet.payload).unwrap_or(none);
        }
        let kind = packet.known_kind();
        // Only of these the permissions before are looked at.
        let before = matches!(kind, Some(Kind::Rm | Kind::SetPerms)).then(|| self.tree.clone());
        let mut trace = Trace::default();
        let mut work = Work {
            tree: &mut self.tree,
            counts: &mut self.ocaml.counts,
            trace: &mut trace,
            caller,
            quotas: &quotas,
        };
        let answer = perform(&mut work, daemon, packet.kind, &packet.payload).unwrap_or(none)?;
        let before = before.as_ref().unwrap_or(&self.tree);
        self.ocaml_fire(&trace, before, &self.tree, actions);
        Ok(answer)
    }

    /// Lets watches hear of all that was done.
    pub(super) fn ocaml_fire(
        &self,
        trace: &Trace,
        before: &Tree,
        after: &Tree,
        actions: &mut Vec<Action>,
    ) {
        let to_everybody = self.settings.sabotage == Some(StoreSabotage::TellsEverybody);
        for (deed, path) in &trace.deeds {
            let change = Change {
                deed: *deed,
                path,
                before,
                after,
            };
            let caller_of = |watch: &_| self.ocaml_caller_of(watch);
            for (watch, path) in self.ocaml.fired(change, caller_of, to_everybody) {
                // One that is too long for a message is not sent.
                if path.len() + watch.token.len() + 2 <= PAYLOAD_MAX_BYTES {
                    let packet = Packet::watch_event(path, &watch.token);
                    actions.push(Action::Event(watch.conn, packet));
                }
            }
        }
    }

    /// All that was asked in a transaction, asked again. The tree as it is then, if the answers are the
    /// same.
    pub(super) fn ocaml_replay(
        &self,
        caller: Caller,
        transaction: &Transaction,
        quotas: &Quotas,
    ) -> Option<(Tree, Counts)> {
        let (mut tree, mut trace) = (self.tree.clone(), Trace::default());
        let mut counts = self.ocaml.counts.clone();
        let mut work = Work {
            tree: &mut tree,
            counts: &mut counts,
            trace: &mut trace,
            caller,
            quotas,
        };
        for asked in &transaction.asked {
            let answer = perform(&mut work, self.settings.daemon, asked.kind, &asked.payload)?;
            if answer.unwrap_or_else(Response::Refused) != asked.response {
                return None;
            }
        }
        Some((tree, counts))
    }
}
