//! The requests about watches.

use super::super::watch::ConnId;
use super::arguments::{Answer, invalid, ok, two};
use super::{Action, Server};
use crate::path::Path;
use crate::perms::Caller;
use crate::wire::Packet;
use rustix::io::Errno;

impl Server {
    pub(super) fn watch(
        &mut self,
        conn: ConnId,
        caller: Caller,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Answer {
        let [text, token] = two(payload)?;
        let (path, relative) = Path::parse(text, caller.domid).map_err(invalid)?;
        let of_domain = |id| {
            self.connections
                .get(&id)
                .is_some_and(|c| c.domid == caller.domid)
        };
        if !caller.is_privileged() && self.watches.count(of_domain) > self.quotas.watches {
            return Err(Errno::TOOBIG);
        }
        if !self.is_device(conn) && self.watches.has(conn, &path, token) {
            return Err(Errno::EXIST);
        }
        self.watches.add(conn, path, token, relative);
        // The first event says only that the watch stands; it comes whether or not the node is there.
        actions.push(Action::Event(conn, Packet::watch_event(text, token)));
        ok()
    }

    pub(super) fn unwatch(&mut self, conn: ConnId, caller: Caller, payload: &[u8]) -> Answer {
        let [text, token] = two(payload)?;
        let removed = match Path::parse(text, caller.domid) {
            // The device compares the path with those that its file gave it, and knows no error.
            Ok((path, relative)) if self.is_device(conn) => {
                self.watches.remove(conn, &path, token, Some(relative));
                true
            }
            Err(_) if self.is_device(conn) => true,
            Ok((path, _)) => self.watches.remove(conn, &path, token, None),
            // Nobody can watch there, so nobody does.
            Err(_) => false,
        };
        if removed { ok() } else { Err(Errno::NOENT) }
    }

    fn is_device(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|c| c.device)
    }
}
