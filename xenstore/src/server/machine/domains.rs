//! Domains that come and go, and the requests that only dom0 may make.

use super::super::access::Access;
use super::super::watch::ConnId;
use super::arguments::{Answer, nul_terminated, number_as_domid, ok, one};
use super::{Action, Server};
use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::Caller;
use crate::wire::{Kind, strings};
use libgnt::DomId;
use rustix::io::Errno;

impl Server {
    /// A domain exists from now on.
    pub(super) fn introduce(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if self.introduced.insert(domid) {
            self.fire_special(INTRODUCE_DOMAIN, actions);
        }
    }

    /// A domain is gone: its connections are closed, the nodes it owned removed, and
    /// `@releaseDomain` fires, after the removals.
    pub(super) fn release(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if domid == DomId::DOM0 || !self.introduced.remove(&domid) {
            return;
        }
        let closed: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.domid == domid)
            .map(|(id, _)| *id)
            .collect();
        for conn in &closed {
            self.forget(*conn);
        }
        self.targets
            .retain(|stub, target| *stub != domid && *target != domid);
        let mut changes = Vec::new();
        let owned = self.tree.subtree(&Path::root());
        for (path, _) in owned.iter().filter(|(_, perms)| perms.owner() == domid) {
            let mut access = Access {
                tree: &mut self.tree,
                caller: Caller::of(DomId::DOM0),
                quotas: &self.quotas,
                changes: &mut changes,
                touched: None,
            };
            // Below a node that has just gone there is nothing left to remove.
            access.remove(path);
        }
        actions.extend(closed.into_iter().map(Action::Close));
        self.fire(&changes, actions);
        self.fire_special(RELEASE_DOMAIN, actions);
    }

    /// Requests that only dom0 may make.
    pub(super) fn toolstack_request(
        &mut self,
        kind: Kind,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Answer {
        let args = strings(payload).ok_or(Errno::INVAL)?;
        let first = args.first().copied().ok_or(Errno::INVAL)?;
        match kind {
            Kind::Introduce => {
                // Domain, frame and port; there is no ring to map here, so only the first counts.
                let [domid, _, _] = args[..] else {
                    return Err(Errno::INVAL);
                };
                self.introduce(number_as_domid(domid)?, actions);
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
                self.release(domid, actions);
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
