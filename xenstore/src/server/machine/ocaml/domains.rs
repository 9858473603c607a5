//! Domains that come and go, the requests of a toolstack, and CONTROL.

use super::super::super::ocaml::books::{Ring, forget_domain};
use super::super::super::ocaml::store::is_dom0;
use super::super::super::ocaml::text;
use super::super::super::ocaml::transaction::{Response, Transaction};
use super::super::super::store::Tree;
use super::super::super::watch::ConnId;
use super::super::{Action, Server};
use super::Answer;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use crate::perms::Caller;
use crate::wire::{Kind, Packet};
use libgnt::DomId;
use rustix::io::Errno;

/// What dom0's own ring is.
const DOM0: Ring = Ring { frame: 0, port: 1 };

impl Server {
    pub(super) fn ocaml_toolstack_request(
        &mut self,
        caller: Caller,
        kind: Kind,
        payload: &[u8],
        inside: &mut Option<Transaction>,
        actions: &mut Vec<Action>,
    ) -> Answer {
        if !is_dom0(caller) {
            return Err(Errno::ACCESS.into());
        }
        let args = text::split_all(payload);
        match (kind, &args[..]) {
            (Kind::Introduce, [domid, frame, port, ..]) => {
                // They are read from behind.
                let port = text::number(port).ok_or(Errno::INVAL)?;
                let frame = text::native(frame).ok_or(Errno::IO)?;
                let domid = text::number(domid).ok_or(Errno::INVAL)?;
                let tree = inside.as_ref().map(|inside| inside.tree.clone());
                let domid = text::domain(domid).ok_or(Errno::INVAL)?;
                self.ocaml_introduce(domid, Ring { frame, port }, tree, actions)
            }
            (Kind::Release, [domid, b""]) => {
                // Whatever number it is, all nodes become new ones.
                let domid = text::domain(text::number(domid).ok_or(Errno::INVAL)?);
                let was = domid.is_some_and(|domid| self.ocaml_take_away(domid, actions));
                let (tree, counts) = match inside {
                    Some(inside) => {
                        inside.renewed = true;
                        (&mut inside.tree, &mut inside.counts)
                    }
                    None => {
                        self.ocaml.deaths += 1;
                        (&mut self.tree, &mut self.ocaml.counts)
                    }
                };
                if let Some(domid) = domid {
                    forget_domain(tree, domid);
                    if self.settings.daemon.counts_anew() {
                        counts.forget(domid);
                    }
                }
                if !was {
                    return Err(Errno::INVAL.into());
                }
                let tree = inside.as_ref().map_or(&self.tree, |inside| &inside.tree);
                self.ocaml_fire_special(RELEASE_DOMAIN, tree, actions);
                Ok(Response::Done)
            }
            (Kind::IsDomainIntroduced, [domid, ..]) => {
                let domid = text::number(domid).ok_or(Errno::INVAL)?;
                let is = domid == i64::from(DomId::SELF.0)
                    || text::domain(domid).is_some_and(|it| self.is_introduced(it));
                Ok(Response::Data(if is { b"T\0" } else { b"F\0" }.to_vec()))
            }
            (Kind::Resume, [domid, ..]) => {
                let domid = text::number(domid).ok_or(Errno::INVAL)?;
                match text::domain(domid).is_some_and(|it| self.is_introduced(it)) {
                    true => Ok(Response::Done),
                    false => Err(Errno::INVAL.into()),
                }
            }
            (Kind::SetTarget, [domid, target, b""]) => {
                let domid = text::domain(text::digits(domid));
                let domid = domid.filter(|it| self.is_introduced(*it));
                // Any number may be a target; what is none of a domain owns nothing.
                let target = u16::try_from(text::digits(target)).unwrap_or(u16::MAX);
                self.targets
                    .insert(domid.ok_or(Errno::NOENT)?, DomId(target));
                Ok(Response::Done)
            }
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// There is no ring to map here: whoever could be a domain is one.
    fn ocaml_introduce(
        &mut self,
        domid: DomId,
        ring: Ring,
        tree: Option<Tree>,
        actions: &mut Vec<Action>,
    ) -> Answer {
        let known = match domid {
            DomId::DOM0 => Some(DOM0),
            _ if self.is_introduced(domid) => self.ocaml.rings.get(&domid).copied(),
            _ => {
                self.introduced.insert(domid);
                self.turnover += 1;
                let tree = tree.unwrap_or_else(|| self.tree.clone());
                self.ocaml_fire_special(INTRODUCE_DOMAIN, &tree, actions);
                None
            }
        };
        // Another event channel on the same page is taken.
        if known.is_some_and(|known| known.frame != ring.frame) {
            return Err(Errno::INVAL.into());
        }
        self.ocaml.rings.insert(domid, ring);
        Ok(Response::Done)
    }

    /// A domain exists from now on, whoever says so.
    pub(in super::super) fn ocaml_come(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if self.introduced.insert(domid) {
            self.turnover += 1;
            self.ocaml_fire_special(INTRODUCE_DOMAIN, &self.tree.clone(), actions);
        }
    }

    /// A domain has died.
    pub(in super::super) fn ocaml_die(&mut self, domid: DomId, actions: &mut Vec<Action>) {
        if domid != DomId::DOM0 && self.ocaml_take_away(domid, actions) {
            self.ocaml.deaths += 1;
            forget_domain(&mut self.tree, domid);
            if self.settings.daemon.counts_anew() {
                self.ocaml.counts.forget(domid);
            }
            self.ocaml_fire_special(RELEASE_DOMAIN, &self.tree.clone(), actions);
        }
    }

    /// Its connections are closed. False: it was not there. dom0 stays.
    fn ocaml_take_away(&mut self, domid: DomId, actions: &mut Vec<Action>) -> bool {
        if domid == DomId::DOM0 || !self.introduced.remove(&domid) {
            return false;
        }
        self.turnover += 1;
        let closed = self.by_domain.get(&domid).cloned().unwrap_or_default();
        let closed: Vec<ConnId> = closed.into_iter().collect();
        for conn in &closed {
            self.forget(*conn);
        }
        actions.extend(closed.into_iter().map(Action::Close));
        self.targets.remove(&domid);
        self.ocaml.rings.remove(&domid);
        self.own.forget(domid);
        true
    }

    fn ocaml_fire_special(&self, name: &str, tree: &Tree, actions: &mut Vec<Action>) {
        let caller_of = |watch: &_| self.ocaml_caller_of(watch);
        for watch in self.ocaml.special(name, tree, caller_of) {
            let packet = Packet::watch_event(&watch.path, &watch.token);
            actions.push(Action::Event(watch.conn, packet));
        }
    }

    /// What it does not know it has done: OK to whatever is asked. Live update is not here.
    pub(super) fn ocaml_control(
        &self,
        caller: Caller,
        payload: &[u8],
        inside: Option<&Transaction>,
    ) -> Response {
        let args = text::split_all(payload);
        let introduced = |text: &[u8]| {
            let domid = text::number(text).and_then(text::domain)?;
            self.is_introduced(domid).then_some(domid)
        };
        match &args[..] {
            _ if !is_dom0(caller) => Response::Done,
            [b"print", text, ..] => {
                tracing::info!(text = %text.escape_ascii(), "print");
                Response::Done
            }
            [b"quota", domid, ..] => match text::number(domid) {
                Some(number) => {
                    let counts = inside.map_or(&self.ocaml.counts, |inside| &inside.counts);
                    let domid = u16::try_from(number).ok().map(DomId);
                    let most = self.settings.quotas.nodes;
                    let text = match domid.and_then(|domid| counts.get(domid)) {
                        None => format!("dom{number} quota: not set\0"),
                        Some(nodes) => format!("dom{number} quota: {nodes}/{most}\0"),
                    };
                    Response::Data(text.into_bytes())
                }
                None => Response::Done,
            },
            [b"mfn", domid, ..] => {
                let ring = introduced(domid).and_then(|domid| self.ocaml.rings.get(&domid));
                match ring {
                    Some(ring) => Response::Data(format!("{}\0", ring.frame).into_bytes()),
                    None => Response::Done,
                }
            }
            [b"live-update", b"-a", ..] => Response::Done,
            [b"live-update", ..] => Response::Data(b"there is no live update\0".to_vec()),
            _ => Response::Done,
        }
    }
}
