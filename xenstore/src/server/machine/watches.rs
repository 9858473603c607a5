//! The requests about watches.

use super::super::watch::{ConnId, NewWatch};
use super::arguments::{Answer, invalid, number, ok, terminated, two};
use super::{Action, Server};
use crate::path::{Limit, Path};
use crate::perms::Caller;
use crate::wire::{PAYLOAD_MAX_BYTES, Packet};
use rustix::io::Errno;

impl Server {
    pub(super) fn watch(
        &mut self,
        conn: ConnId,
        caller: Caller,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Answer {
        let (text, token, depth) = match terminated(payload)[..] {
            [text, token] => (text, token, None),
            [text, token, depth] if self.has_watch_depth() => (text, token, Some(number(depth))),
            _ => return Err(Errno::INVAL),
        };
        let depth = depth
            .map(|depth| usize::try_from(depth).map_err(invalid))
            .transpose()?;
        let limit = self.path_limit(caller);
        let (path, relative) = Path::parse_within(text, caller.domid, limit).map_err(invalid)?;
        if !self.is_device(conn) && self.watches.has(conn, &path, token) {
            return Err(Errno::EXIST);
        }
        if !caller.is_privileged() {
            let quotas = self.quotas_of(caller.domid);
            let mine = self.by_domain.get(&caller.domid).into_iter().flatten();
            let count: usize = mine.map(|conn| self.watches.of(*conn).count).sum();
            if count > quotas.watches {
                return Err(Errno::TOOBIG);
            }
            let bytes = self.usage(caller.domid).memory + path.as_str().len() + token.len();
            if quotas.memory != 0 && bytes >= quotas.memory {
                return Err(Errno::NOMEM);
            }
        }
        self.watches.add(NewWatch {
            conn,
            path: &path,
            token,
            relative,
            depth,
        });
        // The first event says only that the watch stands; it comes whether or not the node is there.
        actions.push(Action::Event(conn, Packet::watch_event(text, token)));
        ok()
    }

    pub(super) fn unwatch(&mut self, conn: ConnId, caller: Caller, payload: &[u8]) -> Answer {
        let [text, token] = two(payload)?;
        let limit = match self.settings.daemon.limits_paths_of_unwatch() {
            true => self.path_limit(caller),
            false => Limit::below_home(PAYLOAD_MAX_BYTES),
        };
        let removed = match Path::parse_within(text, caller.domid, limit) {
            // The device compares the path with those that its file gave it, and knows no error.
            Ok((path, relative)) if self.is_device(conn) => {
                self.watches.remove(conn, &path, token, Some(relative));
                true
            }
            Err(_) if self.is_device(conn) => true,
            Ok((path, _)) => self.watches.remove(conn, &path, token, None),
            Err(_) => return Err(self.settings.daemon.unwatch_of_no_path()),
        };
        if removed { ok() } else { Err(Errno::NOENT) }
    }

    pub(in crate::server) fn is_device(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|c| c.device)
    }
}
