//! Domains that come and go, and the requests that only dom0 may make.

use super::super::access::{Access, Place, Rules};
use super::super::daemon::Make;
use super::super::watch::ConnId;
use super::arguments::{Answer, domain_number, nul_terminated, number, ok, one, terminated};
use super::{Action, Server};
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use crate::perms::Caller;
use crate::wire::Kind;
use libgnt::DomId;
use rustix::io::Errno;

impl Server {
    /// A domain exists from now on.
    pub(super) fn introduce(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if self.settings.daemon.make() == Make::Ocaml {
            return self.ocaml_come(domid, actions);
        }
        if self.introduced.insert(domid) {
            self.turnover += 1;
            if let Some(rates) = &mut self.rates {
                rates.come(domid, self.now);
            }
            self.fire_special(INTRODUCE_DOMAIN, actions);
        }
    }

    /// A domain is gone: its connections are closed, the nodes it owned removed, others' permissions
    /// for it no longer count, and `@releaseDomain` fires, after the removals.
    pub(super) fn release(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if self.settings.daemon.make() == Make::Ocaml {
            return self.ocaml_die(domid, actions);
        }
        if domid == DomId::DOM0 || !self.introduced.remove(&domid) {
            return;
        }
        self.turnover += 1;
        let closed = self.by_domain.get(&domid).cloned().unwrap_or_default();
        let closed: Vec<ConnId> = closed.into_iter().collect();
        for conn in &closed {
            self.forget(*conn);
        }
        actions.extend(closed.into_iter().map(Action::Close));
        self.targets
            .retain(|stub, target| *stub != domid && *target != domid);
        if let Some(rates) = &mut self.rates {
            rates.go(domid);
        }
        self.own.forget(domid);
        self.highest.forget(domid);
        self.remove_owned(domid, actions);
        self.deaths.note(domid, self.tree.generation());
        self.fire_release(domid, actions);
    }

    fn fire_release(&self, domid: DomId, actions: &mut Vec<Action>) {
        self.fire_special(RELEASE_DOMAIN, actions);
        if self.has_release_of_one() {
            self.fire_special(&format!("{RELEASE_DOMAIN}/{}", domid.0), actions);
        }
    }

    fn remove_owned(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if self.tree.owned_by(domid) == 0 {
            return;
        }
        let mut changes = Vec::new();
        let all = self.tree.subtree("/");
        let mut owned = all.iter().filter(|(_, node)| node.grant().owner() == domid);
        let mut access = Access {
            place: Place::Tree(&mut self.tree),
            caller: Caller::of(DomId::DOM0),
            rules: Rules {
                daemon: self.settings.daemon,
                quotas: &self.settings.quotas,
                deaths: &self.deaths,
            },
            other_bytes: 0,
            watches: &self.watches,
            changes: &mut changes,
            written: &mut self.written,
        };
        let removed = owned.try_for_each(|(path, _)| access.remove_if_there(path));
        if let Err(errno) = removed {
            tracing::error!(%domid, %errno, "a dead domain's nodes stay");
        }
        self.fire(&changes, actions);
    }

    /// A domain's ring page begins anew with each INTRODUCE: its connection has no watches and no
    /// transactions any more (`domain_conn_reset`). Open files of its device have their own.
    fn begin_ring_anew(&mut self, domid: DomId) {
        if domid == DomId::DOM0 {
            return;
        }
        let conns = self.by_domain.get(&domid).into_iter().flatten().copied();
        let is_ring = |conn: &ConnId| self.connections.get(conn).is_some_and(|c| !c.device);
        let rings: Vec<ConnId> = conns.filter(is_ring).collect();
        for conn in rings {
            self.watches.forget(conn);
            self.forget_transactions(conn);
        }
    }

    /// Requests that only dom0 may make.
    pub(super) fn toolstack_request(
        &mut self,
        kind: Kind,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Answer {
        let introduced = &self.introduced;
        let known = |domid: Option<DomId>| domid.filter(|it| introduced.contains(it));
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
                self.begin_ring_anew(domid);
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
            _ => self.control(payload),
        }
    }
}
