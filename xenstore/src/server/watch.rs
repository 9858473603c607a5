//! Who watches what.

use super::access::Change;
use crate::path::Path;
use crate::perms::Caller;
use crate::wire::PAYLOAD_MAX_BYTES;
use std::collections::BTreeMap;

/// A connection of a client. Its number is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

#[derive(Clone, Debug)]
struct Watch {
    conn: ConnId,
    token: Vec<u8>,
    /// Registered by a relative path: events carry relative paths too.
    relative: bool,
    /// The how manyth watch it is: a connection's watches hear in the order of their registration.
    order: u64,
}

/// An event on its way to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// To whom.
    pub conn: ConnId,
    /// The path, relative if the watch is.
    pub path: Vec<u8>,
    /// The watch's token.
    pub token: Vec<u8>,
}

/// All watches of all connections.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: BTreeMap<Path, Vec<Watch>>,
    registered: u64,
}

impl Watches {
    /// How many a set of connections has.
    pub fn count(&self, of: impl Fn(ConnId) -> bool) -> usize {
        self.by_path
            .values()
            .flatten()
            .filter(|w| of(w.conn))
            .count()
    }

    /// Has the connection this path with this token?
    pub fn has(&self, conn: ConnId, path: &Path, token: &[u8]) -> bool {
        let watches = self.by_path.get(path);
        watches.is_some_and(|all| all.iter().any(|w| w.conn == conn && w.token == token))
    }

    /// Adds one.
    pub fn add(&mut self, conn: ConnId, path: Path, token: &[u8], relative: bool) {
        self.registered += 1;
        self.by_path.entry(path).or_default().push(Watch {
            conn,
            token: token.to_vec(),
            relative,
            order: self.registered,
        });
    }

    /// Removes one, of those that were registered so, if that counts. False: there is none.
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
        let index = watches.iter().position(|w| {
            w.conn == conn && w.token == token && relative.is_none_or(|it| it == w.relative)
        });
        let Some(index) = index else {
            return false;
        };
        watches.remove(index);
        if watches.is_empty() {
            self.by_path.remove(path);
        }
        true
    }

    /// Drops all of a connection's.
    pub fn forget(&mut self, conn: ConnId) {
        self.by_path.retain(|_, watches| {
            watches.retain(|w| w.conn != conn);
            !watches.is_empty()
        });
    }

    /// Whom a change concerns: watches on its path and above, of callers who may read there, in the
    /// order of their registration.
    pub fn fired(
        &self,
        change: &Change,
        caller_of: impl Fn(ConnId) -> Option<Caller>,
        to_everybody: bool,
    ) -> Vec<Fired> {
        let mut fired = Vec::new();
        for above in change.path.ancestors() {
            if change.exact && above != change.path {
                break;
            }
            for watch in self.by_path.get(&above).into_iter().flatten() {
                let Some(caller) = caller_of(watch.conn) else {
                    continue;
                };
                let mut readable_by = change.readable_by.iter();
                let readable = readable_by.any(|perms| perms.rights(caller).reads());
                if !readable && !to_everybody {
                    continue;
                }
                let path = if watch.relative {
                    change.path.relative_to(caller.domid)
                } else {
                    change.path.as_str()
                };
                // A token may be so long that not every event fits in a message: that one is not
                // sent (`send_event`, `tools/xenstore/xenstored_core.c`).
                if path.len() + watch.token.len() + 2 > PAYLOAD_MAX_BYTES {
                    continue;
                }
                let event = Fired {
                    conn: watch.conn,
                    path: path.as_bytes().to_vec(),
                    token: watch.token.clone(),
                };
                fired.push((watch.order, event));
            }
        }
        fired.sort_unstable_by_key(|(order, _)| *order);
        fired.into_iter().map(|(_, event)| event).collect()
    }
}
