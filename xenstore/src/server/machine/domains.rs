//! Domains that come and go, and the requests that only dom0 may make.

use super::super::access::Access;
use super::super::watch::ConnId;
use super::arguments::{
    Answer, domain_number, nul_terminated, number, ok, one, terminated,
};
use super::{Action, Connection, Server};
use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::Caller;
use crate::wire::Kind;
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

    /// A domain's ring page begins anew: its connection has no watches and no transactions any more.
    /// Open files of its device have their own.
    fn reset(&mut self, domid: DomId) {
        let of_ring = |c: &&mut Connection| c.domid == domid && domid != DomId::DOM0 && !c.device;
        let rings = self.connections.iter_mut();
        for (conn, ring) in rings.filter(|(_, connection)| of_ring(connection)) {
            self.watches.forget(*conn);
            ring.transactions.clear();
        }
    }

    /// Requests that only dom0 may make.
    pub(super) fn toolstack_request(
        &mut self,
        kind: Kind,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Answer {
        let known = |domid: Option<DomId>| domid.filter(|it| self.introduced.contains(it));
        match kind {
            Kind::Introduce => {
                // Domain, frame and port; there is no ring to map here, so only the first counts.
                let [domid, _, port, ..] = terminated(payload)[..] else {
                    return Err(Errno::INVAL);
                };
                if number(port) <= 0 {
                    return Err(Errno::INVAL);
                }
                let domid = domain_number(domid).ok_or(Errno::INVAL)?;
                self.introduce(domid, actions);
                self.reset(domid);
                ok()
            }
            Kind::Release | Kind::Resume => {
                let text = one(payload)?;
                if number(text) == 0 {
                    return Err(Errno::INVAL);
                }
                let domid = known(domain_number(text)).ok_or(Errno::NOENT)?;
                if kind == Kind::Release {
                    self.release(domid, actions);
                }
                ok()
            }
            Kind::IsDomainIntroduced => {
                let text = one(payload)?;
                let itself = number(text) == i32::from(DomId::SELF.0);
                let is = itself || known(domain_number(text)).is_some();
                Ok(nul_terminated(if is { "T" } else { "F" }))
            }
            Kind::SetTarget => {
                let [domid, target, ..] = terminated(payload)[..] else {
                    return Err(Errno::INVAL);
                };
                let domid = known(domain_number(domid)).ok_or(Errno::NOENT)?;
                let target = known(domain_number(target)).ok_or(Errno::NOENT)?;
                self.targets.insert(domid, target);
                ok()
            }
            Kind::Control => {
                let args = terminated(payload);
                let (first, rest) = args.split_first().ok_or(Errno::INVAL)?;
                self.control(first, rest)
            }
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
