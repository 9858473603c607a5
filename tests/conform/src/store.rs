//! xenstore as its rules need it: what requests must end with, a place of one's own to write to,
//! and the partner in the store.

use super::bench::{Bench, Partner};
use super::outcome::{Outcome, Stop, nonsense};
use pv_harness::hand::{Answer, Order, Refusal, StoreOrder};
use pv_xenstore::{Client, Error};
use rustix::io::Errno;

/// What the store says to a request.
pub type Reply = Result<Vec<u8>, Errno>;

impl From<Error> for Stop {
    /// A request failed that the rule says succeeds, unless there is no connection at all.
    fn from(error: Error) -> Stop {
        match error {
            Error::Platform(error) => Stop::from(error),
            Error::Disconnected { .. } | Error::Timeout { .. } => Stop::Broken(error.to_string()),
            _ => Stop::Differs(error.to_string()),
        }
    }
}

/// A request must be refused so.
///
/// # Errors
/// [`Stop::Differs`].
pub fn denied<T: std::fmt::Debug>(
    what: &str,
    result: pv_xenstore::Result<T>,
    with: Errno,
) -> Outcome {
    match result {
        Ok(value) => Err(Stop::Differs(format!(
            "{what} must be {with}, but gave {value:?}"
        ))),
        Err(error) if error.errno() == Some(with) => Ok(()),
        Err(error) => match Stop::from(error) {
            Stop::Differs(error) => Err(Stop::Differs(format!("{what} must be {with}: {error}"))),
            other => Err(other),
        },
    }
}

/// As [`denied`], for a bare reply.
///
/// # Errors
/// [`Stop::Differs`].
pub fn says_no(what: &str, reply: Reply, with: Errno) -> Outcome {
    match reply {
        Err(errno) if errno == with => Ok(()),
        Err(errno) => Err(Stop::Differs(format!("{what} must be {with}, not {errno}"))),
        Ok(bytes) => Err(Stop::Differs(format!(
            "{what} must be {with}, but gave {:?}",
            bytes.escape_ascii().to_string()
        ))),
    }
}

/// A reply that must be no refusal.
///
/// # Errors
/// [`Stop::Differs`].
pub fn says_yes(what: &str, reply: Reply) -> Outcome<Vec<u8>> {
    reply.map_err(|errno| Stop::Differs(format!("{what} must not fail, but: {errno}")))
}

/// A node of the rule's own, in the one directory that a domain may write to. It goes with this.
#[derive(Debug)]
pub struct Scratch {
    client: Client,
    path: String,
}

impl Scratch {
    /// A new, empty node.
    ///
    /// # Errors
    /// [`Stop::Differs`]: refused.
    pub fn new(bench: &Bench) -> Outcome<Scratch> {
        let client = Client::connect(bench.platform())?;
        let path = unique();
        client.write(&path, "")?;
        Ok(Scratch { client, path })
    }

    /// The client that made it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its path, relative.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A path below it, relative.
    pub fn at(&self, below: &str) -> String {
        format!("{}/{below}", self.path)
    }

    /// As the other domain names it.
    pub fn seen_from_afar(&self, bench: &Bench) -> String {
        format!("/local/domain/{}/{}", bench.own().0, self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.client.rm(&self.path) {
            tracing::warn!(%error, "a rule's node stays");
        }
    }
}

/// A path that nobody else uses, relative.
pub fn unique() -> String {
    format!("data/conform-{:08x}", fastrand::u32(..))
}

impl Partner {
    /// Has the partner do something in the store.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn store(&self, order: StoreOrder) -> Outcome<Reply> {
        match self.ask(&Order::Store(order))? {
            Answer::Bytes(bytes) => Ok(Ok(bytes)),
            Answer::Refused(Refusal {
                errno: Some(errno), ..
            }) => Ok(Err(Errno::from_raw_os_error(errno))),
            other => Err(nonsense(&other)),
        }
    }
}
