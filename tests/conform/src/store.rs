//! xenstore as its rules need it: what requests must end with, a place of one's own to write to,
//! and the partner's hand in the store.

use super::actor::{Answer, Order};
use super::bench::{Bench, Partner};
use super::{Outcome, Stop};
use libgnt::Platform;
use pv_xenstore::{Client, Error, Permission};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

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

/// What the partner can be told to do in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoreOrder {
    /// Read a node.
    Read(String),
    /// Write one; what it made is removed when it forgets.
    Write(String, String),
    /// Remove a tree.
    Rm(String),
    /// Replace a node's permissions.
    SetPerms(String, Vec<String>),
}

impl Partner {
    /// Has the partner do something in the store.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn store(&self, order: StoreOrder) -> Outcome<Reply> {
        match self.ask(&Order::Store(order))? {
            Answer::Bytes(bytes) => Ok(Ok(bytes)),
            Answer::Refused(Some(errno), _) => Ok(Err(Errno::from_raw_os_error(errno))),
            other => Err(Stop::Broken(format!(
                "an answer of the partner's: {other:?}"
            ))),
        }
    }
}

/// An actor's connection, and what it has made.
#[derive(Debug)]
pub struct StoreHand {
    client: Client,
    made: Vec<String>,
}

impl StoreHand {
    pub(super) fn new(platform: &dyn Platform) -> pv_xenstore::Result<StoreHand> {
        Ok(StoreHand {
            client: Client::connect(platform)?,
            made: Vec::new(),
        })
    }

    pub(super) fn perform(&mut self, order: StoreOrder) -> pv_xenstore::Result<Vec<u8>> {
        match order {
            StoreOrder::Read(path) => return self.client.read(&path),
            StoreOrder::Write(path, value) => {
                self.client.write(&path, value)?;
                self.made.push(path);
            }
            StoreOrder::Rm(path) => self.client.rm(&path)?,
            StoreOrder::SetPerms(path, perms) => {
                let parsed: Result<Vec<Permission>, _> = perms.iter().map(|p| p.parse()).collect();
                let perms = parsed.map_err(|error| Error::Invalid(error.to_string()))?;
                self.client.set_perms(&path, &perms)?;
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for StoreHand {
    fn drop(&mut self) {
        for path in &self.made {
            // Gone with a parent, or with its owner: as good.
            let _ = self.client.rm(path);
        }
    }
}
