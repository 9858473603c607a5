//! Watches that end with their owner.

use super::events::{ROUTED, WatchEvent};
use super::handle::Client;
use crate::error::{Error, Result};
use crate::wire::Kind;
use std::time::{Duration, Instant};

/// Watched paths, with a queue of events of their own, in which equal ones are one. Dropped, the watches end: UNWATCH is
/// sent without waiting for its answer, and whatever event still comes is dropped.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    paths: Vec<String>,
    token: String,
}

impl Client {
    /// Watches a node and all below it, or `@introduceDomain`, `@releaseDomain` and the like
    /// ([`crate::path`]).
    ///
    /// # Errors
    /// As [`Client::watch`]; none for the token, which is chosen anew.
    pub fn watching(&self, path: &str) -> Result<Watch> {
        self.watching_all(&[path])
    }

    /// Watches several paths; their events come in one queue.
    ///
    /// # Errors
    /// As [`Client::watching`]. Then none of them is watched.
    pub fn watching_all<P: AsRef<str>>(&self, paths: &[P]) -> Result<Watch> {
        let mut watch = Watch::new(self);
        for path in paths {
            let path = path.as_ref();
            watch.add(path, |token| self.watch(path, token))?;
        }
        Ok(watch)
    }

    /// As [`Client::watching`], with a depth ([`Client::watch_to_depth`]).
    ///
    /// # Errors
    /// As [`Client::watch_to_depth`].
    pub fn watching_to_depth(&self, path: &str, depth: u32) -> Result<Watch> {
        let mut watch = Watch::new(self);
        watch.add(path, |token| self.watch_to_depth(path, token, depth))?;
        Ok(watch)
    }
}

impl Watch {
    fn new(client: &Client) -> Watch {
        let token = format!("{ROUTED}{:016x}", fastrand::u64(..));
        // Before it is asked for: its first event may come before the answer.
        client.connection().open_route(&token);
        Watch {
            client: client.clone(),
            paths: Vec::new(),
            token,
        }
    }

    fn add(&mut self, path: &str, watch: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        let watched = watch(&self.token);
        // What was not answered in time may be registered all the same.
        if matches!(watched, Ok(()) | Err(Error::Timeout { .. })) {
            self.paths.push(path.to_owned());
        }
        watched
    }

    /// What is watched.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The next event, without waiting. `None`: nothing more has come so far.
    ///
    /// # Errors
    /// [`Error::EventsLost`], once each time it happens; [`Error::Disconnected`].
    pub fn try_next(&self) -> Result<Option<WatchEvent>> {
        self.client.connection().next_event(Some(&self.token))
    }

    /// The next event; waits for it. `None`: the time is over.
    ///
    /// # Errors
    /// As [`Watch::try_next`].
    pub fn next(&self, timeout: Duration) -> Result<Option<WatchEvent>> {
        let deadline = Instant::now() + timeout;
        let connection = self.client.connection();
        connection.wait_event(Some(&self.token), deadline)
    }

    /// Are there events that a request has read already?
    pub fn has_events(&self) -> bool {
        self.client.connection().has_events(Some(&self.token))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let connection = self.client.connection();
        connection.close_route(&self.token);
        for path in &self.paths {
            let payload = [path.as_bytes(), b"\0", self.token.as_bytes(), b"\0"].concat();
            connection.tell(Kind::Unwatch, 0, payload);
        }
    }
}
