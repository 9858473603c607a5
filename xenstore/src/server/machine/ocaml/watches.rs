//! The requests about watches.

use super::super::super::ocaml::refusal::Refusal;
use super::super::super::ocaml::store::is_dom0;
use super::super::super::ocaml::text;
use super::super::super::ocaml::transaction::Response;
use super::super::super::ocaml::watches::Watch;
use super::super::super::watch::ConnId;
use super::super::{Action, Server};
use super::Answer;
use crate::perms::Caller;
use crate::wire::Packet;
use rustix::io::Errno;

impl Server {
    pub(super) fn ocaml_watch(
        &mut self,
        conn: ConnId,
        caller: Caller,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Answer {
        let [given, token, b""] = text::split_all(payload)[..] else {
            return Err(Errno::INVAL.into());
        };
        let path = text::watched(given, caller.domid)?;
        let most = self.quotas_of(caller.domid).watches;
        if !is_dom0(caller) && self.ocaml.watches.count(conn) > most {
            return Err(Refusal::Quota);
        }
        if !self.is_device(conn) && self.ocaml.watches.has(conn, &path, token) {
            return Err(Errno::EXIST.into());
        }
        let watch = Watch {
            conn,
            domid: caller.domid,
            path: given.to_vec(),
            token: token.to_vec(),
        };
        self.ocaml.watches.add(&path, watch);
        actions.push(Action::Event(conn, Packet::watch_event(given, token)));
        Ok(Response::Done)
    }

    pub(super) fn ocaml_unwatch(&mut self, conn: ConnId, caller: Caller, payload: &[u8]) -> Answer {
        let [given, token, b""] = text::split_all(payload)[..] else {
            return Err(Errno::INVAL.into());
        };
        if given.is_empty() {
            return Err(Errno::INVAL.into());
        }
        let path = text::watched(given, caller.domid);
        // The device compares the path with those that its file gave it, and knows no error.
        let is_device = self.is_device(conn);
        let as_given = is_device.then_some(given);
        let watches = &mut self.ocaml.watches;
        let removed = path.is_ok_and(|path| watches.remove(conn, &path, token, as_given));
        match removed || is_device {
            true => Ok(Response::Done),
            false => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn ocaml_caller_of(&self, watch: &Watch) -> Caller {
        self.caller(watch.domid)
    }
}
