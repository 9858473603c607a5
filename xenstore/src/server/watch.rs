//! Who watches what.

use super::change::Change;
use super::store::grant::Deaths;
use crate::path::{Path, home, upwards};
use crate::perms::Caller;
use std::collections::HashMap;

/// A connection of a client. Its number is never given to another one, and grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

#[derive(Clone, Debug)]
struct Watch {
    conn: ConnId,
    /// Counts registrations: a connection's events of one change come in this order.
    number: u64,
    token: Box<[u8]>,
    /// Registered by a relative path: events carry relative paths too.
    relative: bool,
    /// How many levels below its path it hears of; all if `None`.
    depth: Option<usize>,
}

/// A watch to register.
#[derive(Clone, Copy, Debug)]
pub struct NewWatch<'a> {
    /// Whose.
    pub conn: ConnId,
    /// On what.
    pub path: &'a Path,
    /// Comes back in each event.
    pub token: &'a [u8],
    /// Was it registered by a relative path?
    pub relative: bool,
    /// How many levels below its path it hears of; all if `None`.
    pub depth: Option<usize>,
}

/// An event on its way to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired<'a> {
    /// To whom.
    pub conn: ConnId,
    /// The path, relative if the watch is.
    pub path: &'a [u8],
    /// The watch's token.
    pub token: &'a [u8],
}

/// What a connection's watches take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// How many there are.
    pub count: usize,
    /// Bytes of their paths and tokens.
    pub bytes: usize,
}

#[derive(Debug, Default)]
struct OfConnection {
    watched: Watched,
    /// How many are on each path.
    paths: HashMap<Path, u32>,
}

/// All watches of all connections.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: HashMap<Path, Vec<Watch>>,
    by_connection: HashMap<ConnId, OfConnection>,
    registered: u64,
}

impl Watches {
    /// What a connection has.
    pub fn of(&self, conn: ConnId) -> Watched {
        self.by_connection
            .get(&conn)
            .map(|of| of.watched)
            .unwrap_or_default()
    }

    /// Has the connection this path with this token?
    pub fn has(&self, conn: ConnId, path: &Path, token: &[u8]) -> bool {
        let watches = self.by_path.get(path);
        watches.is_some_and(|all| all.iter().any(|w| w.conn == conn && *w.token == *token))
    }

    /// Adds one.
    pub fn add(&mut self, new: NewWatch<'_>) {
        self.registered += 1;
        let of = self.by_connection.entry(new.conn).or_default();
        of.watched.count += 1;
        of.watched.bytes += new.path.as_str().len() + new.token.len();
        *of.paths.entry(new.path.clone()).or_default() += 1;
        self.by_path
            .entry(new.path.clone())
            .or_default()
            .push(Watch {
                conn: new.conn,
                number: self.registered,
                token: new.token.into(),
                relative: new.relative,
                depth: new.depth,
            });
    }

    /// Removes one, of those that were registered so, if that counts. False: there is none. Only a device has
    /// more than one of a path and token: of these it removes the newest, which is first in Linux' list
    /// (`xenbus_write_watch`, `drivers/xen/xenbus/xenbus_dev_frontend.c`).
    pub fn remove(
        &mut self,
        conn: ConnId,
        path: &Path,
        token: &[u8],
        relative: Option<bool>,
    ) -> bool {
        let Some(watches) = self.by_path.get_mut(path) else {
            return false;
        };
        let index = watches.iter().rposition(|w| {
            w.conn == conn && *w.token == *token && relative.is_none_or(|it| it == w.relative)
        });
        let Some(index) = index else {
            return false;
        };
        watches.remove(index);
        if watches.is_empty() {
            self.by_path.remove(path);
        }
        if let Some(of) = self.by_connection.get_mut(&conn) {
            of.watched.count -= 1;
            of.watched.bytes -= path.as_str().len() + token.len();
            if let Some(count) = of.paths.get_mut(path) {
                *count -= 1;
                if *count == 0 {
                    of.paths.remove(path);
                }
            }
        }
        true
    }

    /// Drops all of a connection's.
    pub fn forget(&mut self, conn: ConnId) {
        let Some(of) = self.by_connection.remove(&conn) else {
            return;
        };
        for path in of.paths.into_keys() {
            if let Some(watches) = self.by_path.get_mut(&path) {
                watches.retain(|w| w.conn != conn);
                if watches.is_empty() {
                    self.by_path.remove(&path);
                }
            }
        }
    }

    /// Is anybody told of a change there, if it may be read? `exact`: of this node alone.
    pub fn concern(&self, path: &str, exact: bool) -> bool {
        let levels = if exact { 1 } else { usize::MAX };
        let is_watched = |path| self.by_path.contains_key(path);
        !self.by_path.is_empty() && upwards(path).take(levels).any(is_watched)
    }

    /// Whom a change concerns: watches on its path and above, of callers who may read there; the
    /// oldest connection's first, and of each the oldest watch first (`fire_watches`).
    pub fn fired<'a>(
        &'a self,
        change: &'a Change,
        deaths: &Deaths,
        caller_of: impl Fn(ConnId) -> Option<Caller>,
        to_everybody: bool,
    ) -> Vec<Fired<'a>> {
        let mut found: Vec<(&Watch, Caller)> = Vec::new();
        let levels = if change.exact { 1 } else { usize::MAX };
        for (level, path) in upwards(&change.path).take(levels).enumerate() {
            for watch in self.by_path.get(path).into_iter().flatten() {
                if watch.depth.is_some_and(|depth| level > depth) {
                    continue;
                }
                let Some(caller) = caller_of(watch.conn) else {
                    continue;
                };
                let mut readable_by = change.readable_by.iter();
                if readable_by.any(|grant| grant.rights(caller, deaths).reads()) || to_everybody {
                    found.push((watch, caller));
                }
            }
        }
        found.sort_unstable_by_key(|(watch, _)| (watch.conn, watch.number));
        let fired = found.into_iter().map(|(watch, caller)| {
            let within = || change.path.strip_prefix(&*home(caller.domid));
            let relative = watch.relative.then(within).flatten();
            let path = relative.and_then(|rest| rest.strip_prefix('/'));
            Fired {
                conn: watch.conn,
                path: path.unwrap_or(&change.path).as_bytes(),
                token: &watch.token,
            }
        });
        fired.collect()
    }
}
