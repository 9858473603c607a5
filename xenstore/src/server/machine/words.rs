//! What goes into the server and comes out, and how it is set.

use super::super::daemon::Daemon;
use super::super::quota::Quotas;
use super::super::rate::WriteRate;
use super::super::watch::ConnId;
use crate::wire::Packet;
use libgnt::DomId;

/// What can happen to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A client is there.
    Connected {
        /// Its number, which no connection has had before.
        conn: ConnId,
        /// The domain whose rights it has.
        domid: DomId,
        /// False: a connection to xenstored itself. True: an open file of the domain's
        /// `/dev/xen/xenbus`, which differs in that a watch may be registered twice, and the end of
        /// one that is not there is no error (`xenbus_write_watch`,
        /// `drivers/xen/xenbus/xenbus_dev_frontend.c`).
        device: bool,
    },
    /// A client is gone. Its watches and its transactions are forgotten.
    Disconnected(ConnId),
    /// A client asks. Whatever the message holds, there is exactly one [`Action::Reply`]: after the
    /// events that it causes, but before the first event of a watch. There is none if the connection
    /// is not known (any more).
    Request(ConnId, Packet),
    /// A domain exists from now on: `@introduceDomain` fires, unless it existed already.
    Introduce(DomId),
    /// A domain is gone: its connections are closed, the nodes that it owned are removed, and
    /// `@releaseDomain` fires, after the removals.
    Release(DomId),
}

/// What the server has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the answer to a request.
    Reply(ConnId, Packet),
    /// Send a watch event. It goes before the reply to the request that caused it; a watch's first one
    /// follows it.
    Event(ConnId, Packet),
    /// Close this connection: its domain is gone. The machine has forgotten it.
    Close(ConnId),
}

/// How the server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Whose answers it gives.
    pub daemon: Daemon,
    /// Limits on domains.
    pub quotas: Quotas,
    /// How fast domains may write into others' transactions; `None`: as fast as they like.
    pub write_rate: Option<WriteRate>,
    /// Broken on purpose.
    pub sabotage: Option<StoreSabotage>,
}

impl From<Quotas> for Settings {
    fn from(quotas: Quotas) -> Settings {
        Settings {
            quotas,
            ..Settings::default()
        }
    }
}

/// Ways to break the server, for tests of those who must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreSabotage {
    /// Transactions commit whatever others have changed since.
    IgnoresConflicts,
    /// Watches fire without a look at permissions.
    TellsEverybody,
}
